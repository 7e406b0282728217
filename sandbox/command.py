"""Workers that are a command: it speaks sandbox.messages on its stdin and stdout.

A worker is started by exec, never by forking the caller (who may have threads), in a
session of its own, so that Ctrl-C in the terminal does not reach it. It ends with the
caller even after kill -9: its stdin closes, and the thread that started it (which lives
as long as the pool) is gone, of which it may ask the kernel to be told.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from sandbox import messages
from sandbox.messages import Message
from sandbox.pool import Pool, StartError, WorkerDied, WorkerTimeout

START_SECONDS = 120.0  # a worker that imports sympy on a loaded machine is slow
STOP_SECONDS = 3.0  # from SIGTERM to SIGKILL
STDERR_TAIL = 4096


def command_pool(
    command: Sequence[str],
    workers: int,
    env: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
) -> Pool:
    """A pool of `workers` processes running `command`, started side by side at once.

    `env` is their environment, the caller's where None.
    """

    def make(_: object) -> CommandWorker:
        try:
            return CommandWorker(command, env, start_seconds)
        except OSError as error:
            raise StartError(f"worker did not start: {error}") from error

    return Pool(make, workers, warm=(None,))


class CommandWorker:
    """One process. `start` blocks until it is ready, `ask` until it has answered."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str] | None, start_seconds: float
    ) -> None:
        self._start_seconds = start_seconds
        # A file, not a pipe: nobody needs to drain it while the worker is idle.
        with contextlib.ExitStack() as undo:
            self._stderr = undo.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=env,
                start_new_session=True,
            )
            undo.pop_all()
        self._stopping = threading.Lock()
        self._requests = _nonblocking(self._process.stdin)
        self._replies = _nonblocking(self._process.stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def dead(self) -> bool:
        with self._stopping:
            return self._process.poll() is not None

    def start(self) -> None:
        """Waits for the worker's first message. Raises StartError; the worker is then gone."""
        seconds = self._start_seconds
        try:
            ready = messages.read(self._replies, time.monotonic() + seconds)
        except TimeoutError:
            self.stop()
            raise StartError(f"worker was not ready after {seconds:g} s") from None
        except (messages.FrameError, OSError) as error:
            self.stop()
            raise StartError(f"worker's first message is unreadable: {error}") from error
        if ready is None or not ready.get("ready"):
            self.stop()
            raise StartError(f"worker did not start: {self._last_words()}")

    def ask(self, message: Message, seconds: float) -> Message:
        """The reply to `message`. Raises WorkerTimeout or WorkerDied; the worker is then gone."""
        deadline = time.monotonic() + seconds
        try:
            messages.write(self._requests, message, deadline)
            reply = messages.read(self._replies, deadline)
        except TimeoutError:
            self.stop()
            raise WorkerTimeout(f"no answer within {seconds:g} s") from None
        except (messages.FrameError, OSError) as error:
            self.stop()
            raise WorkerDied(f"{error}; {self._last_words()}") from error
        if reply is None:
            self.stop()
            raise WorkerDied(self._last_words())
        return reply

    def stop(self) -> None:
        """Ends the process and its group: asks first, so that it can sweep up, then kills."""
        with self._stopping:
            if self._process.returncode is None:
                self._signal_group(signal.SIGTERM)
                try:
                    self._process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self._signal_group(signal.SIGKILL)
                    self._process.wait()

    def close(self) -> None:
        """Stops the worker and releases its descriptors; for the owning thread only."""
        self.stop()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            # Popen's stdin is buffered but never written through: nothing to flush.
            if stream is not None:
                stream.close()

    def _signal_group(self, number: int) -> None:
        # The leader is not reaped yet (returncode is None), so the id is still ours.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _last_words(self) -> str:
        """The last line it wrote to stderr, and how it ended."""
        return f"{last_words(self._stderr)} (exit status {self._process.returncode})"


def last_words(stderr: IO[bytes]) -> str:
    """The last line of a file that a process had as its stderr."""
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - STDERR_TAIL))
    lines = stderr.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _nonblocking(stream: IO[bytes] | None) -> int:
    assert stream is not None  # both ends were asked for as pipes
    os.set_blocking(stream.fileno(), False)
    return stream.fileno()
