"""Whoever is killed: every job is answered, once and rightly, and in the end nothing is left."""

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from sandbox import LEVELS, Result, Sandbox, SandboxError
from tests.sandbox.processes import (
    KINDS,
    all_gone,
    clan,
    daemons,
    descendants,
    eventually,
    groups,
    kill,
    kin,
    left_by,
    mounts,
    with_argument,
)

ROOT = Path(__file__).resolve().parents[2]
TIERS = ("fractions", "decimal")  # as good as numpy and sympy here, and quick to import
KILLS = 10
SECONDS = 8.0  # after which no further kill follows
ENDS = (LEVELS[0], LEVELS[-1])  # no walls at all, and all that this machine has

TRAINER = """
import json, sys, threading, time
from sandbox import Sandbox, SandboxError
box = Sandbox(workers=2, min_level="rlimits", max_level=sys.argv[1], preload=(), timeout=600)
def show(level=""): print(json.dumps([box._link._name, box._scratch.path, level]), flush=True)
LONG = '''
import os, subprocess, time
open("left", "w").write("x")
try:
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(600)
        os._exit(0)
except PermissionError: pass
time.sleep(600)
'''
"""
UNDER_LOAD = (
    TRAINER + "[box.submit(LONG) for _ in range(6)]; show(box.level); threading.Event().wait()"
)
WITH_SESSIONS = (
    TRAINER
    + """
sessions = [box.session() for _ in range(3)]
for session in sessions: session.run("x = 1")
for session in sessions: session.submit(LONG)
show(box.level); threading.Event().wait()
"""
)
STARTING = TRAINER + "show(); threading.Event().wait()"
UNCLOSED = (
    TRAINER
    + """
print(box.run("print(1)").stdout, end="")
box.session().run("x = 1")
box.submit(LONG)
while not box.load[0]: time.sleep(0.01)
show()
"""
)
DEAF = (
    TRAINER
    + """
future = box.submit("import time; print('here', flush=True); time.sleep(1); print('heard nothing')")
while not box.load[0]: time.sleep(0.01)
time.sleep(0.3)
try: show(); threading.Event().wait()
except KeyboardInterrupt: print(future.result().stdout.splitlines()[-1], flush=True)
box.close()
"""
)


class Load:
    """Threads that ask and check, until the context ends. `kind` is who is being killed."""

    def __init__(self, box: Sandbox, kind: str, threads: int = 3) -> None:
        self._box = box
        self._program = kind == "program"
        self._stop = threading.Event()
        self.kills = self.over = 0  # begun; of them ended, before a job that was not hit
        self.answered = 0
        self.wrong: list[object] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a job was never answered"

    def _ask(self, thread: int) -> None:
        number = thread * 1_000_000
        while not self._stop.is_set():
            jobs = []
            for _ in range(3):
                number += 1
                name = ("math", *TIERS)[number % 3]
                show = f"print({number * 3}, {name}.__name__)"
                code = f"import {name}, time; time.sleep(0.02); {show}"
                jobs.append((self.over, f"{number * 3} {name}\n", self._box.submit(code)))
            for over, expected, future in jobs:
                self._check(over, expected, future)

    def _check(self, over: int, expected: str, future: "Future[Result]") -> None:
        try:
            result = future.result(120)
        except SandboxError as error:
            if self.kills - over < 2:  # it was hit at most once
                self.wrong.append(error)
        else:
            if self._program and result.status == "killed" and self.kills > over:
                return  # as if it had killed itself: who it was cannot be seen
            if (result.status, result.stdout) != ("ok", expected):
                self.wrong.append((expected, result))
        finally:
            with self._lock:
                self.answered += 1


def left(name: str, scratch: str, trainer: int, others: Iterable[int]) -> dict[str, object]:
    """What there is of a sandbox; `others` are the daemons of those that stay open."""
    found = {
        "processes": sorted(left_by(trainer, others)),
        "control groups": groups(trainer) if trainer != os.getpid() else groups_of(name),
        "files": [scratch] if os.path.exists(scratch) else [],
    }
    return {what: those for what, those in found.items() if those}


