"""The level that each kind of machine gives, and what is the same at every one of them."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import LEVELS, Result, Sandbox, landlock, seccomp
from sandbox.plan import rank
from tests.sandbox import guard

ROOT = Path(__file__).resolve().parents[2]
ROOTLY = pytest.mark.skipif(os.geteuid() != 0, reason="the machines below are made by root")
WALLED = pytest.mark.skipif(
    bool(seccomp.available()) or not landlock.abi(), reason="no seccomp or no Landlock here"
)

# What one machine gives, in a process of its own: arguments are max_level and min_level.
SURVEY = """
import ctypes, json, os, sys
{before}
from sandbox import Sandbox, SandboxError
most, least = sys.argv[1:]
with Sandbox(workers=1, max_level=most, min_level=least, preload=(), timeout=20) as box:
    try:
        found = dict(box.report)
        result = box.run("import os; print(os.getuid(), os.getcwd())")
        found |= {{"status": result.status, "of": result.level, "out": result.stdout.split()}}
        found["memory"] = box.run("x = bytearray(1 << 40)").status
        found["time"] = box.run("while True: pass", timeout=0.3).status
        found["again"] = box.run("print(7)").stdout
    except SandboxError as error:
        found = {{"error": str(error)}}
print(json.dumps(found))
"""
# A kernel without Landlock: a filter of our own answers for it.
NO_LANDLOCK = """
import struct
rows = [(0x20, 0, 0, 0), (0x35, 0, 2, 444), (0x35, 1, 0, 447)]  # load the number; 444 to 446
rows += [(6, 0, 0, 0x50026), (6, 0, 0, 0x7FFF0000)]  # are unknown, the rest is allowed
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *row) for row in rows))
libc = ctypes.CDLL(None)
header = ctypes.create_string_buffer(struct.pack("HP", len(rows), ctypes.addressof(code)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, header, 0, 0) == 0
"""


@functools.cache
def survey(
    *modes: str, most: str = LEVELS[-1], least: str = LEVELS[0], before: str = ""
) -> dict[str, Any]:
    """What a guard's machine gives. Skips where this machine cannot make that one."""
    python = [sys.executable, "-c", SURVEY.format(before=before), most, least]
    command = [sys.executable, "-m", "tests.sandbox.guard", *modes, *python] if modes else python
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    if done.returncode == guard.REFUSED:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: dict[str, Any], level: str) -> None:
    """What must be so at whatever level, and that it is `level`."""
    assert (found["level"], found["of"], found["status"]) == (level, level, "ok"), found["why"]
    assert (found["memory"], found["time"], found["again"]) == ("memory", "timeout", "7\n")
    for text in (found["why"], found["plan"]):
        assert "\n" not in text
    if level != LEVELS[-1]:
        assert found["why"]


@pytest.mark.parametrize("level", LEVELS)
def test_no_level_beyond_the_one_allowed_is_taken(level):
    best = survey()["level"]
    if rank(level) > rank(best):
        pytest.skip(f"this machine gives {best}: {survey()['why']}")
    found = survey(most=level)
    assert (found["level"], found["of"]) == (level, level)
    proofs = found["protections"]
    walls = ["network", "files", "processes", "privileges", "system calls"]
    wanted = {"restricted": walls, "full": [*walls, "own processes", "disk"]}
    wanted[LEVELS[-1]] = [*wanted["full"], "memory in sum"]
    assert all(proofs[name] for name in wanted.get(level, []))
    assert not (level != LEVELS[-1] and proofs["memory in sum"])


def test_each_result_bears_its_level():
    for level in LEVELS[:3:2]:
        with Sandbox(workers=1, min_level="rlimits", max_level=level, preload=()) as box:
            assert box.run("print(1)").level == box.level


@ROOTLY
@WALLED
def test_a_user_without_privileges_gets_namespaces_of_his_own():
    found = survey("--unprivileged")
    if "user namespaces" not in found["plan"]:
        pytest.skip(f"no user namespaces for users here: {found['why']}")
    check(found, "full")
    assert found["out"] == ["1000", "/box"]


@ROOTLY
@WALLED
def test_a_container_as_it_comes_still_keeps_programs_restricted():
    found = survey("--plain-container")
    check(found, "restricted")
    uid, place = found["out"]
    assert uid == "65534" and place.startswith("/tmp/sandbox-")
    assert "namespaces" not in found["plan"] and "unshare" in found["why"]


