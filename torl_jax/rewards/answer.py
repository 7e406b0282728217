r"""Is the last \boxed{} of a response equivalent to the gold answer?

    grade(gold, response) = verify(parse(\boxed{gold}), parse(\boxed{answer})), gold first

where `answer` is what the last box holds and `parse`, `verify` are math-verify's.
Both sides are wrapped: handed bare LaTeX, that library reads 70\sqrt{2} as 70.

Comparing is symbolic algebra on whatever a model wrote, so it can run for ever,
eat all memory or crash. It is done in worker processes (`worker.py`) that are
killed and replaced; such a failure counts as wrong, is logged with the pair and
never ends the run. Workers that do not start at all are our own failure: raised.
"""

import atexit
import collections
import dataclasses
import functools
import logging
import os
import re
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

from sandbox.command import command_pool
from sandbox.messages import Message
from sandbox.pool import StartError, WorkerDied, WorkerTimeout

MAX_ANSWER = 10_000  # characters; a longer answer is wrong unless it is the gold itself
CACHED = 1 << 15  # pairs whose grade is kept
OVERTIME = "comparing took more CPU time than"  # a worker's last words
PATIENCE = 4  # wall seconds per second of CPU time, so that load does not decide grades

BOX = re.compile(r"\\boxed\s*\{")
BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is not a brace


@dataclasses.dataclass(frozen=True)
class Grade:
    """A verdict; `failure` says why there is none (time-out, crash), else it is empty."""

    correct: bool
    failure: str = ""


def last_box(response: str) -> str | None:
    r"""What the last \boxed{...} holds; None if there is none or it is never closed.

    Of nested boxes the innermost opens last. Linear in the response.
    """
    starts = [box.end() for box in BOX.finditer(response)]
    if not starts:
        return None
    depth = 1
    for found in BRACES.finditer(response, starts[-1]):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            return response[starts[-1] : found.start()]
    return None


class Grader:
    """Grades answers in `workers` processes; a context manager.

    `timeout` is the CPU time in seconds that one comparison may take; in wall time it
    may take four times as long. `counts` says how many pairs were graded
    ("compared", "cached", "timeout", "crash"); safe to use from several threads.
    """

    def __init__(self, workers: int = 2, timeout: float = 5.0) -> None:
        command = [sys.executable, "-P", "-m", "torl_jax.rewards.worker", str(timeout)]
        self._pool = command_pool(command, workers, _environment())
        self._timeout = timeout
        self._lock = threading.Lock()
        self._grades: dict[tuple[str, str], Future[Grade]] = {}
        self.counts: collections.Counter[str] = collections.Counter()

    def submit(self, gold: str, response: str) -> "Future[Grade]":
        """The grade of `response`, when it is there.

        The future raises sandbox.pool.StartError where workers do not start; a closed
        grader raises PoolClosed.
        """
        gold, answer = gold.strip(), (last_box(response) or "").strip()
        if not gold or not answer:
            return _known(Grade(False))
        if gold == answer:
            return _known(Grade(True))
        if len(answer) > MAX_ANSWER:
            return _known(Grade(False))
        with self._lock:
            future = self._grades.get((gold, answer))
            if future is not None:
                self.counts["cached"] += 1
                return future
            if len(self._grades) >= CACHED:
                del self._grades[next(iter(self._grades))]
            asked = self._pool.submit({"gold": gold, "answer": answer}, PATIENCE * self._timeout)
            future = self._grades[gold, answer] = Future()
            future.set_running_or_notify_cancel()  # shared by all who ask: nobody may cancel it
        asked.add_done_callback(functools.partial(self._settle, gold, answer, future))
        return future

    def close(self) -> None:
        """Ends the workers; grades still awaited fail."""
        self._pool.close()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(
        self, gold: str, answer: str, future: "Future[Grade]", asked: "Future[Message]"
    ) -> None:
        error = asked.exception()
        if error is None:
            kind, grade = "compared", Grade(asked.result()["correct"])
        elif isinstance(error, WorkerTimeout) or OVERTIME in str(error):
            kind, grade = "timeout", Grade(False, f"timeout: {error}")
        elif isinstance(error, WorkerDied) and not isinstance(error, StartError):
            kind, grade = "crash", Grade(False, f"crash: {error}")
        else:
            with self._lock:
                self._grades.pop((gold, answer), None)
            future.set_exception(error)
            return
        with self._lock:
            self.counts[kind] += 1
        if grade.failure:
            pair = f"gold {gold[:200]!r}, answer {answer[:200]!r}"
            logging.warning("grading failed and counts as wrong (%s): %s", grade.failure, pair)
        future.set_result(grade)


def grade(gold: str, response: str) -> bool:
    r"""Whether the last \boxed{} of `response` is equivalent to `gold`.

    False where there is no box, it is unclosed or empty, or comparing fails.
    """
    return _shared().submit(gold, response).result().correct


_making = threading.Lock()


def _shared() -> Grader:
    """The grader behind `grade`: made at its first use, closed at exit."""
    with _making:
        return _make_shared()


@functools.cache
def _make_shared() -> Grader:
    grader = Grader(workers=1)
    atexit.register(grader.close)
    return grader


def _environment() -> dict[str, str]:
    """The workers' environment; a fixed hash seed, since sympy's order of terms hangs on it."""
    package = str(Path(__file__).resolve().parents[2])
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": package,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _known(grade: Grade) -> "Future[Grade]":
    future: Future[Grade] = Future()
    future.set_result(grade)
    return future
