"""A file of Python functions, called in real worker processes, and every way to fail there."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.tools import sample
from torl_jax.errors import UserError
from torl_jax.tools.python import PythonTools
from torl_jax.tools.toolbox import LARGEST, ToolFailure


@pytest.fixture(scope="module")
def tools():
    with PythonTools(sample.__file__, workers=2, environment={"TOKEN": "abc"}) as tools:
        yield tools


def act(tools, how, timeout=20.0):
    return tools.submit("act", {"how": how}, timeout).result()


def test_functions_are_called_and_see_nothing_of_each_other(tools):
    asked = [tools.submit("add", {"a": n}, 20.0) for n in range(6)]
    assert [future.result().results for future in asked] == [1, 2, 3, 4, 5, 6]
    made = tools.submit("weather", {"city": "Łódź", "unit": "f"}, 20.0).result()
    assert made.results == {"city": "Łódź", "sky": "clear", "unit": "f"}
    assert made.status == "ok" and 0 < made.seconds < 20
    assert act(tools, "none").results is None


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "ValueError: first line"),
        ("exit", "SystemExit: 3"),
        ("vanish", "the tool exited with status 3 before it returned"),
        ("segv", "the tool was killed by signal 11 before it returned"),
        ("group", "the tool was killed by signal 9 before it returned"),
        ("memory", "MemoryError"),
        ("set", "the tool returned a set that JSON cannot hold: "),
        ("nan", "the tool returned a float that JSON cannot hold: "),
        ("cycle", "the tool returned a list that JSON cannot hold: "),
        ("deep", "the tool returned a list that JSON cannot hold: "),
        ("unknown", "KeyError: 'unknown'"),
        ("worker", "the tool's process was killed before it returned"),
    ],
)
def test_what_goes_wrong_is_an_outcome(tools, how, words):
    seen = act(tools, how)
    assert seen.status == "error" and seen.results.startswith(words)
    assert tools.submit("add", {"a": 1}, 20.0).result().results == 2


@pytest.mark.parametrize("how", ["spin", "sleep"])
def test_what_takes_too_long_is_ended(tools, how):
    seen = act(tools, how, 0.3)
    assert (seen.status, seen.results) == ("timeout", "stopped: it took longer than 0.3 s")
    assert 0.3 <= seen.seconds < 10


def test_what_is_printed_is_no_result(tools):
    assert act(tools, "print").results == "quiet"


def test_a_large_result_is_cut_where_it_was_made(tools):
    assert act(tools, "big").results == "x" * LARGEST + "... (10000000 characters)"
    listed = act(tools, "big list").results
    assert listed.startswith("[0, 0, ") and len(listed) < LARGEST + 100
    assert act(tools, "surrogate").results == "\ud800"


@pytest.mark.parametrize("how", ["linger", "start"])
def test_nothing_that_a_call_started_outlives_it(tools, how):
    pid = act(tools, how).results
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_fork_that_returns_too_is_not_heard(tools):
    assert act(tools, "twice").results == "the call's"
    assert [tools.submit("add", {"a": 1}, 20.0).result().results for _ in range(4)] == [2] * 4


def test_the_environment_is_what_was_asked_for(tools):
    found = act(tools, "environment").results
    assert found["TOKEN"] == "abc"
    assert {*found} == {
        "TOKEN",
        "PATH",
        "LANG",
        "PYTHONPATH",
        "PYTHONHASHSEED",
        "PYTHONDONTWRITEBYTECODE",
    }


def test_a_call_ends_with_the_toolbox_and_so_does_all_that_it_started(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text(
        "import os, pathlib, subprocess, time\n"
        "def slow(note: str) -> None:\n"
        "    'Sleeps.'\n"
        "    pid = subprocess.Popen(['sleep', '600'], start_new_session=True).pid\n"
        "    pathlib.Path(note + '~').write_text(f'{os.getpid()} {pid}')\n"
        "    os.rename(note + '~', note)\n"
        "    time.sleep(600)\n"
    )
    note = tmp_path / "pids"
    tools = PythonTools(path, workers=1)
    asked = tools.submit("slow", {"note": str(note)}, 60.0)
    while not note.exists():
        time.sleep(0.01)
    tools.close()
    assert isinstance(asked.exception(), ToolFailure)
    for pid in map(int, note.read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert isinstance(tools.submit("slow", {"note": ""}, 1.0).exception(), ToolFailure)


def test_a_worker_that_cannot_start_again_is_our_failure(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text(
        "import os\ndef die() -> None:\n    'Ends its worker.'\n"
        "    os.kill(os.getppid(), 9)\n    os.kill(os.getpid(), 19)\n"
    )
    with PythonTools(path, workers=1) as tools:
        path.write_text("raise OSError('the disk is gone')")
        assert tools.submit("die", {}, 20.0).result().status == "error"
        error = tools.submit("die", {}, 20.0).exception()
        assert isinstance(error, ToolFailure) and "OSError: the disk is gone" in str(error)
        path.write_text("def die() -> int:\n    'Lives.'\n    return 5\n")
        assert tools.submit("die", {}, 20.0).result().results == 5


def test_a_file_imports_its_neighbours(tmp_path):
    (tmp_path / "neighbour.py").write_text("VALUE = 7")
    (tmp_path / "tools.py").write_text(
        "import dataclasses\nimport neighbour\n"
        "@dataclasses.dataclass\nclass Kept:\n    x: int\n"
        "def value() -> int:\n    'A value.'\n    return neighbour.VALUE\n"
    )
    with PythonTools(tmp_path / "tools.py", workers=1) as tools:
        assert list(tools.functions) == ["value"]
        assert tools.submit("value", {}, 20.0).result().results == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def f(:", "SyntaxError: "),
        ("def f(x):\n 'F.'", "cannot be used: the parameter x of f has no type hint: give one"),
        ("x = 1", "cannot be used: no public function in it"),
        ("raise ValueError('mine')", "cannot be used: ValueError: mine"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "it said nothing"),
    ],
)
def test_a_file_that_cannot_be_used_is_the_users_to_mend(tmp_path, text, words):
    (tmp_path / "tools.py").write_text(text)
    with pytest.raises(UserError) as caught:
        PythonTools(tmp_path / "tools.py", workers=1)
    assert words in str(caught.value) and "tools.py cannot be used" in str(caught.value)
    assert ("worker" in str(caught.value)) == (words == "it said nothing")


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match=r"there is no file nowhere\.py"):
        PythonTools("nowhere.py")
    with pytest.raises(UserError, match="workers 0"):
        PythonTools(sample.__file__, workers=0)


def test_a_worker_ends_with_the_trainer_even_by_kill(tmp_path):
    program = (
        "import sys, time\nfrom torl_jax.tools.python import PythonTools\n"
        f"tools = PythonTools({sample.__file__!r}, workers=1)\n"
        "tools.submit('act', {'how': 'sleep'}, 600.0)\n"
        "worker = next(iter(tools._pool._living)).pid\nprint(worker, flush=True)\ntime.sleep(600)\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    worker = int(trainer.stdout.readline())
    time.sleep(0.3)  # the call begins
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    trainer.stdout.close()
    for _ in range(500):
        if not os.path.exists(f"/proc/{worker}"):
            return
        time.sleep(0.02)
    raise AssertionError("the worker still runs")
