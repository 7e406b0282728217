"""Who hides from a sweep is found."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A process whose first thread has ended is a zombie, to its parent as to ps, and runs on.
HIDDEN = """
import ctypes, os, platform, threading, time
from sandbox import kernel, sweep
kernel.adopt_orphans()
told, tell = os.pipe()
kept = os.fork()
if kept == 0:
    hidden = os.fork()
    if hidden == 0:
        threading.Thread(target=time.sleep, args=(600,)).start()
        ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
    os.write(tell, str(hidden).encode())
    time.sleep(600)
hidden = int(os.read(told, 20))
def state(): return open(f"/proc/{hidden}/stat").read().split()[2]
while state() != "Z": time.sleep(0.01)
print(hidden in sweep.descendants(kept), len(os.listdir(f"/proc/{hidden}/task")))
sweep.sweep_but(kept, False)
print(sweep.descendants() == [kept], state(), len(os.listdir(f"/proc/{hidden}/task")))
sweep.sweep(False)
print(sweep.descendants())
"""


def test_a_process_whose_first_thread_has_ended_is_found():
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True 2\nTrue Z 1\n[]\n", "")


STRANGERS = """
import os, time
from sandbox import sweep
def sleeper():
    pid = os.fork()
    if pid == 0: time.sleep(600)
    return pid
stranger, late = sleeper(), []
def known():
    late.append(sleeper())
    return late[:-1]
sweep.sweep_strangers(known)
print(sweep.descendants() == late, os.path.exists(f"/proc/{stranger}"))
sweep.sweep(False)
"""


def test_who_comes_after_the_look_is_no_stranger():
    done = subprocess.run(
        [sys.executable, "-c", STRANGERS], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True False\n", "")
