"""Failures of our own, levels, the command line, and what is left when all is over."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import Sandbox, SandboxError
from tests.sandbox.processes import all_gone, descendants, eventually

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"

TRAINER = """
import sys, threading
from sandbox import Sandbox
box = Sandbox(workers=2, preload=(), timeout=600)
code = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); "
for _ in range(2):
    box.submit(code + "print(1); time.sleep(600)")
print(box._scratch.path, flush=True)
threading.Event().wait()
"""


def spawn(source: str, *, python: str = sys.executable, prefix: tuple[str, ...] = ()):
    return subprocess.Popen(
        [*prefix, python, "-c", source],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def command(*arguments: str, python: str = sys.executable, prefix: tuple[str, ...] = ()):
    return subprocess.run(
        [*prefix, python, "-m", "sandbox", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )


@pytest.mark.parametrize("victim", ["keeper", "zygote", "both"])
def test_a_worker_killed_during_a_job_costs_nothing(victim):
    with Sandbox(workers=1, preload=(), timeout=60) as box:
        assert box.level
        (keeper,) = box._pool.pids()
        answered = []
        future = box.submit("import os; os.system('sleep 1'); print('once')")
        future.add_done_callback(lambda done: answered.append(done.result().stdout))
        assert eventually(lambda: len(descendants(keeper)) >= 3)  # the program runs
        family = descendants(keeper)
        zygote = min(family)
        for pid in {"keeper": [keeper], "zygote": [zygote], "both": [keeper, zygote]}[victim]:
            os.kill(pid, signal.SIGKILL)
        assert future.result().stdout == "once\n"
        assert eventually(lambda: answered) and answered == ["once\n"]
        assert all_gone({keeper, *family})


def test_a_worker_that_dies_twice_is_our_failure_not_a_result():
    with Sandbox(workers=1, preload=(), timeout=60) as box:
        future = box.submit("import os; os.system('sleep 60')")
        for _ in range(2):
            assert eventually(lambda: any(len(descendants(p)) >= 3 for p in box._pool.pids()))
            for keeper in box._pool.pids():
                family = descendants(keeper)
                os.kill(keeper, signal.SIGKILL)
                assert all_gone(family)
        with pytest.raises(SandboxError, match="the sandbox failed"):
            future.result()


def test_many_programs_at_once_get_their_own_answers(box):
    futures = [box.submit(f"print({n})") for n in range(60)]
    assert [future.result().stdout for future in futures] == [f"{n}\n" for n in range(60)]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_trainer(end):
    with spawn(TRAINER) as trainer:
        assert trainer.stdout is not None
        scratch = trainer.stdout.readline().strip()
        # per worker: keeper, zygote, program, sleep
        assert eventually(lambda: len(descendants(trainer.pid)) >= 8)
        family = descendants(trainer.pid)
        trainer.send_signal(end)
        trainer.wait()
    assert all_gone(family)
    assert eventually(lambda: not os.path.exists(scratch))


def test_close_leaves_no_process_and_no_file():
    box = Sandbox(workers=2, preload=(), timeout=600)
    assert box._scratch is not None
    path = box._scratch.path
    future = box.submit("import subprocess; subprocess.run(['sleep', '600'])")
    assert eventually(lambda: any(len(descendants(pid)) >= 3 for pid in box._pool.pids()))
    keepers = box._pool.pids()
    family = set(keepers).union(*map(descendants, keepers))
    box.close()
    assert isinstance(future.exception(timeout=20), SandboxError)
    assert all_gone(family) and not os.path.exists(path)
    with pytest.raises(SandboxError, match="closed"):
        box.run("print(1)")


def test_the_constructor_does_not_wait():
    started = time.monotonic()
    with Sandbox(workers=1) as box:
        assert time.monotonic() - started < 0.5  # importing sympy alone takes as long
        assert box.run("print(1)", timeout=60).stdout == "1\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_level": "full"}, "full wanted.*pass min_level="),
        ({"preload": ("no_such_module",)}, "No module named 'no_such_module'"),
    ],
)
def test_what_workers_cannot_do_is_one_line(options, words):
    with Sandbox(workers=1, **options) as box:
        with pytest.raises(SandboxError, match=words) as caught:
            box.run("print(1)")
        with pytest.raises(SandboxError, match=words):
            print(box.level)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"min_level": "most"}, {"workers": 0}, {"timeout": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(SandboxError, match="expected"):
        Sandbox(**options)


def test_check_and_run_on_the_command_line(tmp_path):
    checked = command("check", "--preload", "")
    assert checked.returncode == 0 and checked.stdout.startswith("level ")
    file = tmp_path / "file.py"
    file.write_text("print(input())\n1 / 0\n")
    (tmp_path / "in").write_text("hello\n")
    ran = command("run", str(file), "--preload", "", "--stdin", str(tmp_path / "in"))
    assert (ran.returncode, ran.stdout) == (1, "hello\n")
    assert "line 2, in <module>" in ran.stderr and "[error, exit code 1" in ran.stderr
    missing = command("run", str(tmp_path / "none.py"))
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1
    assert "--timeout" in command("run", "--help").stdout


SURVEY = """
from sandbox import Sandbox
with Sandbox(workers=1, preload=(), timeout=20) as box:
    print(box.level, box.report["identity"], ",".join(box.report["namespaces"]) or "none")
    print(box.run("import os; print(os.getuid())").stdout.strip())
    print(box.run("x = bytearray(20 << 30)").status)
    print(box.run("while True: pass", timeout=0.3).status)
    code = '''
import os, subprocess, time
subprocess.Popen(["sleep", "600"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(600)
    os._exit(0)
print("left")
'''
    print(box.run(code).stdout.strip())
    import sys; sys.path.insert(0, "tests/sandbox")
    from processes import descendants
    (keeper,) = box._pool.pids()
    print(len(descendants(keeper)))
"""


def survey(prefix: tuple[str, ...]) -> list[str]:
    """What SURVEY prints under the system's Python, which no private directory hides."""
    if os.geteuid() != 0 or not shutil.which("setpriv") or not os.path.exists(SYSTEM_PYTHON):
        pytest.skip("needs root, setpriv and a system Python")
    version = [SYSTEM_PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if subprocess.run(version).returncode != 0:
        pytest.skip("the system's Python is older than 3.11")
    process = spawn(SURVEY, python=SYSTEM_PYTHON, prefix=prefix)
    out, _ = process.communicate(timeout=120)
    return out.splitlines()


REST = ["memory", "timeout", "left", "1"]  # and only the zygote is left below the keeper


def test_root_reaches_restricted():
    first, uid, *rest = survey(())
    level, identity, _ = first.split()
    if level == "rlimits":
        pytest.skip("this machine gives root no namespaces")
    assert (level, identity, uid, rest) == ("restricted", "nobody", "65534", REST)


def test_a_container_without_namespaces_still_leaves_no_process():
    first, uid, *rest = survey(("setpriv", "--bounding-set", "-sys_admin"))
    assert first == "rlimits nobody none"
    assert (uid, rest) == ("65534", REST)


def test_an_unprivileged_user_gets_what_the_kernel_gives():
    prefix = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    first, uid, *rest = survey(prefix)
    level, identity, namespaces = first.split()
    assert level == ("rlimits" if namespaces == "none" else "restricted")
    assert (identity, uid, rest) == ("capless", "65534", REST)