def groups_of(name: str) -> list[str]:
    return [path for path in groups(os.getpid()) if f"/{name}" in path]


def as_many_groups_as_slots(box: Sandbox) -> bool:
    """Or none: what a slot leaves is removed at once, not only in the end."""
    names = {os.path.basename(path) for path in groups_of(box._link._name)}
    slots = {name for name in names if name.startswith("slot-")}
    return len(slots) == (len(kin(box._link.pid)["slot"]) if names else 0)


@contextlib.contextmanager
def leaving_nothing(**options) -> Iterator[Sandbox]:
    """A sandbox of which nothing remains when the context ends, however it is closed."""
    others, threads = daemons(), set(threading.enumerate())
    before = (mounts(), sorted(map(opened, os.listdir("/proc/self/fd"))))
    with Sandbox(min_level="rlimits", timeout=60, memory_mb=64, **options) as box:
        assert box._scratch is not None
        name, scratch = box._link._name, box._scratch.path
        yield box
    gone = eventually(lambda: not left(name, scratch, os.getpid(), others), 5)
    assert gone, left(name, scratch, os.getpid(), others)
    after = (mounts(), sorted(map(opened, os.listdir("/proc/self/fd"))))
    assert after == before
    assert eventually(lambda: not any(map(of_a_pool, {*threading.enumerate()} - threads)), 5)


def of_a_pool(thread: threading.Thread) -> bool:
    return thread.name.startswith("pool-")


def opened(fd: str) -> str:
    """What kind of thing a descriptor of ours is."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
    except FileNotFoundError:  # the one that listed the directory
        return "/proc"


@pytest.mark.parametrize("level", ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_under_load_a_kill_costs_no_answer(kind, level):
    """A daemon is replaced after two seconds or so: fewer of them in the same time."""
    seconds = time.monotonic() + SECONDS
    with leaving_nothing(workers=2, preload=TIERS, max_level=level) as box:
        assert box.level
        with Load(box, kind) as load:
            while load.kills < KILLS and time.monotonic() < seconds:
                answered = load.answered
                assert eventually(lambda: kin(box._link.pid)[kind]), f"no {kind} was found"
                load.kills += 1
                victim = random.choice(kin(box._link.pid)[kind] or [box._link.pid])
                family = {victim} | (descendants(victim) if kind == "daemon" else set())
                kill(victim)
                assert all_gone(family)
                load.over += 1
                assert eventually(lambda seen=answered: load.answered > seen + 5, 60)
        assert not load.wrong, collections.Counter(map(str, load.wrong)).most_common(5)
        assert load.kills >= (3 if kind == "daemon" else KILLS)
        for name in ("math", *TIERS):
            assert box.run(f"import {name}; print({name}.__name__)").stdout == f"{name}\n"
        assert eventually(lambda: as_many_groups_as_slots(box))


def test_all_of_them_at_once_cost_no_answer_either():
    with leaving_nothing(workers=2, preload=TIERS) as box:
        futures = [box.submit(f"import time; time.sleep(0.3); print({n})") for n in range(4)]
        assert eventually(lambda: box.load[0] == 2)
        for pid in clan([box._link.pid]):
            kill(pid)
        assert [future.result(120).stdout for future in futures] == [f"{n}\n" for n in range(4)]


def test_a_daemon_that_dies_at_every_start_is_given_up_in_one_line():
    with leaving_nothing(workers=1, preload=()) as box:
        stop = threading.Event()

        def hunt() -> None:
            while not stop.wait(0.005):
                kill(box._link.pid)

        hunter = threading.Thread(target=hunt)
        hunter.start()
        try:
            with pytest.raises(SandboxError, match="the daemon ended") as caught:
                box.run("print(1)")
            assert "\n" not in str(caught.value)
        finally:
            stop.set()
            hunter.join()


@contextlib.contextmanager
def trainer(source: str, level: str = LEVELS[-1]) -> "Iterator[subprocess.Popen[str]]":
    """Another process that uses a sandbox; killed, should it still run at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, level],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("level", ENDS)
