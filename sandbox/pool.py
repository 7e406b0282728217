"""A pool of places, each keeping warm workers and giving them one job at a time.

A worker is anything that answers messages (sandbox.command: a process that runs a
command; sandbox.link: a slot of the sandbox). One thread per place hands its workers
jobs from a common queue; a worker that is late or dead is replaced, and only its own
job fails. A job is answered exactly once.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from sandbox import messages
from sandbox.messages import Message


class WorkerError(Exception):
    """A worker gave no answer."""


class WorkerTimeout(WorkerError):
    """The worker was still busy at the deadline and has been killed."""


class WorkerDied(WorkerError):
    """The worker ended, or spoke nonsense, before it answered."""


class StartError(WorkerDied):
    """The worker never became ready, and another would fare no better."""


class PoolClosed(WorkerError):
    """The pool was closed before the job was answered."""


class PoolFull(WorkerError):
    """As many jobs wait as the pool may hold."""


class Worker(Protocol):
    """`stop` may be called from any thread; all else from the thread that has the worker."""

    @property
    def dead(self) -> bool: ...

    def start(self) -> None:
        """Waits until it is ready. Raises WorkerError; the worker is then gone."""
        ...

    def ask(self, message: Message, seconds: float) -> Message:
        """The reply. Raises WorkerTimeout or WorkerDied; the worker is then gone."""
        ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


Workers = dict[Hashable, Worker]  # by the kind of job they are for


class Job(NamedTuple):
    """`workers` are those of the job's owner, the place's own where None.

    `prepare` is called with a worker that was started for this job, before the message.
    """

    message: Message
    seconds: float
    future: "Future[Message]"
    kind: Hashable
    workers: Workers | None
    prepare: Callable[[Worker], None] | None


class Pool:
    """At most `places` jobs run at a time, at most `limit` wait.

    `make(kind)` returns a worker that need not be ready yet, or raises WorkerError; it is
    called from the pool's threads. The constructor returns at once; each place starts
    workers of the kinds `warm` meanwhile, and others when a job asks for them.
    """

    def __init__(
        self,
        make: Callable[[Any], Worker],
        places: int,
        limit: int | None = None,
        warm: Sequence[Hashable] = (),
    ) -> None:
        if places < 1:
            raise ValueError(f"a pool needs at least one worker, got {places}")
        self._make = make
        self._limit = limit
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._waiting = 0
        self._running = 0
        self._living: set[Worker] = set()
        self._closing: set[threading.Thread] = set()
        self._threads = [
            # Daemons: a pool that nobody closed must not keep the interpreter from ending.
            threading.Thread(target=self._manage, args=(warm,), name=f"pool-{n}", daemon=True)
            for n in range(places)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """Jobs that run, jobs that wait."""
        with self._lock:
            return self._running, self._waiting

    @property
    def calling_back(self) -> bool:
        """This is a callback of a job: to wait for another might be to wait for itself."""
        return threading.current_thread() in self._threads

    def submit(
        self,
        message: Message,
        timeout: float,
        kind: Hashable = None,
        workers: Workers | None = None,
        prepare: Callable[[Worker], None] | None = None,
        again: bool = False,
    ) -> "Future[Message]":
        """Queues `message`; the future holds the reply, or a WorkerError.

        `timeout` (seconds) counts from the moment a ready worker takes the job. A job
        that is tried `again` had its place: it finds one in a full queue too.
        Safe from any thread. Raises FrameError for a message that fits no frame,
        PoolFull and PoolClosed.
        """
        messages.encode(message)
        future: Future[Message] = Future()
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            if self._limit is not None and self._waiting >= self._limit and not again:
                raise PoolFull(f"{self._waiting} jobs wait already, {self._limit} are allowed")
            self._waiting += 1
            self._jobs.put(Job(message, timeout, future, kind, workers, prepare))
        return future

    def release(self, workers: Workers) -> None:
        """Ends the workers of an owner whose last job has been answered."""
        for worker in workers.values():
            self._discard(worker)
        workers.clear()

    def close(self) -> None:
        """Ends the workers and waits for that; unanswered jobs fail with PoolClosed."""
        with self._lock:
            self._closed = True
            # Callbacks of several places may close it: no two of them wait for each other.
            self._closing.add(threading.current_thread())
            others = [thread for thread in self._threads if thread not in self._closing]
            living = list(self._living)
        self._jobs.put(None)
        for worker in living:
            worker.stop()
        for thread in others:
            thread.join()
        self._drop_queue()
        with self._lock:
            left = list(self._living)  # of owners who did not release them
        for worker in left:
            self._discard(worker)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _manage(self, warm: Sequence[Hashable]) -> None:
        """The life of one place: a job at a time."""
        own: Workers = {}
        for kind in warm:
            with contextlib.suppress(WorkerError):  # the first job that needs it meets it again
                self._find(own, kind, None)
        while (job := self._jobs.get()) is not None:
            with self._lock:
                self._waiting -= 1
                self._running += 1
            try:
                if job.future.set_running_or_notify_cancel():
                    self._answer(own if job.workers is None else job.workers, job)
            except BaseException as error:  # SystemExit of a callback: this place serves others too
                thread = threading.current_thread()
                told = (type(error), error, error.__traceback__, thread)
                threading.excepthook(threading.ExceptHookArgs(told))
            finally:
                with self._lock:
                    self._running -= 1
        self._jobs.put(None)  # for the next place
        self.release(own)

    def _answer(self, workers: Workers, job: Job) -> None:
        try:
            worker = self._find(workers, job.kind, job.prepare)
            reply = worker.ask(job.message, job.seconds)
        except WorkerError as error:
            if job.kind in workers:
                self._discard(workers.pop(job.kind))
            closed = PoolClosed("the pool was closed")
            job.future.set_exception(closed if self._closed else error)
        except Exception as error:  # a defect of ours: the caller must hear of it, not wait
            job.future.set_exception(error)
        else:
            job.future.set_result(reply)

    def _find(
        self, workers: Workers, kind: Hashable, prepare: Callable[[Worker], None] | None
    ) -> Worker:
        """A living worker of this kind; a new one where there is none. Raises WorkerError."""
        worker = workers.get(kind)
        if worker is not None and not worker.dead:
            return worker
        if worker is not None:
            self._discard(workers.pop(kind))
        if self._closed:
            raise PoolClosed("the pool was closed")
        worker = workers[kind] = self._make(kind)
        with self._lock:
            self._living.add(worker)
            closed = self._closed
        if closed:  # close() may not have seen it
            worker.stop()
        worker.start()
        if prepare is not None:
            prepare(worker)
        return worker

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
        self._jobs.put(None)  # for a place that has called back, and ends later
