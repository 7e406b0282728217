"""The package's front door: Sandbox, Result, SandboxError."""

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sandbox.messages import FrameError, Message
from sandbox.pool import Pool, PoolClosed, StartError, WorkerError
from sandbox.scratch import Scratch
from sandbox.worker import LEVELS

STATUSES = ("ok", "error", "timeout", "memory", "killed")
SLACK = 10.0  # seconds that a worker may take beyond its own deadlines


class SandboxError(Exception):
    """Our own failure, in one line. It says nothing about the program."""


@dataclass(frozen=True)
class Result:
    """What became of one program.

    status           ok | error | timeout | memory | killed
    stdout, stderr   UTF-8 with replacement, head and tail kept
    exit_code        the exit status, or minus the signal that ended it
    seconds          wall time from fork to the end of the last process
    cpu_seconds      processor time of all its processes
    truncated_bytes  bytes of output that stdout and stderr do not show
    level            the isolation it ran under
    """

    status: str
    stdout: str
    stderr: str
    exit_code: int
    seconds: float
    cpu_seconds: float
    truncated_bytes: int
    level: str


class Sandbox:
    """Runs Python programs in `workers` warm processes.

    Returns at once; the workers start meanwhile, and what they cannot do (a level
    below `min_level`, a module of `preload` that does not import) is a SandboxError
    at the first use. `memory_mb` is what a program may add to the preloaded modules,
    `timeout` its default deadline in seconds, `output_kb` what is kept of each stream.
    """

    def __init__(
        self,
        workers: int = 2,
        min_level: str = "rlimits",
        memory_mb: int = 512,
        timeout: float = 5.0,
        preload: Sequence[str] = ("numpy", "sympy"),
        output_kb: int = 64,
    ) -> None:
        if min_level not in LEVELS:
            raise SandboxError(f"min_level is {min_level!r}, expected one of {', '.join(LEVELS)}")
        for name, value in (("workers", workers), ("memory_mb", memory_mb), ("timeout", timeout)):
            if value <= 0:
                raise SandboxError(f"{name} is {value}, expected more than 0")
        self._timeout = timeout
        self._scratch: Scratch | None = Scratch(mode=0o711)
        config = {
            "scratch": self._scratch.path,
            "min_level": min_level,
            "memory_mb": memory_mb,
            "output_kb": output_kb,
            "preload": list(preload),
        }
        command = [sys.executable, "-s", "-P", "-m", "sandbox.worker", json.dumps(config)]
        self._pool = Pool(command, workers, env=_environment())

    @property
    def level(self) -> str:
        """The isolation found at start. Waits for the first worker."""
        return self.report["level"]

    @property
    def why(self) -> str:
        """What keeps the level from being higher; empty where nothing does."""
        return self.report["why"]

    @property
    def report(self) -> Message:
        """level, why, identity, namespaces, protections (name: how it was proven, or "")."""
        try:
            return self._pool.ready()
        except WorkerError as error:
            raise SandboxError(str(error)) from error

    def run(self, code: str, stdin: str | None = None, timeout: float | None = None) -> Result:
        """Runs a program to its end. Raises SandboxError where we failed, twice."""
        return self.submit(code, stdin, timeout).result()

    def submit(
        self, code: str, stdin: str | None = None, timeout: float | None = None
    ) -> "Future[Result]":
        """Queues a program; from any thread. The future cannot be cancelled."""
        limit = self._timeout if timeout is None else timeout
        if limit <= 0:
            raise SandboxError(f"timeout is {limit}, expected more than 0")
        answer: Future[Result] = Future()
        answer.set_running_or_notify_cancel()
        self._attempt(answer, {"code": code, "stdin": stdin, "timeout": limit}, retries=1)
        return answer

    def close(self) -> None:
        """Ends all workers; programs still running or queued fail with SandboxError."""
        self._pool.close()
        if self._scratch is not None:
            scratch, self._scratch = self._scratch, None
            scratch.remove()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attempt(self, answer: "Future[Result]", message: Message, retries: int) -> None:
        # Waiting for a processor may double a deadline: see supervise._waited_for_cpu.
        try:
            reply = self._pool.submit(message, 2 * message["timeout"] + SLACK)
        except (PoolClosed, FrameError) as error:
            answer.set_exception(SandboxError(str(error)))
            return
        reply.add_done_callback(partial(self._settle, answer, message, retries))

    def _settle(
        self,
        answer: "Future[Result]",
        message: Message,
        retries: int,
        reply: "Future[Message]",
    ) -> None:
        """A Result, a second attempt, or a SandboxError: exactly one of them."""
        error = reply.exception()
        if error is None:
            answer.set_result(Result(**reply.result()))
            return
        if retries and not isinstance(error, StartError | PoolClosed):
            self._attempt(answer, message, retries - 1)
        else:
            failure = SandboxError(f"the sandbox failed: {error}")
            failure.__cause__ = error
            answer.set_exception(failure)


def _environment() -> dict[str, str]:
    """The workers' environment: nothing of the caller's, so that no secret is in reach."""
    package = str(Path(__file__).resolve().parent.parent)
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": package,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_ARENA_MAX": "2",  # each arena of a thread reserves 64 MiB of address space
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