@ROOTLY
@WALLED
def test_a_user_without_namespaces_is_restricted_under_his_own_name():
    found = survey("--unprivileged", "--no-userns")
    check(found, "restricted")
    assert found["out"][0] == "1000"
    assert "caller's uid" in found["plan"]


@ROOTLY
@WALLED
def test_root_whose_python_nobody_else_can_read_keeps_his_name():
    found = survey("--no-userns")
    check(found, "restricted")
    shut = not readable_by_nobody(sys.base_prefix)
    assert (found["out"][0] == "0") == shut
    assert ("Permission denied" in found["why"]) == shut


@ROOTLY
def test_without_landlock_namespaces_do_and_without_both_only_limits_are_left():
    found = survey(before=NO_LANDLOCK)
    check(found, survey()["level"] if "user namespaces" in found["plan"] else "rlimits")
    bare = survey("--plain-container", before=NO_LANDLOCK)
    check(bare, "rlimits")
    assert "landlock" in bare["why"].lower()


@ROOTLY
@WALLED
@pytest.mark.parametrize("modes", [("--plain-container",), ("--unprivileged", "--no-userns")])
def test_a_machine_that_gives_less_than_asked_refuses_in_one_line(modes):
    found = survey(*modes, least="full")
    error = found["error"]
    assert "restricted found, full wanted" in error and "min_level='restricted'" in error
    assert "\n" not in error and "unshare" in error


def readable_by_nobody(path: str) -> bool:
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os._exit(not os.access(os.path.join(path, "lib"), os.R_OK | os.X_OK))
    return os.waitpid(pid, 0)[1] == 0


def kernel_with(monkeypatch: pytest.MonkeyPatch, place: Path, *changes: str) -> None:
    """Daemons started from now on find a kernel that `changes` make."""
    file = place / "python"
    lines = ["import sys", *changes, "from sandbox.daemon import main", "sys.exit(main())"]
    file.write_text("\n".join([f"#!{sys.executable} -sP", *lines, ""]))
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))


OLD = "from sandbox import landlock, seccomp; landlock.abi = lambda: 2"
NO_RULES = "seccomp._outside = dict"


@WALLED
@pytest.mark.parametrize(("change", "level"), [("", "restricted"), (NO_RULES, "rlimits")])
def test_an_old_landlock_that_lets_files_be_cut_is_seen(monkeypatch, tmp_path, change, level):
    kernel_with(monkeypatch, tmp_path, OLD, change)
    with Sandbox(1, min_level="rlimits", max_level="restricted", preload=(), timeout=20) as box:
        assert box.level == level
        assert ("files: an attack succeeded" in box.why) == (level == "rlimits")
        assert box.run("print(1)").stdout == "1\n"


@WALLED
@pytest.mark.parametrize("version", [0, 5])  # what there is, and one that knows no signals
def test_a_cell_without_namespaces_signals_its_own_processes_only(monkeypatch, tmp_path, version):
    before = f"landlock.abi = lambda: {version}" if version else ""
    kernel_with(monkeypatch, tmp_path, "from sandbox import landlock", before)
    with contextlib.ExitStack() as stack:
        box = stack.enter_context(
            Sandbox(1, min_level="rlimits", max_level="restricted", preload=(), timeout=20)
        )
        if box.level != "restricted":
            pytest.skip(box.why)
        one, other = [stack.enter_context(box.session()) for _ in range(2)]
        one.run("import os, signal, time; x = 5")
        neighbour = other.run("import os; print(os.getpid())").stdout.strip()
        for code in ("while True: pass", "time.sleep(60)"):
            late = one.run(f"print('part', end='')\n{code}", timeout=0.5)
            assert (late.status, late.stdout, late.stderr) == ("timeout", "part", "")
        knows = (version or landlock.abi()) >= landlock.KEEPS_SIGNALS
        assert one.run("os.abort()").exit_code == -(signal.SIGABRT if knows else signal.SIGSEGV)
        assert one.run("os.killpg(0, signal.SIGTERM)").exit_code == -signal.SIGTERM
        for target in (neighbour, "1", str(os.getpid())):
            assert "PermissionError" in one.run(f"os.kill({target}, 0)").stderr
        assert one.run("print(x)").stdout == "5\n"


