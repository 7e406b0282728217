"""Measures the sandbox and writes what it finds into docs/benchmarks.md.

    python -m benchmarks.sandbox --rounds 5

throughput   programs per second: plain processes, a bwrap jail each, what the system itself
             allows, the sandbox by level
timeouts     how late an endless program is answered
start        the first result, and the next one after a killed slot
memory       PSS of all processes of a sandbox at rest
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import contenders, limit, moments, report, throughput
from sandbox import Sandbox, SandboxError

MODULE = "benchmarks.sandbox"
CEILINGS = ("full+cgroup", "restricted", "rlimits")


def compare(arguments: argparse.Namespace) -> str:
    """The section on throughput; draws the plot too."""
    with contextlib.ExitStack() as stack:
        bwrap = contenders.bubblewrap()
        notes = [] if bwrap else ["No row for bwrap: it is not installed."]
        fastest = stack.enter_context(limit.forked(throughput.CLIENTS))
        rivals = [contenders.plain(), contenders.bare(), bwrap, limit.spawned(), fastest]
        all_of_us = [rival for rival in rivals if rival]
        levels: list[str] = []
        for ceiling in CEILINGS:
            box = stack.enter_context(_sandbox(ceiling))
            if box.level in levels:
                notes.append(f"No row of its own for {ceiling}: {box.level} was found, {box.why}.")
                continue
            levels.append(box.level)
            all_of_us.append(contenders.sandboxed(box, f"sandbox, {box.level}"))
        found = throughput.measure(all_of_us, arguments.rounds, arguments.seconds)
    if bwrap:
        notes.append(f"{contenders.bubblewrap_version()}.")
    names = [contender.name for contender in all_of_us]
    throughput.plot(found, names, arguments.plot)
    return "\n\n".join(
        [
            f"{throughput.CLIENTS} clients (threads that wait for each result) and "
            f"{throughput.CLIENTS} workers; {arguments.rounds} rounds of {arguments.seconds:g} s, "
            "interleaved. Rates: median of the rounds (range).",
            throughput.tables(found, names, f"sandbox, {levels[0]}", [*names[:2], fastest.name]),
            " ".join(notes),
            f"![programs per second]({arguments.plot.name})",
        ]
    )


def _sandbox(ceiling: str) -> Sandbox:
    return Sandbox(
        workers=throughput.CLIENTS,
        min_level="rlimits",
        max_level=ceiling,
        output_kb=contenders.OUTPUT_KB,
    )


PARTS: dict[str, Callable[[argparse.Namespace], str]] = {
    "throughput": compare,
    "timeouts": lambda arguments: moments.timeouts(arguments.timeouts),
    "start": lambda arguments: moments.start(arguments.rounds),
    "memory": lambda arguments: moments.memory(arguments.workers),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 with one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        for part in arguments.only:
            load = os.getloadavg()[0]
            body = PARTS[part](arguments)
            facts = report.conditions(load, "numpy", "sympy")
            body = f"    {report.command(MODULE)}\n\n{facts}\n\n{body}"
            print(body, end="\n\n", flush=True)
            if arguments.out is not None:
                report.write_section(arguments.out, part, body)
    except (SandboxError, contenders.Failed, report.ReportError, OSError) as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="(all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each contender (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="of each round and program (%(default)s)"
    )
    parser.add_argument(
        "--timeouts", type=int, default=200, metavar="N", help="endless programs (%(default)s)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 16], help="for memory (2 16)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="replaces its sections here (only prints)"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        default=Path("docs/sandbox_throughput.png"),
        metavar="FILE",
        help="(%(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
