"""A pool of warm worker processes, each answering one message at a time.

A worker is any command that speaks sandbox.messages on stdin and stdout. It is
started by exec, never by forking the caller (who may have threads), in a session
of its own, so that Ctrl-C in the terminal does not reach it. One thread per
worker hands it jobs from a common queue; a worker that is late or dead is killed
with its process group and replaced, and only its own job fails.

Workers end with the caller even after kill -9: their stdin closes, and the
thread that started them (it lives as long as the pool) is gone, which a worker
may ask the kernel to be told of (PR_SET_PDEATHSIG).
"""

import contextlib
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import IO, NamedTuple

from sandbox import messages
from sandbox.messages import Message

START_SECONDS = 120.0  # a worker that imports sympy on a loaded machine is slow
STOP_SECONDS = 3.0  # from SIGTERM to SIGKILL
STDERR_TAIL = 4096


class WorkerError(Exception):
    """A worker gave no answer."""


class WorkerTimeout(WorkerError):
    """The worker was still busy at the deadline and has been killed."""


class WorkerDied(WorkerError):
    """The worker ended, or spoke nonsense, before it answered."""


class StartError(WorkerDied):
    """The worker never became ready."""


class PoolClosed(WorkerError):
    """The pool was closed before the job was answered."""


class Worker:
    """One process. `start` blocks until it is ready, `ask` until it has answered."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None) -> None:
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

    def start(self, seconds: float) -> Message:
        """The worker's first message. Raises StartError; the worker is then gone."""
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
        return ready

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
        """How it ended, and the last line it wrote to stderr."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - STDERR_TAIL))
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{said} (exit status {self._process.returncode})"


class Job(NamedTuple):
    message: Message
    seconds: float
    future: "Future[Message]"


class Pool:
    """`workers` processes running `command`, replaced whenever one is late or dead.

    The constructor returns at once; workers start side by side and each takes its
    first job when it is ready. `env` is their environment, the caller's where None.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        env: Mapping[str, str] | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, got {workers}")
        self._command = tuple(command)
        self._env = env
        self._start_seconds = start_seconds
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._living: set[Worker] = set()
        self._ready: Future[Message] = Future()
        self._threads = [
            # Daemons: a pool that nobody closed must not keep the interpreter from ending.
            threading.Thread(target=self._manage, name=f"pool-{index}", daemon=True)
            for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, message: Message, timeout: float) -> "Future[Message]":
        """Queues `message`; the future holds the reply, or a WorkerError.

        `timeout` (seconds) counts from the moment a ready worker takes the job.
        Safe from any thread. Raises FrameError for a message that fits no frame.
        """
        messages.encode(message)
        future: Future[Message] = Future()
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            self._jobs.put(Job(message, timeout, future))
        return future

    def ready(self) -> Message:
        """Waits for the first worker's ready message. Raises StartError."""
        return self._ready.result()

    def pids(self) -> list[int]:
        """Process ids of the workers that live now."""
        with self._lock:
            return [worker.pid for worker in self._living]

    def close(self) -> None:
        """Kills the workers and waits for them; unanswered jobs fail with PoolClosed."""
        with self._lock:
            first, self._closed = not self._closed, True
            living = list(self._living)
        if first:
            for _ in self._threads:
                self._jobs.put(None)
        for worker in living:
            worker.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._drop_queue()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _manage(self) -> None:
        """The life of one place in the pool: a worker at a time, a job at a time."""
        worker: Worker | WorkerError = self._start()
        while (job := self._jobs.get()) is not None:
            if job.future.set_running_or_notify_cancel():
                if isinstance(worker, Worker) and worker.dead:  # it died while idle
                    worker = self._replace(worker)
                worker = self._answer(worker, job)
        if isinstance(worker, Worker):
            self._discard(worker)

    def _answer(self, worker: Worker | WorkerError, job: Job) -> Worker | WorkerError:
        """Resolves the job; returns who serves the next one."""
        if isinstance(worker, WorkerError):  # it may have been killed while it started
            worker = self._start()
        if isinstance(worker, WorkerError):
            job.future.set_exception(worker)
            return worker
        try:
            reply = worker.ask(job.message, job.seconds)
        except WorkerError as error:
            job.future.set_exception(PoolClosed("the pool was closed") if self._closed else error)
            return self._replace(worker)
        job.future.set_result(reply)
        return worker

    def _replace(self, worker: Worker) -> Worker | WorkerError:
        self._discard(worker)
        return self._start()

    def _start(self) -> Worker | WorkerError:
        """A ready worker, or why there is none."""
        try:
            with self._lock:
                if self._closed:
                    raise PoolClosed("the pool was closed")
                worker = Worker(self._command, self._env)
                self._living.add(worker)
        except PoolClosed as error:
            return error
        except OSError as error:
            return self._unready(StartError(f"worker did not start: {error}"))
        try:
            ready = worker.start(self._start_seconds)
        except StartError as error:
            self._discard(worker)
            return PoolClosed("the pool was closed") if self._closed else self._unready(error)
        with self._lock:
            if not self._ready.done():
                self._ready.set_result(ready)
        return worker

    def _unready(self, error: StartError) -> StartError:
        with self._lock:
            if not self._ready.done():
                self._ready.set_exception(error)
        return error

    def _discard(self, worker: Worker) -> None:
        worker.close()
        with self._lock:
            self._living.discard(worker)

    def _drop_queue(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None and job.future.set_running_or_notify_cancel():
                    job.future.set_exception(PoolClosed("the pool was closed"))


def _nonblocking(stream: IO[bytes] | None) -> int:
    assert stream is not None  # both ends were asked for as pipes
    os.set_blocking(stream.fileno(), False)
    return stream.fileno()