@pytest.mark.parametrize("source", [UNDER_LOAD, WITH_SESSIONS, STARTING])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_trainer(source, level, end):
    before = mounts()
    with trainer(source, level) as process:
        name, scratch, found = json.loads(line(process))
        if found == "restricted":  # without namespaces no program may start another
            time.sleep(0.5)
        elif source != STARTING:
            assert eventually(lambda: len(sleepers(process.pid)) == 2)
        family = descendants(process.pid)
        process.send_signal(end)
        process.wait()
        assert eventually(lambda: not left(name, scratch, process.pid, daemons()), 10)
        assert all_gone(family)
    assert mounts() == before


def sleepers(pid: int) -> set[int]:
    return descendants(pid) & with_argument("sleep\x00600")


def test_an_interpreter_that_ends_without_closing_leaves_nothing():
    with trainer(UNCLOSED) as process:
        assert line(process) == "1\n"
        name, scratch, _ = json.loads(line(process))
        assert process.wait(10) == 0
        assert eventually(lambda: not left(name, scratch, process.pid, daemons()), 10)


def test_ctrl_c_reaches_the_trainer_only():
    with trainer(DEAF) as process:
        name, scratch, _ = json.loads(line(process))
        os.killpg(process.pid, signal.SIGINT)
        assert line(process) == "heard nothing\n"
        assert process.wait(10) == 0
        assert eventually(lambda: not left(name, scratch, process.pid, daemons()), 10)


def test_ctrl_c_ends_a_trainer_that_does_not_expect_it():
    with trainer(TRAINER + "show()\nwith box: box.run(LONG)") as process:
        name, scratch, _ = json.loads(line(process))
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) != 0
        assert eventually(lambda: not left(name, scratch, process.pid, daemons()), 10)


@pytest.mark.parametrize("wait", [0.0, 0.1, 0.4])
def test_close_during_the_start_leaves_nothing(wait):
    with leaving_nothing(workers=2, preload=TIERS) as box:
        future = box.submit("print(1)")
        time.sleep(wait)
        box.close()
        failed = future.exception(timeout=20)
        assert failed is None or isinstance(failed, SandboxError)


def test_close_while_programs_run_answers_them_all():
    with leaving_nothing(workers=2, preload=()) as box:
        code = "import time; time.sleep(600)"
        futures = [box.submit(code, timeout=600) for _ in range(5)]
        futures.append(box.session().submit(code))
        assert eventually(lambda: box.load == (2, 4))
        family = clan([box._link.pid])
        started = time.monotonic()
        box.close()
        assert time.monotonic() - started < 20
        assert family and all_gone(family)
        for future in futures:
            assert isinstance(future.exception(timeout=20), SandboxError)
        with pytest.raises(SandboxError, match="closed"):
            box.run("print(1)")


def test_close_may_come_from_anywhere_and_more_than_once():
    with leaving_nothing(workers=2, preload=()) as box:
        threads = [threading.Thread(target=box.close) for _ in range(3)]
        box.submit("print(1)").add_done_callback(lambda _: box.close())
        assert eventually(lambda: box._scratch is None)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        box.close()


SWEEP = """
import os, sys, time
from sandbox import kernel, sweep
kernel.adopt_orphans()
told, tell = os.pipe()
def tree(depth):
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            if depth: tree(depth - 1)
            os.write(tell, b"x")
            if depth == 1: os._exit(0)  # its own children are left to us, and nobody reaps it
            time.sleep(600)
def told_by(count):
    while count: count -= len(os.read(told, count))
tree(2)
told_by(14)
kept = 0
if sys.argv[1] == "all":
    ended = {}
    sweep.sweep(False, ended)
    print(len(ended))
else:
    kept = os.fork()
    if kept == 0:
        tree(0)  # who is killed stays its zombie
        time.sleep(600)
    told_by(2)
    sweep.sweep_but(kept, False)
print(sweep.descendants() == ([kept] if kept else []))
sweep.sweep(False)
"""


@pytest.mark.parametrize(("whom", "expected"), [("all", "14\nTrue\n"), ("all but one", "True\n")])
def test_a_sweep_finds_whoever_has_hidden(whom, expected):
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, whom], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.stdout, done.stderr) == (expected, "")
