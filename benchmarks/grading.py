"""How many answers a second the grader grades on one core, on the golds of MATH.

  python -m benchmarks.grading --problems ../shared/data/math/math_level3to5_train.parquet

Problems are drawn with their golds as they come, whole numbers three in five. Each kind of answer
goes through a `Grader` of its own with one worker, all at once:

copied     the gold's own text
spelled    the same in other letters: 7.0 for 7, \\dfrac for \\frac, brackets that grow
a slip     its last digit is another
another's  the gold of the problem before
a group    of 16 answers to one problem in 16: 6 copied, 4 spelled, 4 a slip, 2 another's

Seconds are CPU time of the grader's worker and of this process, so that neighbours on the
machine count little; the worker has started and has seen no answer before.
"""

import argparse
import os
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import processes
from benchmarks.report import (
    ReportError,
    command,
    conditions,
    count,
    holding,
    spread,
    table,
    write_section,
)
from torl_jax.data.sources import scan
from torl_jax.rewards.answer import Grader

MODULE = "benchmarks.grading"
PROBLEMS = Path("../shared/data/math/math_level3to5_train.parquet")
TARGET = 300  # answers a second and core
WHOLE = re.compile(r"-?[0-9]+")
LAST_DIGIT = re.compile(r"[0-9](?=[^0-9]*\Z)")
KINDS = ("copied", "spelled", "a slip", "another's")
GROUP = (6, 4, 4, 2)  # of each kind
Pairs = list[tuple[str, str]]  # gold, answer


def golds(path: Path, count: int, seed: int) -> list[str]:
    """The golds of `count` problems, drawn. Raises ReportError."""
    if not path.is_file():
        raise ReportError(f"{path}: no such file; --problems names a file of problems and golds")
    found = [problem.answer.strip() for problem in scan(path)[0]]
    return random.Random(seed).sample(found, min(count, len(found)))


def spelled(gold: str) -> str:
    """Another text for the same answer."""
    if WHOLE.fullmatch(gold):
        return f"{gold}.0"
    grown = gold.replace("\\frac", "\\dfrac").replace("(", "\\left(").replace(")", "\\right)")
    return grown if grown != gold else f"{{{gold}}}"


def slip(gold: str) -> str:
    """The gold with another last digit; where it has none, 2."""
    changed = LAST_DIGIT.sub(lambda digit: str((int(digit[0]) + 1) % 10), gold)
    return changed if changed != gold else "2"


def answers(drawn: Sequence[str]) -> dict[str, Pairs]:
    """Pairs of each kind."""
    before = [drawn[-1], *drawn[:-1]]
    columns = (drawn, map(spelled, drawn), map(slip, drawn), before)
    kinds = {
        kind: list(zip(drawn, column, strict=True))
        for kind, column in zip(KINDS, columns, strict=True)
    }
    few = range(-(-len(drawn) // sum(GROUP)))
    parts = list(zip(KINDS, GROUP, strict=True))
    kinds["a group"] = [kinds[kind][n] for n in few for kind, count in parts for _ in range(count)]
    return kinds


def rate(pairs: Pairs) -> tuple[float, int, int]:
    """(answers a second of CPU time, how many were right, how many a worker compared)."""
    with Grader(workers=1) as grader:
        grader.submit("0.5", "\\boxed{1/2}").result()
        before, start = grader.counts.copy(), processes.cpu_seconds(os.getpid())
        asked = [grader.submit(gold, f"\\boxed{{{answer}}}") for gold, answer in pairs]
        right = sum(future.result().correct for future in asked)
        # A clock that ticks a hundred times a second; what took no tick took less than one.
        seconds = max(processes.cpu_seconds(os.getpid()) - start, 1 / processes.TICK)
        return len(pairs) / seconds, right, (grader.counts - before)["compared"]


def measure(kinds: dict[str, Pairs], rounds: int) -> list[list[str]]:
    """A row for each kind; its rounds are interleaved with the others'."""
    found = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, pairs in kinds.items():
            found[kind].append(rate(pairs))
    rows = []
    for kind, pairs in kinds.items():
        rates, right, compared = zip(*found[kind], strict=True)
        verdict = "met" if sorted(rates)[len(rates) // 2] >= TARGET else "MISSED"
        share, asked = right[0] / len(pairs), compared[0] / len(pairs)
        rows.append(
            [kind, f"{len(pairs):,}", f"{share:.1%}", f"{asked:.1%}", spread(rates),
             f"at least {TARGET}: {verdict}"]
        )  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--problems", type=Path, default=PROBLEMS)
    parser.add_argument("--count", type=count, default=2000, help="problems that are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--out", type=holding("grading"), help="a file with this section")
    args = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    try:
        drawn = golds(args.problems, args.count, args.seed)
        rows = measure(answers(drawn), args.rounds)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    head = ["answers", "count", "right", "by a worker", "answers a second a core (range)", "target"]
    facts = conditions(load, "math-verify", "sympy")
    body = f"`{command(MODULE)}`, {args.rounds} rounds. {facts}\n\n{table(head, rows)}"
    if args.out is None:
        print(body)
    else:
        write_section(args.out, "grading", body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
