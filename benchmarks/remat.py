"""FLOPs over the least there can be, and memory, by what the backward pass computes again.

    python -m benchmarks.remat --out docs/benchmarks.md

Counted in the update as the TPU compiler of libtpu made it, for chips that are not there: no time
is measured, and no noise. A microbatch is one row a chip.
"""

import argparse
import dataclasses
import importlib.metadata
import sys
from collections.abc import Sequence

from benchmarks import report
from configs import torl_1p5b, torl_7b
from torl_jax import config
from torl_jax.errors import UserError
from torl_jax.planning import programs, topology
from torl_jax.planning.chips import GIB
from torl_jax.planning.measure import Measured, measure

RECIPES = {"torl_1p5b": torl_1p5b, "torl_7b": torl_7b}
CASES = ("torl_1p5b@v5p:2x2x1", "torl_1p5b@v5e:2x2", "torl_7b@v5p:2x2x1")
TARGETS = {"none": 1.05, "full": 1.38}
ONE = programs.Load(prompt=0, response=0, microbatches=1)


@dataclasses.dataclass(frozen=True)
class Case:
    """One compiled update; work of one microbatch, least: its FLOPs by arithmetic."""

    remat: str
    chunk: int
    least: float
    found: Measured


def compiled(recipe: str, target: topology.Slice, remat: str, chunk: int = 0) -> Case:
    """The update of a recipe whose microbatch is a row a chip; `chunk` 0: the recipe's own."""
    raw = RECIPES[recipe].get_config().to_dict()
    # Rows of one length: what shorter ones add is not part of a whole microbatch.
    raw["learner"] |= {"remat": remat, "microbatch_rows": target.devices, "rungs": 1}
    if chunk:
        raw["learner"]["head_chunk"] = chunk
    raw["sampler"]["tp"] = 1
    cfg = config.parse(raw)
    shape, vocab = programs.architecture(cfg.model)
    devices = topology.devices(target)
    run = programs.Run(cfg, shape, vocab, devices, topology.devices(target.host))
    found = measure(run, programs.UPDATE, ONE)
    return Case(remat, cfg.learner.head_chunk, run.model_flops(ONE), found)


def cases(recipe: str, target: topology.Slice) -> list[Case]:
    """Each policy; and the recipe's with the logits of a whole row at once."""
    row = RECIPES[recipe].get_config().learner.row_tokens
    each = [(remat, 0) for remat in ("none", "dots", "full")] + [("full", row)]
    out = []
    for remat, chunk in each:
        out.append(compiled(recipe, target, remat, chunk))
        print(recipe, target.name, *line(out[-1], target), flush=True, file=sys.stderr)
    return out


def line(case: Case, target: topology.Slice) -> list[str]:
    """A row of the table."""
    found = case.found
    share = f"{found.needed / GIB:.1f}"
    if found.wanted:
        return [case.remat, str(case.chunk), "", "", "", f"{share}, refused", "", ""]
    own = found.argument + found.output + found.temporary + found.code
    ratio = found.flops / case.least
    limit = TARGETS.get(case.remat, 0)
    verdict = f"at most {limit}: {'met' if ratio <= limit else 'MISSED'}" if limit else ""
    return [
        case.remat,
        str(case.chunk),
        f"{found.flops / 1e12:.2f}",
        f"{ratio:.3f}",
        verdict,
        f"{own / GIB:.1f} of {target.chip.usable_gib:g}",
        f"{found.bytes / 1e9:.0f}",
        f"{found.least(target.chip) * 1e3:.0f} ms",
    ]


def body(chosen: Sequence[str]) -> str:
    """The whole section. UserError where the compiler is not installed."""
    table = []
    for name in chosen:
        recipe, _, where = name.partition("@")
        target = topology.parse(where)
        topology.prepare(target)
        lines = [line(case, target) for case in cases(recipe, target)]
        table += [["" if i else name.replace("@", ", "), *cells] for i, cells in enumerate(lines)]
    head = [
        "recipe, chips", "remat", "head chunk", "TFLOP", "over the least", "target", "GiB",
        "GB moved", "least time",
    ]  # fmt: skip
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu")]
    return "\n\n".join([
        f"`{report.command(MODULE)}`; {', '.join(versions)}. Each chip has a row of "
        f"{torl_1p5b.get_config().learner.row_tokens} tokens; FLOPs, bytes and memory are of one "
        "chip and one microbatch, the optimiser's step with it.",
        "The least: for each token two FLOPs of each weight that it is multiplied by (the blocks' "
        "and the head's), and causal attention in its row, 2 T H a head; twice as much backward. "
        "GiB: arguments, temporaries and code. Least time: FLOPs, bytes or network at the chip's "
        "peak, whichever takes longest.",
        report.table(head, table),
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cases", nargs="+", default=CASES, help="RECIPE@TOPOLOGY")
    parser.add_argument("--out", type=report.holding("remat"), help="a file with this section")
    args = parser.parse_args()
    try:
        text = body(args.cases)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.out is None:
        print(text)
    else:
        report.write_section(args.out, "remat", text)
    return 0


MODULE = "benchmarks.remat"

if __name__ == "__main__":
    sys.exit(main())
