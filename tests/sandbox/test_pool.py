"""The generic pool, with workers that live in this process."""

import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import wait
from typing import Any

import pytest

from sandbox.messages import FrameError, Message
from sandbox.pool import (
    Pool,
    PoolClosed,
    PoolFull,
    StartError,
    WorkerDied,
    WorkerTimeout,
)

LONG = 60.0


class Here:
    """A worker without a process. It does what its messages say."""

    def __init__(self, kind: Hashable, numbers: Iterator[int]) -> None:
        self.kind = kind
        self.number = next(numbers)
        self.started = self.stopped = self.closed = 0
        self.heard: list[Message] = []
        self.ending = threading.Event()

    @property
    def dead(self) -> bool:
        return self.ending.is_set()

    def start(self) -> None:
        self.started += 1
        if self.kind == "broken":
            self.ending.set()
            raise StartError("no such luck")

    def ask(self, message: Message, seconds: float) -> Message:
        self.heard.append(message)
        if "wait" in message:
            message["wait"].told.put(self)
            message["wait"].go.wait(LONG)
        if "defect" in message:
            raise ValueError("a defect of ours")
        if self.ending.wait(message.get("sleep", 0)) or "die" in message:
            raise WorkerDied("it died")
        if message.get("late", 0) > seconds:
            raise WorkerTimeout(f"no answer within {seconds:g} s")
        return {"n": message.get("n"), "worker": self.number, "kind": self.kind}

    def stop(self) -> None:
        self.stopped += 1
        self.ending.set()

    def close(self) -> None:
        self.closed += 1
        self.ending.set()


