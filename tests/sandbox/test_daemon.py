"""The daemon: what it owns is given back, and nothing that dies beside it takes it along."""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import LEVELS, Sandbox, SandboxError, landlock, seccomp
from tests.sandbox.processes import all_gone, eventually, groups, kill, kin

ROOT = Path(__file__).resolve().parents[2]


def small(preload: tuple[str, ...] = (), **options) -> Sandbox:
    options = {"workers": 1, "timeout": 60, "memory_mb": 64, **options}
    return Sandbox(min_level="rlimits", preload=preload, **options)


def descriptors(box: Sandbox) -> int:
    return len(os.listdir(f"/proc/{box._link.pid}/fd"))


def slot_groups(box: Sandbox) -> set[str]:
    return {path for path in groups(os.getpid()) if f"/{box._link._name}/slot-" in path}


def test_a_module_that_ends_its_process_is_given_up_in_one_line():
    with small(preload=("unittest.__main__", "json")) as box:
        assert box.run("print(1)").stdout == "1\n"
        for code in ("import unittest", "import json", "import json"):
            with pytest.raises(SandboxError, match=r"unittest.__main__ of preload: ") as caught:
                box.submit(code).result(30)
            assert "\n" not in str(caught.value)
        first = kin(box._link.pid)["first zygote"]
        assert len(first) == 1 and kin(box._link.pid)["zygote"] == []
        kill(first[0])
        assert all_gone(first)
        assert box.run("print(2)").stdout == "2\n"
        with pytest.raises(SandboxError, match=r"unittest.__main__ of preload: "):
            box.submit("import json").result(30)


def test_a_slot_costs_the_daemon_one_descriptor_and_the_hard_limit_counts():
    soft, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        box = stack.enter_context(small(workers=2))
        assert box.level
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        daemon, before = box._link.pid, descriptors(box)
        running = box.submit("import time; time.sleep(1); print('fine')")
        sessions = [stack.enter_context(box.session()) for _ in range(30)]
        try:
            states = {session.run("1").status for session in sessions}
        except SandboxError as error:
            assert "sessions need a /proc" in str(error)
            return
        assert states == {"ok"} and running.result().stdout == "fine\n"
        assert box._link.pid == daemon
        assert descriptors(box) <= before + len(sessions) + 2
        lines = Path(f"/proc/{kin(daemon)['slot'][0]}/limits").read_text().splitlines()
        (files,) = (line.split() for line in lines if line.startswith("Max open files"))
        assert files[3:5] == ["64", str(hard)]
        code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
        assert box.run(code).stdout == "(256, 256)\n"


def test_a_slot_that_never_came_to_be_is_forgotten():
    """Its control group vanishes: so its nurse, who shall enter it, fails."""
    with small() as box:
        assert box.run("print(1)").stdout == "1\n"
        if not slot_groups(box):
            pytest.skip(f"no control groups here: {box.why}")
        before, there = descriptors(box), slot_groups(box)
        (zygote,) = kin(box._link.pid)["first zygote"]
        for _ in range(3):
            os.kill(zygote, signal.SIGSTOP)
            with box.session() as session:
                cell = session.submit("print(2)")
                assert eventually(lambda: slot_groups(box) - there)
                for path in slot_groups(box) - there:
                    os.rmdir(path)
                os.kill(zygote, signal.SIGCONT)
                assert cell.result(30).stdout == "2\n"
            assert eventually(lambda: slot_groups(box) == there)
        assert eventually(lambda: descriptors(box) == before), (descriptors(box), before)


def test_a_kill_for_memory_is_that_of_the_program_that_took_it():
    """Another program's slot that dies of something else is our failure, and it is tried again."""
    greedy = """
import os, time
for _ in range(9):
    if os.fork() == 0:
        block = bytearray(36 << 20)
        block[::4096] = bytes([1]) * len(block[::4096])
        time.sleep(1)
        os._exit(0)
for _ in range(9): os.wait()
"""
    with small(scratch_mb=8) as box:
        if box.level != LEVELS[-1]:
            pytest.skip(f"no control groups here: {box.why}")
        assert box.run(greedy).status == "memory"
        (slot,) = kin(box._link.pid)["slot"]
        innocent = box.submit("import time; time.sleep(2); print('fine')")
        assert eventually(lambda: box.load == (1, 0))
        time.sleep(0.5)
        kill(slot)
        assert (innocent.result().status, innocent.result().stdout) == ("ok", "fine\n")


def test_no_program_sees_what_is_of_one_sandbox_only():
    code = """
import sys
print(sys.orig_argv)
try: print(open("/proc/self/cmdline").read())
except FileNotFoundError: pass  # this machine lets nobody have a /proc of his own
"""
    outputs = set()
    for workers in (1, 2):
        with small(workers=workers, memory_mb=60 + workers) as box:
            result = box.run(code)
            words = re.split(r"[^\w/.-]+", result.stdout)  # a path may hold our number as well
            assert result.status == "ok" and str(os.getpid()) not in words
            outputs.add(result.stdout)
    assert len(outputs) == 1


# A machine without namespaces (a filter refuses them) but with control groups, and a slot
# killed there that has a detached process: its group is in use until that has ended too.
DETACHED = """
import json, os, platform, struct
from sandbox import Sandbox, seccomp
from sandbox.syscalls import NUMBERS
from tests.sandbox.processes import descendants, eventually, groups, kill, kin
CELL = '''
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(2)
print("cell")
'''
rows = [(0x20, 0, 0, 0), (0x15, 0, 1, NUMBERS[platform.machine()]["unshare"])]
rows += [(6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
seccomp.install(b"".join(struct.pack("<HBBI", *row) for row in rows))
with Sandbox(workers=2, preload=(), timeout=60, min_level="rlimits", memory_mb=64) as box:
    daemon = box.report and box._link.pid
    other = box.submit("import time; time.sleep(5); print('other')")
    session = box.session()
    session.run("import os, time")
    cell = session.submit(CELL)
    full = lambda: [s for s in kin(daemon)["slot"] if len(descendants(s)) > 2]
    assert eventually(full)
    below = descendants(full()[0])
    kill(full()[0])
    found = {"level": box.level, "groups": len(groups(os.getpid()))}
    found |= {"cell": cell.result().stdout, "other": other.result().stdout}
    found |= {"same daemon": box._link.pid == daemon, "words": box._link.last_words()}
    session.close()
    found["left"] = [pid for pid in below if os.path.exists(f"/proc/{pid}")]
found["groups left"] = groups(os.getpid())
print(json.dumps(found))
"""


@pytest.mark.skipif(
    bool(seccomp.available()) or not landlock.abi(), reason="no seccomp or no Landlock here"
)
def test_what_a_killed_slot_left_is_ended_before_its_group_is_removed():
    command = [sys.executable, "-c", DETACHED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if not found["groups"]:
        pytest.skip("no control groups here")
    assert found["level"] == "restricted"
    assert (found["cell"], found["other"]) == ("cell\n", "other\n")
    assert found["same daemon"], found["words"]
    assert found["left"] == [] and found["groups left"] == []
