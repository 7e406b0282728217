r"""Finds gold answers that no answer can be graded against, before anything is trained on them.

    python -m torl_jax.data.check FILE [FILE ...] [--schema=NAME] [--workers=N] [--json]
    python -m torl_jax.data.check FILE [FILE ...] --calls [--live] [--thoughts=drop] [--json]

Every gold must be read by the grader and be equal to itself as an expression, without the
shortcut that equal text is equal; else only its very spelling would be right. With --calls
golds are ToolRL's tool calls: each must be readable and score itself as right. Prints what
does not, with the rows that the reader refuses, and says on stderr where --calls is missing. FILE
may also be a data set on the hub. Exit code 0 whatever is found, 2 for a file that cannot be read.
"""

import collections
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from typing import Any, Literal

from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from torl_jax import cli, logs
from torl_jax.data import sources
from torl_jax.data.schemas import SCHEMAS, TURN
from torl_jax.data.sources import BadRow
from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.rewards import shapes, structured, toolrl
from torl_jax.rewards.answer import Check, Grader
from torl_jax.rewards.calls import split_steps

# ASCII digits with at most a sign and a decimal point: the parser's grammar has them as one
# token, which becomes one sympy number, and a number equals itself. So no worker is asked
# (tests/data/test_check.py asks one). Longer ones reach Python's limit on digits.
PLAIN = re.compile(r"-?[0-9]{1,200}(?:\.[0-9]{1,200})?")
NAMED = 5  # golds in an error
UNREAD, UNEQUAL = "does not parse", "unequal to itself"

Choice = Literal["exclude", "keep", "error"]


@dataclasses.dataclass(frozen=True)
class BadGold:
    """A problem whose gold answer is of no use to the grader, and why."""

    id: str
    gold: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in a file; `distinct` golds, of which `plain` are mere numbers."""

    file: str
    problems: int
    distinct: int
    plain: int
    seconds: float
    bad: list[BadGold]
    rows: list[BadRow]


def golds(
    problems: Sequence[Problem], grader: Grader, done: Callable[[int, int], None] | None = None
) -> list[BadGold]:
    """The problems with a bad gold, in order; each different gold is looked at once.

    `done(golds looked at, of how many)` is called as they come. Raises as Grader.submit.
    """
    asked = {}
    for gold in dict.fromkeys(problem.answer for problem in problems):
        if not PLAIN.fullmatch(gold.strip()):
            asked[gold] = grader.submit_check(gold)
    for count, _ in enumerate(as_completed(asked.values()), start=1):
        if done is not None:
            done(count, len(asked))
    reasons = {gold: _reason(future.result()) for gold, future in asked.items()}
    return [
        BadGold(problem.id, problem.answer, reason)
        for problem in problems
        if (reason := reasons.get(problem.answer, ""))
    ]


def calls(
    problems: Sequence[Problem], thoughts: Literal["keep", "drop"], *, live: bool = False
) -> list[BadGold]:
    """The problems whose gold tool calls are malformed, or do not score themselves as right.

    `thoughts`: see `structured.gold_of`. `live`: golds may have several steps, for live tools.
    """
    bad = []
    for problem in problems:
        gold = structured.gold_of(problem.answer, thoughts)
        reason = toolrl.check_gold(gold)
        if not reason and not _earned(gold, live):
            reason = UNEQUAL
        if reason:
            bad.append(BadGold(problem.id, problem.answer, reason))
    return bad


def _earned(gold: str, live: bool) -> bool:
    """Whether the gold's own text is right by it."""
    variant = toolrl.ToolRLReward()
    if not live:
        return toolrl.score(gold, gold, variant=variant, step=0).correct
    # A live turn ends with its calls: what one step says behind them is a turn of its own.
    apart = gold.replace(
        f"{shapes.TOOLS_END}\n{shapes.RESPONSE}",
        f"{shapes.TOOLS_END}\n{shapes.THINK}{shapes.THINK_END}\n{shapes.RESPONSE}",
    )
    turns = split_steps(apart)
    return toolrl.score_trajectory(turns, gold, variant=variant, step=0).correct


def _reason(check: Check) -> str:
    if check.failure:
        return check.failure
    if not check.parses:
        return UNREAD
    return "" if check.equal else UNEQUAL