class Gate:
    """Holds a job inside its worker until `go` is set; it is no JSON, see `pool`."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[Here] = queue.SimpleQueue()
        self.go = threading.Event()


class Factory:
    """Makes workers and remembers them."""

    def __init__(self) -> None:
        self.made: list[Here] = []
        self.refusals: list[Exception] = []
        self._numbers = iter(range(1000))

    def __call__(self, kind: Hashable) -> Here:
        if self.refusals:
            raise self.refusals.pop()
        self.made.append(Here(kind, self._numbers))
        return self.made[-1]


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    """Lets a Gate travel as a message, which has to be JSON otherwise."""
    monkeypatch.setattr("sandbox.messages.encode", lambda message: b"")
    gate = Gate()
    yield gate
    gate.go.set()


@pytest.fixture
def pool(factory) -> Iterator[Pool]:
    with Pool(factory, 2, limit=1000) as pool:
        yield pool


def test_every_job_from_every_thread_is_answered_with_its_own_answer(pool, factory):
    answers: dict[int, int] = {}

    def ask(thread: int) -> None:
        futures = {n: pool.submit({"n": n}, LONG) for n in range(thread * 100, thread * 100 + 50)}
        answers.update((n, future.result(LONG)["n"]) for n, future in futures.items())

    in_threads(ask, 4)
    assert len(answers) == 200 and all(n == answer for n, answer in answers.items())
    assert 1 <= len(factory.made) <= 2
    assert sum(len(worker.heard) for worker in factory.made) == 200


def test_no_more_jobs_run_at_a_time_than_there_are_places(factory, gate):
    with Pool(factory, 2, limit=3) as pool:
        futures = [pool.submit({"wait": gate}, LONG) for _ in range(2)]
        for _ in futures:
            gate.told.get(timeout=LONG)
        futures += [pool.submit({"n": n}, LONG) for n in range(3)]
        assert pool.load == (2, 3)
        with pytest.raises(PoolFull, match="3 jobs wait already, 3 are allowed"):
            pool.submit({}, LONG)
        assert [future.running() for future in futures] == [True] * 2 + [False] * 3
        gate.go.set()
        assert [future.result(LONG)["n"] for future in futures[2:]] == [0, 1, 2]
        pool.submit({}, LONG).result(LONG)


def test_load_is_nothing_when_all_is_answered(pool):
    wait([pool.submit({"n": n}, LONG) for n in range(20)], LONG)
    assert until(lambda: pool.load == (0, 0))  # counted a moment after the answer


@pytest.mark.parametrize(
    ("message", "seconds", "error"),
    [({"die": 1}, LONG, WorkerDied), ({"late": 9}, 1, WorkerTimeout)],
)
def test_a_worker_that_fails_fails_only_its_own_job(factory, message, seconds, error):
    with Pool(factory, 1) as pool:
        good = [pool.submit({"n": n}, LONG) for n in range(3)]
        bad = pool.submit(message, seconds)
        more = [pool.submit({"n": n}, LONG) for n in range(3)]
        with pytest.raises(error):
            bad.result(LONG)
        assert [f.result(LONG)["n"] for f in good + more] == [0, 1, 2] * 2
        assert {f.result()["worker"] for f in good} == {0}
        assert {f.result()["worker"] for f in more} == {1}
        assert factory.made[0].closed == 1


def test_a_worker_that_died_while_idle_costs_no_job(factory):
    with Pool(factory, 1) as pool:
        assert pool.submit({}, LONG).result(LONG)["worker"] == 0
        factory.made[0].ending.set()
        assert pool.submit({}, LONG).result(LONG)["worker"] == 1
        assert factory.made[0].closed == 1


def test_a_worker_that_cannot_start_says_why_and_the_next_one_is_tried(factory):
    with Pool(factory, 1) as pool:
        with pytest.raises(StartError, match="no such luck"):
            pool.submit({}, LONG, "broken").result(LONG)
        factory.refusals.append(WorkerDied("there is no room"))
        with pytest.raises(WorkerDied, match="there is no room"):
            pool.submit({}, LONG, "other").result(LONG)
        assert pool.submit({}, LONG, "other").result(LONG)["kind"] == "other"
        assert factory.made[0].closed == 1


def test_a_defect_of_ours_reaches_the_one_who_waits(pool):
    with pytest.raises(ValueError, match="a defect of ours"):
        pool.submit({"defect": 1}, LONG).result(LONG)
    assert pool.submit({"n": 1}, LONG).result(LONG)["n"] == 1


def test_each_kind_of_job_has_a_worker_of_its_own(factory):
    with Pool(factory, 1) as pool:
        kinds = ["a", "b", "a", None, "b", "a"]
        answers = [pool.submit({}, LONG, kind).result(LONG) for kind in kinds]
        assert [answer["kind"] for answer in answers] == kinds
        assert [answer["worker"] for answer in answers] == [0, 1, 0, 2, 1, 0]


def test_warm_kinds_are_started_before_any_job(factory):
    with Pool(factory, 2, warm=("a", "broken")) as pool:
        assert until(lambda: sum(worker.started for worker in factory.made) == 4)
        assert pool.submit({}, LONG, "a").result(LONG)["kind"] == "a"
        assert len(factory.made) == 4
        with pytest.raises(StartError, match="no such luck"):
            pool.submit({}, LONG, "broken").result(LONG)


def test_an_owners_workers_are_used_for_its_jobs_only(factory):
    with Pool(factory, 1) as pool:
        owned: dict[Hashable, Any] = {}
        mine = [pool.submit({}, LONG, None, owned).result(LONG)["worker"] for _ in range(2)]
        assert pool.submit({}, LONG).result(LONG)["worker"] == 1
        assert mine == [0, 0] and list(owned.values()) == factory.made[:1]
        pool.release(owned)
        assert owned == {} and factory.made[0].closed == 1


def test_what_prepares_a_new_worker_runs_before_the_message_and_once(factory):
    prepared = []

    def prepare(worker: Any) -> None:
        prepared.append((worker, len(worker.heard)))

    with Pool(factory, 1) as pool:
        owned: dict[Hashable, Any] = {}
        for _ in range(3):
            pool.submit({}, LONG, None, owned, prepare).result(LONG)
        owned[None].ending.set()
        pool.submit({}, LONG, None, owned, prepare).result(LONG)
    assert prepared == [(factory.made[0], 0), (factory.made[1], 0)]


def test_a_worker_that_could_not_be_prepared_is_not_used(factory):
    def refuse(worker: object) -> None:
        raise WorkerDied(f"{type(worker).__name__} would not be prepared")

    with Pool(factory, 1) as pool:
        owned: dict[Hashable, Any] = {}
        with pytest.raises(WorkerDied, match="Here would not be prepared"):
            pool.submit({}, LONG, None, owned, refuse).result(LONG)
        assert owned == {} and factory.made[0].closed == 1 and factory.made[0].heard == []


def test_close_answers_what_runs_and_what_waits(factory):
    pool = Pool(factory, 2)
    owned: dict[Hashable, Any] = {}
    pool.submit({}, LONG, None, owned).result(LONG)
    futures = [pool.submit({"sleep": LONG}, LONG) for _ in range(4)]
    assert until(lambda: sum(future.running() for future in futures) == 2)
    in_threads(lambda _: pool.close(), 3)  # from several at once, and again below
    pool.close()
    assert all(isinstance(future.exception(LONG), PoolClosed) for future in futures)
    assert all(worker.closed for worker in factory.made)  # the owner's, who did not release it, too
    with pytest.raises(PoolClosed, match="the pool is closed"):
        pool.submit({}, LONG)


def test_a_pool_closed_at_once_starts_nothing_for_long(factory):
    Pool(factory, 2, warm=("a",)).close()
    assert all(worker.closed for worker in factory.made)


def test_close_may_be_called_back_and_its_thread_ends_all_the_same(factory):
    pool = Pool(factory, 2)
    before = set(threading.enumerate()) - set(pool._threads)
    pool.submit({}, LONG).add_done_callback(lambda _: pool.close())
    assert until(lambda: not set(threading.enumerate()) - before)
    assert all(worker.closed for worker in factory.made)


def test_callbacks_of_several_places_may_close_it_at_once(factory):
    pool = Pool(factory, 3)
    before = set(threading.enumerate()) - set(pool._threads)
    together = threading.Barrier(3, timeout=LONG)

    def close(_: object) -> None:
        together.wait()
        pool.close()

    for _ in range(3):
        pool.submit({"sleep": 0.05}, LONG).add_done_callback(close)
    assert until(lambda: not set(threading.enumerate()) - before)
    assert all(worker.closed for worker in factory.made)


def test_a_second_attempt_finds_its_place_in_a_full_queue(factory, gate):
    with Pool(factory, 1, limit=1) as pool:
        futures = [pool.submit({"wait": gate}, LONG)]
        gate.told.get(timeout=LONG)
        futures.append(pool.submit({"n": 1}, LONG))
        with pytest.raises(PoolFull):
            pool.submit({}, LONG)
        futures.append(pool.submit({"n": 2}, LONG, again=True))
        assert pool.load == (1, 2)
        gate.go.set()
        assert [future.result(LONG)["n"] for future in futures] == [None, 1, 2]


def test_a_cancelled_job_never_runs(factory, gate):
    with Pool(factory, 1) as pool:
        running = pool.submit({"wait": gate}, LONG)
        gate.told.get(timeout=LONG)
        waiting = pool.submit({"die": 1}, LONG)
        assert waiting.cancel() and not running.cancel()
        gate.go.set()
        assert running.result(LONG)["worker"] == 0
        assert pool.submit({}, LONG).result(LONG)["worker"] == 0
    assert [len(worker.heard) for worker in factory.made] == [2]


def test_a_message_that_fits_no_frame_is_refused_at_once(pool):
    with pytest.raises(FrameError, match="not JSON"):
        pool.submit({"n": object()}, LONG)
    assert pool.load == (0, 0)


def test_a_pool_has_at_least_one_place(factory):
    with pytest.raises(ValueError, match="at least one worker, got 0"):
        Pool(factory, 0)


def in_threads(call: Callable[[int], object], count: int) -> None:
    threads = [threading.Thread(target=call, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def until(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + LONG
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return bool(condition())
