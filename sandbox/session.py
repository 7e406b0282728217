"""A persistent interpreter: cells that share their variables, in a slot of their own."""

import collections
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from sandbox.messages import Message
from sandbox.pool import Pool, StartError, Worker, WorkerDied, WorkerError, Workers
from sandbox.results import Result, SandboxError

SLACK = 10.0  # seconds that a slot may take beyond its own deadlines


class Session:
    """Made by Sandbox.session; a context manager.

    A cell that is killed leaves the state that it found, and an exception leaves what
    the cell had done by then, as in a notebook. Should the slot itself fail, a new one
    runs the earlier cells again first. Cells run in the order in which they were given.
    """

    def __init__(
        self,
        pool: Pool,
        tier: int,
        level: Callable[[], str],
        settings: dict[str, Any],
        closed: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._tier = tier
        self._level = level
        self._settings = settings
        self._on_close = closed
        self._workers: Workers = {}
        self._history: list[Message] = []
        self._lock = threading.Lock()
        self._queue: collections.deque[tuple[Message, Future[Result], int]] = collections.deque()
        self._busy = False
        self._closed = False

    def run(self, code: str, timeout: float | None = None) -> Result:
        """Runs a cell to its end. Raises SandboxError where we failed, twice."""
        return self.submit(code, timeout).result()

    def submit(self, code: str, timeout: float | None = None) -> "Future[Result]":
        """Queues a cell behind the earlier ones; from any thread."""
        most = self._settings["timeout"]
        limit = most if timeout is None else timeout
        if not 0 < limit <= most:
            raise SandboxError(f"timeout is {limit}, expected more than 0, at most {most:g}")
        answer: Future[Result] = Future()
        answer.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise SandboxError("the session is closed")
            self._queue.append(({"cell": code, "timeout": limit}, answer, 1))
        self._next()
        return answer

    def close(self) -> None:
        """Ends the interpreter; cells that have not begun fail with SandboxError."""
        with self._lock:
            first, self._closed = not self._closed, True
            dropped = list(self._queue)
            self._queue.clear()
            idle = not self._busy
        for _, answer, _ in dropped:
            answer.set_exception(SandboxError("the session was closed"))
        for worker in list(self._workers.values()):
            worker.stop()
        if idle:
            self._pool.release(self._workers)
        if first:
            self._on_close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> None:
        """Gives the pool the next cell, if none of ours runs."""
        with self._lock:
            if self._busy or not self._queue:
                return
            self._busy = True
            message, answer, retries = self._queue.popleft()
        try:
            reply = self._pool.submit(
                message, 2 * message["timeout"] + SLACK, self._tier, self._workers, self._prepare
            )
        except WorkerError as error:
            self._done(message, answer, 0, error)
            return
        reply.add_done_callback(partial(self._settle, message, answer, retries))

    def _prepare(self, worker: Worker) -> None:
        """Opens the interpreter in a new slot and brings it to where the last one was."""
        opened = worker.ask({"open": self._settings}, SLACK)
        if "refused" in opened:
            raise StartError(opened["refused"])
        for message in self._history:
            reply = worker.ask(message, 2 * message["timeout"] + SLACK)
            if not reply["alive"]:
                raise WorkerDied("a cell that had worked ended the interpreter when run again")

    def _settle(
        self,
        message: Message,
        answer: "Future[Result]",
        retries: int,
        reply: "Future[Message]",
    ) -> None:
        error = reply.exception()
        if error is not None:
            self._done(message, answer, retries, error)
            return
        try:
            result = self._result(message, dict(reply.result()))
        except Exception as reason:  # nobody else would tell the one who waits
            self._done(message, answer, 0, reason)
            return
        self._finish(lambda: answer.set_result(result))

    def _result(self, message: Message, fields: Message) -> Result:
        advanced = fields.pop("advanced")  # else the state is still that before the cell
        if not fields.pop("alive"):
            # It has killed its own interpreter: the next cell finds the state before it.
            for worker in self._workers.values():
                worker.stop()
        elif advanced:
            self._history.append(message)
        return Result(**fields, level=self._level())

    def _done(
        self, message: Message, answer: "Future[Result]", retries: int, error: BaseException
    ) -> None:
        if retries and not self._closed and isinstance(error, WorkerError):
            with self._lock:
                self._queue.appendleft((message, answer, retries - 1))
            self._finish(lambda: None)
            return
        failure = SandboxError(f"the session failed: {error}")
        failure.__cause__ = error
        self._finish(lambda: answer.set_exception(failure))

    def _finish(self, tell: Callable[[], None]) -> None:
        """The next cell may run before the caller acts on this one."""
        with self._lock:
            self._busy = False
            closed = self._closed
        if closed:
            self._pool.release(self._workers)
        tell()
        self._next()
