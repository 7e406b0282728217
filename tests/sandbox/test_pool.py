"""The generic pool, with a small worker of its own."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.pool import Pool, PoolClosed, StartError, WorkerDied, WorkerTimeout
from tests.sandbox.processes import all_gone

ROOT = str(Path(__file__).resolve().parents[2])

WORKER = """
import os, sys, time
from sandbox import messages

def handle(message):
    print("prints do not damage frames")
    if "sleep" in message: time.sleep(message["sleep"])
    if "die" in message: os._exit(message["die"])
    if "fail" in message: raise ValueError(message["fail"])
    if "garbage" in message: os.write(4, b"not a frame at all")
    return {"pid": os.getpid(), **message}

messages.serve(handle, colour="green")
"""


def pool_of(workers: int, source: str = WORKER) -> Pool:
    environment = {"PYTHONPATH": ROOT, "PATH": os.defpath}
    return Pool([sys.executable, "-S", "-c", source], workers, env=environment)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with pool_of(2) as pool:
        yield pool


def test_every_job_from_every_thread_is_answered_with_its_own_answer(pool):
    answers: dict[int, int] = {}

    def ask(thread: int) -> None:
        futures = {n: pool.submit({"n": n}, 60) for n in range(thread * 100, thread * 100 + 50)}
        answers.update((n, future.result()["n"]) for n, future in futures.items())

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 200 and all(n == answer for n, answer in answers.items())


def test_ready_holds_what_the_worker_said(pool):
    assert pool.ready() == {"ready": True, "colour": "green"}


def test_large_messages_pass(pool):
    text = "x" * (3 << 20)
    assert pool.submit({"text": text}, 60).result()["text"] == text


def test_a_late_worker_is_killed_and_replaced(pool):
    before = pool.submit({}, 60).result()["pid"]
    with pytest.raises(WorkerTimeout, match="no answer within"):
        pool.submit({"sleep": 600}, 0.3).result()
    after = {pool.submit({"sleep": 0.2}, 60) for _ in range(2)}
    assert len({future.result()["pid"] for future in after} | {before}) >= 2


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"die": 5}, "exit status 5"),
        ({"fail": "what went wrong"}, "ValueError: what went wrong"),
        ({"garbage": 1}, "frame"),
    ],
)
def test_a_worker_that_ends_or_babbles_fails_its_own_job_only(pool, message, words):
    good = [pool.submit({"n": n}, 60) for n in range(3)]
    bad = pool.submit(message, 60)
    more = [pool.submit({"n": n}, 60) for n in range(3)]
    with pytest.raises(WorkerDied, match=words):
        bad.result()
    assert [future.result()["n"] for future in good + more] == [0, 1, 2] * 2


def test_a_worker_killed_while_idle_costs_no_job(pool):
    for future in [pool.submit({"sleep": 0.2}, 60) for _ in range(2)]:
        os.kill(future.result()["pid"], signal.SIGKILL)
    time.sleep(0.2)
    assert pool.submit({"n": 1}, 60).result()["n"] == 1


def test_a_worker_that_cannot_start_says_why():
    with pool_of(1, "import sys; sys.exit('no such luck')") as pool:
        with pytest.raises(StartError, match="no such luck"):
            pool.submit({}, 60).result()
        with pytest.raises(StartError, match="no such luck"):
            pool.ready()


def test_a_command_that_does_not_exist_says_so():
    with Pool(["/nonexistent/worker"], 1) as pool, pytest.raises(StartError, match="nonexistent"):
        pool.submit({}, 60).result()


def test_close_answers_what_is_left_and_leaves_no_process():
    pool = pool_of(2)
    pool.ready()
    running = [pool.submit({"sleep": 600}, 900) for _ in range(4)]
    while sum(future.running() for future in running) < 1:
        time.sleep(0.01)
    pids = pool.pids()
    pool.close()
    for future in running:
        assert isinstance(future.exception(timeout=20), PoolClosed)
    assert all_gone(pids)
    with pytest.raises(PoolClosed):
        pool.submit({}, 60)


def test_a_cancelled_job_never_runs(pool):
    busy = [pool.submit({"sleep": 0.3}, 60) for _ in range(2)]
    waiting = pool.submit({"die": 1}, 60)
    assert waiting.cancel()
    assert all("pid" in future.result() for future in busy)


def test_workers_are_out_of_reach_of_ctrl_c(pool):
    pid = pool.submit({}, 60).result()["pid"]
    assert os.getsid(pid) != os.getsid(0)
