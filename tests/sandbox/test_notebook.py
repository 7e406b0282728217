"""What ends a cell, what a cell that breaks its own interpreter costs."""

from collections.abc import Iterator

import pytest

from sandbox import Sandbox, SandboxError, Session


@pytest.fixture
def session(box: Sandbox) -> Iterator[Session]:
    with box.session(timeout=10) as session:
        try:
            session.run("import os, sys, threading, time\nx = 1")
        except SandboxError as error:
            if "sessions need" in str(error):
                pytest.skip(str(error))
            raise
        yield session


def test_a_fork_that_comes_to_the_end_does_not_end_the_cell(session):
    both = "if os.fork() == 0: x = 'child'\nelse: time.sleep(0.3); print('parent'); x = 'parent'"
    result = session.run(both)
    assert (result.status, result.stdout) == ("ok", "parent\n")
    assert session.run("print(x)").stdout == "parent\n"


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("sys.exit(3)", 3), ("sys.exit('no')", 1), ("1 / 0", 1)]
)
def test_a_fork_leaves_a_cell_with_its_own_status_and_output(session, end, status):
    code = f"pid = os.fork()\nif pid == 0:\n    print('said', end='')\n    {end or 'pass'}\nelse:\n"
    code += "    print(' and', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    result = session.run(code)
    assert (result.status, result.stdout) == ("ok", f"said and {status}\n")
    assert session.run("print(x, pid > 0)").stdout == "1 True\n"


HIDE = """
import ctypes, platform
def leave_threads():
    threading.Thread(target=time.sleep, args=(600,)).start()
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


def test_a_cell_whose_first_thread_alone_has_ended_ends_with_the_others(session):
    session.run(HIDE)
    result = session.run("x = 2\nleave_threads()", timeout=0.5)
    assert result.status == "timeout"
    assert session.run("print(x)", timeout=5).stdout == "1\n"


@pytest.mark.parametrize("level", ["rlimits", "restricted"])  # above, all is stopped at once
def test_a_child_whose_first_thread_has_ended_ends_with_its_cell(level):
    code = """
pid = os.fork()
if pid == 0:
    def beat():
        while True:
            open("beats", "a").write("x")
            time.sleep(0.01)
    threading.Thread(target=beat).start()
    leave_threads()
while not os.path.exists("beats"): time.sleep(0.01)
time.sleep(0.1)
"""
    still = "first = beats(); time.sleep(0.2); print(first > 0, beats() - first)"
    with (
        Sandbox(workers=1, min_level="rlimits", max_level=level, preload=(), timeout=60) as box,
        box.session() as session,
    ):
        session.run("import os, threading, time\ndef beats(): return os.stat('beats').st_size")
        assert session.run(HIDE + code).status == "ok"
        assert session.run(still).stdout == "True 0\n"


@pytest.mark.parametrize(
    "code",
    [
        "sys.excepthook = lambda *_: 1 / 0",
        "sys.excepthook = lambda *_: sys.exit(1)",
        "del sys.excepthook",
        "sys.stderr.close()",
        "sys.stderr = None",
        "sys.stderr = 5",
        "os.close(2); sys.stderr.write('no newline')",
        "class A:\n  def write(self, _): 1 / 0\n  flush = write\nsys.stderr = A()",
        "class A:\n  def __str__(self): raise ValueError\nsys.exit(A())",
        "class A(SystemExit):\n  code = property(lambda self: 1 / 0)\nraise A",
    ],
)
def test_whatever_breaks_the_report_of_an_error_output_and_state_stay(session, code):
    result = session.run(f"x = 2; print('kept', end='')\n{code}\nraise ValueError")
    assert (result.status, result.stdout) == ("error", "kept")
    assert result.exit_code in (1, 120) and "not run" not in result.stderr
    assert session.run("print(x)").stdout == "2\n"


def test_output_that_cannot_be_flushed_is_told_and_the_state_stays(session):
    code = "class A:\n  def flush(self): 1 / 0\nx = 2; print('kept', end=''); sys.stdout = A()"
    result = session.run(code)
    assert (result.status, result.exit_code, result.stdout) == ("error", 120, "kept")
    assert "line 2, in flush" in result.stderr and "notebook.py" not in result.stderr
    assert session.run("sys.stdout = sys.__stdout__; print(x)").stdout == "2\n"


BURN = "def burn():\n    end = time.thread_time() + 0.4\n"
BURN += "    while time.thread_time() < end: pass\n"
THREAD = "t = threading.Thread(target=burn); t.start(); t.join()"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (THREAD, "ok"),
        ("import time\nthreading.Thread(target=time.sleep, args=(99,)).start()\nburn()", "ok"),
        (f"if os.fork() == 0:\n    {THREAD}\nelse:\n    os.wait()", "ok"),
        (f"{THREAD}; os._exit(1)", "error"),
    ],
)
def test_all_processor_time_of_a_cell_is_counted(session, code, status):
    before, cell, after = [session.run(part) for part in (BURN, code, "")]
    assert (before.status, cell.status, after.status) == ("ok", status, "ok")
    assert cell.cpu_seconds > 0.3 > max(before.cpu_seconds, after.cpu_seconds)
