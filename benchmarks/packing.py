"""How much of what is sent to the devices are tokens, by how episodes are put into rows.

    python -m benchmarks.packing --out docs/benchmarks.md

Counted, not timed: of all places of all rows of a step, the empty rows of its last microbatch
among them, those that hold a token of an episode. Lengths are ToRL's, from seeds.
"""

import argparse
import dataclasses
import math
import random
import sys
from collections.abc import Callable, Sequence

from benchmarks import report
from benchmarks.latency.workload import CAP, MEAN, SIGMA, scripts
from configs import torl_1p5b, torl_7b
from torl_jax.rl import packing

# A problem's prompt, as ToRL's own test file has them in the tokens of Qwen2.5: lognormal too.
PROMPT_MEAN, PROMPT_SIGMA, PROMPT_LEAST, PROMPT_CAP = 165, 0.46, 60, 390
SEEDS = 20
LANE = 128  # what a width is rounded up to where it is not fixed
CALLS = 3


@dataclasses.dataclass(frozen=True)
class Sent:
    """What a step sends: microbatches, the lengths that their rows have, places in all."""

    microbatches: int
    lengths: frozenset[int]
    places: int


# (lengths of the episodes, T, rows of a microbatch) -> what is sent.
Packer = Callable[[Sequence[int], int, int], Sent]


def lengths_of(problems: int, samples: int, seed: int) -> list[int]:
    """Tokens of each episode of a step, prompt and response with what tools put in."""
    draw = random.Random(f"{seed} prompts")
    mu = math.log(PROMPT_MEAN) - PROMPT_SIGMA**2 / 2
    prompts = [round(draw.lognormvariate(mu, PROMPT_SIGMA)) for _ in range(problems)]
    prompts = [min(max(prompt, PROMPT_LEAST), PROMPT_CAP) for prompt in prompts]
    written = [script.tokens for script in scripts(problems * samples, CALLS, seed)]
    return [prompts[i // samples] + tokens for i, tokens in enumerate(written)]


def padded(lengths: Sequence[int], row_tokens: int, rows: int) -> Sent:
    """A row each, as long as rows may be."""
    return _alike([len(lengths)], [row_tokens], rows)


def to_longest(lengths: Sequence[int], row_tokens: int, rows: int) -> Sent:
    """A row each, as long as the longest of this step."""
    return _alike([len(lengths)], [-(-max(lengths) // LANE) * LANE], rows)


def to_buckets(lengths: Sequence[int], row_tokens: int, rows: int) -> Sent:
    """A row each, of the shortest of four lengths that holds it."""
    widths = packing.ladder(row_tokens, 4)
    fit = [min(width for width in widths if width >= n) for n in lengths]
    return _alike([fit.count(width) for width in widths], widths, rows)


def packed(rungs: int) -> Packer:
    """Ours."""

    def run(lengths: Sequence[int], row_tokens: int, rows: int) -> Sent:
        widths = packing.ladder(row_tokens, rungs)
        found = [widths[rung] for rung in packing.pack(lengths, widths, rows).rungs]
        return Sent(len(found), frozenset(widths), rows * sum(found))

    return run


def _alike(counts: Sequence[int], widths: Sequence[int], rows: int) -> Sent:
    """So many rows of each width, in whole microbatches."""
    each = [-(-count // rows) for count in counts]
    places = sum(rows * n * width for n, width in zip(each, widths, strict=True))
    return Sent(sum(each), frozenset(widths), places)


def share(lengths: Sequence[int], row_tokens: int, rungs: int, rows: int) -> float:
    """Of the places that ours sends, those that hold tokens."""
    return sum(lengths) / packed(rungs)(lengths, row_tokens, rows).places


WAYS: dict[str, Packer] = {
    "padded to the limit": padded,
    "padded to the longest": to_longest,
    "padded to buckets": to_buckets,
    "first-fit decreasing": packed(1),
    "the same, 2 row lengths": packed(2),
    "the same, 3 row lengths": packed(3),
}


def rows_of(step: str, each: Sequence[Sequence[int]], row_tokens: int, rows: int, rungs: int):
    """Lines of the table: steps of these lengths, each way; `rungs`: of the recipe, 0 for none."""
    for i, (way, packer) in enumerate(WAYS.items()):
        sent = [packer(lengths, row_tokens, rows) for lengths in each]
        found = [100 * sum(n) / s.places for n, s in zip(each, sent, strict=True)]
        own = ", as the recipe has it" if rungs and packer is list(WAYS.values())[2 + rungs] else ""
        yield [
            "" if i else step,
            way + own,
            report.spread([one.microbatches for one in sent]),
            str(len({length for one in sent for length in one.lengths})),
            report.spread(found, 1),
        ]


def body() -> str:
    """The whole section."""
    T, table = torl_1p5b.get_config().learner.row_tokens, []
    for name, recipe in (("torl_1p5b", torl_1p5b), ("torl_7b", torl_7b)):
        learner, rl = recipe.get_config().learner, recipe.get_config().rl
        problems, samples, rows = rl.problems_per_step, rl.group_size, learner.microbatch_rows
        each = [lengths_of(problems, samples, seed) for seed in range(SEEDS)]
        step = f"{name}: {problems} x {samples}, {rows} rows"
        table += rows_of(step, each, learner.row_tokens, rows, learner.rungs)
    each = [lengths_of(8, 8, seed) for seed in range(SEEDS)]
    for rows in (16, 8, 4):
        table += rows_of(f"small: 8 x 8, {rows} rows", each, T, rows, 0)
    head = ["step", "packer", "microbatches", "row lengths compiled", "tokens, % of places"]
    return "\n\n".join([
        f"`{report.command(MODULE)}`: median (range) of {SEEDS} steps, each from its seed.",
        f"Responses lognormal (sigma {SIGMA}), mean {MEAN}, at most {CAP} tokens with what up to "
        f"{CALLS} calls put in; prompts lognormal (sigma {PROMPT_SIGMA}), mean {PROMPT_MEAN}, "
        f"{PROMPT_LEAST} to {PROMPT_CAP}. Rows of {T} tokens, or halves and quarters of that.",
        report.table(head, table),
        "Eight problems of eight samples on sixteen devices cannot be full: the longest episode "
        "takes one device longer than an even share would.",
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=report.holding("packing"), help="a file with this section")
    args = parser.parse_args()
    text = body()
    if args.out is None:
        print(text)
    else:
        report.write_section(args.out, "packing", text)
    return 0


MODULE = "benchmarks.packing"

if __name__ == "__main__":
    sys.exit(main())
