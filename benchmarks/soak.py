"""A long run of mixed programs, one in ten hostile: does anything grow, slow down or fail?

    python -m tests.sandbox.guard python -m benchmarks.soak > soak.jsonl
    python -m benchmarks.soak_report soak.jsonl --out docs/benchmarks.md

Runs inside the guard only. Writes JSON lines to stdout: what it runs on, one line for each
thousand programs (taken while none runs), and how it ended. As many programs are under
way as there are workers, so that a latency is a program's own and not a queue's.
"""

import argparse
import itertools
import json
import os
import queue
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks import processes, report
from benchmarks.mix import Program, programs
from sandbox import LEVELS, Result, Sandbox, SandboxError
from tests.sandbox import guard

MODULE = "benchmarks.soak"
JAILED = ("full", "full+cgroup")
WARM_UP = 50  # programs a worker
KEPT = 20  # wrong results told of for each thousand
ANSWER_SECONDS = 120.0  # longer than any deadline: beyond it the sandbox hangs


@dataclass
class Window:
    """What became of a thousand programs. Latencies in milliseconds, of harmless ones only."""

    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, program: Program, seconds: float, future: "Future[Result]") -> None:
        error = future.exception()
        if error is not None:
            self.errors.append(f"{program.kind}: {type(error).__name__}: {error}")
            return
        result = future.result()
        self.statuses[program.kind][result.status] += 1
        if wrong := program.wrong(result):
            self.wrong.append(wrong)
        if not program.hostile:
            self.latencies[program.kind].append(round(1e3 * seconds, 2))

    def fields(self) -> dict[str, Any]:
        return {
            "latencies": self.latencies,
            "statuses": self.statuses,
            "wrong": len(self.wrong),
            "wrong_kept": self.wrong[:KEPT],
            "errors": len(self.errors),
            "errors_kept": self.errors[:KEPT],
        }


class Watch:
    """Looks at all processes between two windows."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._known: set[int] = set()

    def look(self) -> dict[str, Any]:
        """Figures by role: processes, RSS, PSS (bytes), descriptors, new since last time."""
        found = processes.settle()
        roles: dict[str, Counter[str]] = defaultdict(Counter)
        for pid, role in processes.roles(found).items():
            rss, pss = processes.memory(pid)
            roles[role]["processes"] += 1
            roles[role]["rss"] += rss
            roles[role]["pss"] += pss
            roles[role]["descriptors"] += processes.descriptors(pid)
            roles[role]["new"] += pid not in self._known
        self._known = {process.pid for process in found}
        return {
            "seconds": round(time.perf_counter() - self._started, 2),
            "cpu": round(sum(process.cpu for process in found), 2),
            "load": os.getloadavg()[0],
            "left_in_tmp": len(os.listdir(tempfile.gettempdir())),
            "roles": roles,
        }


def window(box: Sandbox, todo: Iterator[Program], workers: int) -> Window:
    """Runs `todo` to its end, `workers` at a time. Raises SandboxError where an answer is late."""
    found, running = Window(), 0
    answers: queue.SimpleQueue[tuple[Program, float, Future[Result]]] = queue.SimpleQueue()

    def answered(program: Program, started: float, future: "Future[Result]") -> None:
        answers.put((program, time.perf_counter() - started, future))

    while True:
        for program in itertools.islice(todo, workers - running):
            started = time.perf_counter()
            future = box.submit(program.code, stdin=program.stdin, timeout=program.timeout)
            future.add_done_callback(partial(answered, program, started))
            running += 1
        if not running:
            return found
        try:
            found.add(*answers.get(timeout=ANSWER_SECONDS))
        except queue.Empty:
            raise SandboxError(f"no answer within {ANSWER_SECONDS:g} s") from None
        running -= 1


def soak(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines of the record. Some harmless programs go before: no start is measured."""
    stop = time.monotonic() + 60 * arguments.minutes
    done, reason = 0, "all programs were run"
    with Sandbox(
        workers=arguments.workers, min_level=arguments.min_level, memory_mb=arguments.memory_mb
    ) as box:
        warm_up = programs(arguments.seed, 0.0, jailed=False)
        window(box, itertools.islice(warm_up, WARM_UP * arguments.workers), arguments.workers)
        watch = Watch()
        todo = programs(arguments.seed, arguments.hostile, jailed=box.level in JAILED)
        yield {
            "command": report.command(MODULE),
            "level": box.level,
            "why": box.why,
            "workers": arguments.workers,
            "wanted": arguments.programs,
            "conditions": report.conditions(os.getloadavg()[0], "numpy", "sympy"),
        }
        while done < arguments.programs:
            if time.monotonic() > stop:
                reason = f"{arguments.minutes:g} minutes had passed"
                break
            batch = min(arguments.every, arguments.programs - done)
            found = window(box, itertools.islice(todo, batch), arguments.workers)
            done += batch
            yield {"done": done, **watch.look(), **found.fields()}
    left = [process.pid for process in processes.tree(os.getpid()) if process.depth > 0]
    yield {"end": reason, "done": done, "left_alive": len(left)}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where the sandbox failed, 2 outside the guard."""
    arguments = _parser().parse_args(argv)
    if problem := guard.verify():
        print(
            f"{MODULE}: {problem}: it runs hostile programs, so start it as "
            f"python -m tests.sandbox.guard python -m {MODULE} ...",
            file=sys.stderr,
        )
        return 2
    try:
        for line in soak(arguments):
            print(json.dumps(line), flush=True)
            if "roles" in line:
                text = f"{line['done']} programs, {line['seconds']:.0f} s"
                print(f"{text}, {line['wrong']} wrong, {line['errors']} errors", file=sys.stderr)
    except (SandboxError, OSError) as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--programs", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mix (%(default)s)")
    parser.add_argument(
        "--hostile", type=float, default=0.1, metavar="SHARE", help="of the mix (%(default)s)"
    )
    parser.add_argument("--memory-mb", type=int, default=256, help="for a program (%(default)s)")
    parser.add_argument(
        "--min-level", choices=LEVELS, default="full", help="refuse below it (%(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=120.0, metavar="M", help="stop after (%(default)s)"
    )
    parser.add_argument(
        "--every", type=int, default=1000, metavar="N", help="programs a line (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
