"""Ctrl-C once asks, twice ends; twice at once is once."""

import os
import signal
import subprocess
import sys

from torl_jax.interrupt import StopSignal

PROGRAM = """
import os, signal, time
from torl_jax.interrupt import StopSignal
with StopSignal() as stop:
    for pause in {pauses}:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(pause)
    print(stop.caught)
"""


def run(*pauses):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(pauses=pauses)], capture_output=True, text=True
    )


def test_one_signal_and_its_echo_are_noted():
    done = run(0.0, 0.0)
    assert done.returncode == 0 and done.stdout == "True\n"
    assert done.stderr.count("stopping") == 1


def test_a_later_one_ends_the_process():
    done = run(StopSignal.SETTLED + 0.1, 0.0)
    assert done.returncode == 128 + signal.SIGTERM and done.stdout == ""


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.caught
    assert signal.getsignal(signal.SIGINT) is before