SAME = """
import os, random, sys, numpy, sympy.core.random
print(random.random(), numpy.random.rand(3), sympy.core.random.random(), random.choice("abc"))
print(hash("a"), {"x", "yy", "zzz", "w"}, list({"b": 1, "a": 2}), set(map(str, range(20))))
print(os.getuid(), os.getgid(), os.getcwd(), os.environ["TMPDIR"], sys.argv, sorted(os.environ))
print(sys.version, sys.path, sys.flags, sys.getrecursionlimit(), os.cpu_count())
"""
JAILED = "print(os.getpid(), os.getppid(), os.getpgrp(), os.uname().nodename, os.listdir('/'))"
FRESH = "import os, secrets, tempfile, uuid; print({})"


def test_the_same_program_prints_the_same_wherever_and_whenever_it_runs(box):
    """At the weaker levels each slot has a directory of its own, and ids are the machine's."""
    code = SAME + (JAILED if rank(box.level) >= rank("full") else "")
    futures = []
    for n in range(8):
        futures.append(box.submit(code, seed=5))
        box.submit(
            f"import random, numpy\nx = [random.random() for _ in range({n * 1000})]", seed=n
        )
    futures.append(box.submit(code, seed=5))
    with Sandbox(workers=1, min_level="rlimits", memory_mb=256, timeout=60.0) as other:
        outputs = [future.result().stdout for future in [*futures, other.submit(code, seed=5)]]
    if rank(box.level) < rank("full"):
        outputs = [output[: output.index(os.sep)] for output in outputs]
    assert set(outputs) == {outputs[0]} and outputs[0].count("\n") >= 2
    other_seed = box.run(code, seed=6)
    assert other_seed.status == "ok" and other_seed.stdout not in outputs
    first, last = other_seed.stdout.splitlines()[0], other_seed.stdout.splitlines()[1:3]
    assert first != outputs[0].splitlines()[0] and last[0] == outputs[0].splitlines()[1]


@pytest.mark.parametrize(
    "value",
    [
        "uuid.uuid4()",
        "os.urandom(8)",
        "secrets.token_hex()",
        "tempfile.mktemp()",
        "__import__('random').Random().random()",
        "__import__('numpy').random.default_rng().random()",
    ],
)
def test_what_asks_the_kernel_for_chance_gets_it(box, value):
    code = FRESH.format(value)
    assert len({box.run(code).stdout for _ in range(4)}) == 4


def test_random_numbers_are_the_same_when_the_program_imports_first(box):
    code = "import numpy, sympy.core.random as s; print(numpy.random.rand(), s.random())"
    with Sandbox(workers=1, min_level="rlimits", preload=(), timeout=60) as lazy:
        outputs = {lazy.run(code).stdout, lazy.run(code).stdout, box.run(code).stdout}
    assert len(outputs) == 1 and outputs.pop().count(".") == 2


@contextlib.contextmanager
def busy(core: int, count: int) -> Iterator[None]:
    """Processes that would take all of a processor."""
    code = f"import os; os.sched_setaffinity(0, [{core}]); os.write(1, b'x')\nwhile True: pass"
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            command = [sys.executable, "-c", code]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.read(1) == b"x"
        yield


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="no such statistic here")
def test_waiting_for_a_processor_does_not_count_against_a_program():
    """As long as it takes here, then with a deadline of two thirds of that."""
    work = "import time\nwhile time.process_time() < 0.4: pass"
    core = max(os.sched_getaffinity(0))
    cores = [core]
    with Sandbox(1, min_level="rlimits", preload=(), timeout=60, cores=cores) as box, busy(core, 3):
        found: list[Result] = []
        for _ in range(10):
            free = box.run(work)
            assert free.status == "ok"
            if free.seconds < 1.6 * free.cpu_seconds:  # it had to wait too little to show anything
                continue
            found.append(box.run(work, timeout=free.seconds * 2 / 3))
            if found[-1].status == "ok":
                break
        if not found:
            pytest.skip("no program had to wait for a processor here")
        assert found[-1].status == "ok", [(r.seconds, r.cpu_seconds) for r in found]
        asleep = box.run("import time; time.sleep(30)", timeout=0.4)
        assert asleep.status == "timeout" and asleep.seconds < 10


def test_the_processors_of_a_sandbox_are_the_ones_it_was_given():
    core = max(os.sched_getaffinity(0))
    with Sandbox(1, min_level="rlimits", preload=(), timeout=60, cores=[core]) as box:
        code = "import os; print(os.sched_getaffinity(0))"
        assert box.run(code).stdout == f"{{{core}}}\n"
