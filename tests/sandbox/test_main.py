"""python -m sandbox as a process: signals before it serves, output in any encoding."""

import os
import signal
import subprocess
import sys

import pytest

from tests.sandbox.processes import all_gone, descendants, eventually
from tests.sandbox.servers import ROOT

# It says when it waits for its daemon, and waits for long.
WAITS = """
import sys, time
from sandbox import __main__, box
box.Sandbox.level = property(lambda _: print("waits", flush=True) or time.sleep(60))
sys.exit(__main__.main(["serve", "--min-level", "rlimits", "--port", "0"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_told_to_end_while_it_starts_it_leaves_nothing(number, status, tmp_path):
    pipe, own = subprocess.PIPE, os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=own
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "waits\n"
        assert eventually(lambda: bool(descendants(process.pid)))
        family = descendants(process.pid)
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("", "") and process.returncode == status
        assert all_gone(family)
    assert os.listdir(tmp_path) == []


def test_output_that_the_terminal_cannot_show_is_replaced(tmp_path):
    (tmp_path / "p.py").write_text("import sys; print(chr(233)); print(chr(233), file=sys.stderr)")
    command = ["run", str(tmp_path / "p.py"), "--min-level", "rlimits", "--preload", ""]
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", *command],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"?\n")
    assert done.stderr.startswith(b"?\n[ok, ")