def usable(problems: Sequence[Problem], bad: Sequence[BadGold], choice: Choice) -> list[Problem]:
    """The problems to train on: without those of `bad`, or with them, by choice.

    Raises UserError where `choice` is "error" and there are any, and where none is left.
    """
    if choice == "keep" or not bad:
        return list(problems)
    named = "; ".join(f"{gold.id}: {gold.gold[:60]!r} {gold.reason}" for gold in bad[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    summary = f"{len(bad)} of {len(problems)} gold answers cannot be graded ({named}{more})"
    if choice == "error":
        raise UserError(f"{summary}: mend them, or set --config.data.bad_answers=exclude or keep")
    dropped = {gold.id for gold in bad}
    left = [problem for problem in problems if problem.id not in dropped]
    if not left:
        raise UserError(f"{summary}, so no problem is left: mend them")
    return left


def inspect(
    file: str, look: Callable[[Sequence[Problem]], list[BadGold]], schema: str = "auto"
) -> Report:
    """Everything wrong with a file; `look` finds bad golds. UserError where it cannot be read."""
    problems, rows = sources.scan(file, schema)
    start = time.monotonic()
    bad = look(problems)
    distinct = {problem.answer.strip() for problem in problems}
    plain = sum(bool(PLAIN.fullmatch(gold)) for gold in distinct)
    seconds = time.monotonic() - start
    return Report(file, len(problems), len(distinct), plain, seconds, bad, rows)


def to_json(report: Report) -> dict[str, Any]:
    """A report for scripts."""
    return dataclasses.asdict(report)


def show(reports: Sequence[Report], console: Console) -> None:
    """A table of all files, and a list of what is wrong in each."""
    table = Table(box=box.SIMPLE)
    table.add_column("file", overflow="fold")
    for head in ("problems", "refused\nrows", "different\ngolds", "plain\nnumbers", "bad\ngolds"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("why")
    table.add_column("seconds", justify="right", no_wrap=True)
    for report in reports:
        why = collections.Counter(gold.reason.partition(":")[0] for gold in report.bad)
        counts = [report.problems, len(report.rows), report.distinct, report.plain, len(report.bad)]
        table.add_row(
            Text(report.file),
            *map(str, counts),
            ", ".join(f"{count} {reason}" for reason, count in why.items()) or "-",
            f"{report.seconds:.1f}",
        )
    console.print(table)
    for report in reports:
        for row in report.rows:
            _line(console, report.file, f"row {row.row}", row.reason)
        for gold in report.bad:
            _line(console, report.file, gold.id, f"gold {gold.gold[:200]!r}: {gold.reason}")


def _line(console: Console, file: str, where: str, what: str) -> None:
    text = Text.assemble((file, "dim"), "  ", (where, "cyan"), "  ", what)
    console.print(text, soft_wrap=True)


def _graded(files: Sequence[str]) -> tuple[list[Report], list[str]]:
    """(reports on files of answers, by the grader; hints at files of something else)."""
    options, reports, hints = flags.FLAGS, [], []
    with (
        Grader(options.workers, options.timeout) as grader,
        logs.progress_bar(Console(stderr=True)) as progress,
    ):
        for file in files:
            task = progress.add_task(os.path.basename(file), total=None)

            def done(count: int, total: int, task=task) -> None:
                progress.update(task, completed=count, total=total)

            def look(problems: Sequence[Problem], file=file, done=done) -> list[BadGold]:
                if turns := sum(problem.answer.startswith(TURN) for problem in problems):
                    hints.append(
                        f"{file}: {turns} of {len(problems)} golds are turns of a dialogue: look "
                        "at their calls with --calls"
                    )
                return golds(problems, grader, done)

            reports.append(inspect(file, look, options.schema))
    return reports, hints


def main(argv: list[str]) -> None:
    """The entry point."""
    options = flags.FLAGS
    if not argv:
        raise UserError("no file: give one or more, see --help")
    hints = []
    if options.calls:

        def look(problems: Sequence[Problem]) -> list[BadGold]:
            return calls(problems, options.thoughts, live=options.live)

        reports = [inspect(file, look, options.schema) for file in argv]
    else:
        reports, hints = _graded(argv)
    if options.json:
        print(json.dumps([to_json(report) for report in reports], indent=1))
    else:
        show(reports, Console(width=None if sys.stdout.isatty() else 160, highlight=False))
    for hint in hints:
        print(hint, file=sys.stderr)


if __name__ == "__main__":
    flags.DEFINE_string("schema", "auto", f"Layout of the files: auto, {', '.join(SCHEMAS)}.")
    flags.DEFINE_bool("calls", False, "The golds are tool calls, not answers.")
    flags.DEFINE_bool("live", False, "With --calls: golds of several steps, for live tools.")
    flags.DEFINE_enum("thoughts", "keep", ["keep", "drop"], "With --calls: the golds' thoughts.")
    flags.DEFINE_integer(
        "workers", os.cpu_count() or 1, "Processes that look at golds.", lower_bound=1
    )
    flags.DEFINE_float("timeout", 5.0, "CPU seconds that one gold may take.", lower_bound=0.01)
    flags.DEFINE_bool("json", False, "Print a list of objects, one a file, for scripts.")
    cli.run(main, __doc__ or "")
