"""Workers that are a command: answers, ends, and what is left of them."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.command import CommandWorker, command_pool, last_words
from sandbox.pool import Pool, PoolClosed, StartError, WorkerDied, WorkerTimeout
from tests.sandbox.processes import alive, all_gone, children, eventually

ROOT = str(Path(__file__).resolve().parents[2])
ENVIRONMENT = {"PYTHONPATH": ROOT, "PATH": os.defpath}
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
STUBBORN = (
    """
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"])
"""
    + WORKER
)


def command(source: str) -> list[str]:
    return [sys.executable, "-S", "-c", source]


def pool_of(workers: int, source: str = WORKER, seconds: float = 60.0) -> Pool:
    return command_pool(command(source), workers, ENVIRONMENT, seconds)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with pool_of(2) as pool:
        yield pool


def test_jobs_are_answered_by_as_many_processes_as_were_asked_for(pool):
    futures = [pool.submit({"n": n, "sleep": 0.05}, 60) for n in range(10)]
    assert [future.result()["n"] for future in futures] == list(range(10))
    assert len({future.result()["pid"] for future in futures}) == 2


def test_large_messages_pass(pool):
    text = "x" * (3 << 20)
    assert pool.submit({"text": text}, 60).result()["text"] == text


def test_the_environment_is_the_one_given(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    source = WORKER.replace("os.getpid()", "sorted(os.environ)")
    with pool_of(1, source) as pool:
        assert "SECRET" not in pool.submit({}, 60).result()["pid"]
    with command_pool(command(source), 1, {**os.environ, **ENVIRONMENT}) as pool:
        assert "SECRET" in pool.submit({}, 60).result()["pid"]


def test_a_late_worker_is_killed_and_replaced():
    with pool_of(1) as pool:
        before = pool.submit({}, 60).result()["pid"]
        with pytest.raises(WorkerTimeout, match=r"no answer within 0\.3 s"):
            pool.submit({"sleep": 600}, 0.3).result()
        assert not alive(before)
        assert pool.submit({}, 60).result()["pid"] != before


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


def test_workers_killed_while_idle_cost_no_job(pool):
    pids = {pool.submit({"sleep": 0.1}, 60) for _ in range(2)}
    for pid in {future.result()["pid"] for future in pids}:
        os.kill(pid, signal.SIGKILL)
        assert all_gone([pid])
    assert [pool.submit({"n": n}, 60).result()["n"] for n in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys; sys.exit('no such luck')", "no such luck"),
        ("raise SystemExit(3)", "it said nothing .exit status 3."),
        ("print('hello world')", "first message is unreadable"),
    ],
)
def test_a_worker_that_cannot_start_says_why(source, words):
    with pool_of(1, source) as pool, pytest.raises(StartError, match=words):
        pool.submit({}, 60).result()


def test_a_worker_that_is_never_ready_is_given_up():
    with pool_of(1, "import time; time.sleep(600)", 0.2) as pool:
        failed = pool.submit({}, 60).exception()
    assert isinstance(failed, StartError) and "not ready after 0.2 s" in str(failed)


def test_a_command_that_does_not_exist_says_so():
    with command_pool(["/nonexistent/worker"], 1) as pool:
        failed = pool.submit({}, 60).exception()
    assert isinstance(failed, StartError) and "/nonexistent/worker" in str(failed)


def test_close_answers_what_is_left_and_leaves_no_process():
    pool = pool_of(2)
    pids = {pool.submit({"sleep": 0.1}, 60) for _ in range(2)}
    pids = {future.result()["pid"] for future in pids}
    running = [pool.submit({"sleep": 600}, 900) for _ in range(4)]
    assert eventually(lambda: sum(future.running() for future in running) == 2)
    pool.close()
    assert all(isinstance(future.exception(timeout=20), PoolClosed) for future in running)
    assert not any(map(alive, pids))
    with pytest.raises(PoolClosed):
        pool.submit({}, 60)


def test_a_worker_that_will_not_go_is_killed_with_its_own(monkeypatch):
    monkeypatch.setattr("sandbox.command.STOP_SECONDS", 0.2)
    worker = CommandWorker(command(STUBBORN), ENVIRONMENT, 60.0)
    worker.start()
    family = {worker.pid, *children(worker.pid)}
    assert len(family) == 2 and not worker.dead
    worker.close()
    assert worker.dead and all_gone(family)


def test_workers_are_out_of_reach_of_ctrl_c(pool):
    pid = pool.submit({}, 60).result()["pid"]
    assert os.getsid(pid) != os.getsid(0) and os.getpgid(pid) == pid


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_uses_them(end):
    source = f"""
from sandbox.command import command_pool
pool = command_pool({command(WORKER)!r}, 2, {ENVIRONMENT!r})
print(*{{pool.submit({{"sleep": 0.2}}, 60).result()["pid"] for _ in range(4)}}, flush=True)
pool.submit({{}}, 60).result()
__import__("threading").Event().wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as caller:
        assert caller.stdout is not None
        workers = set(map(int, caller.stdout.readline().split()))
        assert workers and workers <= set(children(caller.pid))
        caller.send_signal(end)
    assert all_gone(workers)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "it said nothing"),
        (b"\n \n", "it said nothing"),
        (b"first\nlast\n\n", "last"),
        (b"x" * 9000 + b"\nerror: \xff\n", "error: \ufffd"),
    ],
)
def test_last_words_are_the_last_line_with_any(said, words):
    with tempfile.TemporaryFile() as file:
        file.write(said)
        assert last_words(file) == words
