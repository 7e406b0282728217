"""The sandbox's own tests, in full, inside their outer guard."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REFUSED = 125  # the guard's exit status where the machine cannot make one


# Waiting for a processor may double a deadline, and these tests share theirs.
SLACK = {"SANDBOX_SLACK": "2.5"}


def guarded(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "tests.sandbox.guard", *arguments],
        cwd=ROOT,
        env=environment | SLACK,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("options", "tests"),
    [
        ((), "tests/sandbox"),
        (("--unprivileged", "--no-userns"), "tests/sandbox/test_attacks.py"),
    ],
    ids=["strongest level", "no namespaces"],
)
def test_the_sandbox_inside_its_guard(options: tuple[str, ...], tests: str) -> None:
    probe = guarded(*options, "true")
    if probe.returncode == REFUSED:
        pytest.skip(probe.stdout.strip())
    pytest_command = (sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile")
    run = guarded(*options, *pytest_command, tests)
    print(run.stdout)  # shown where this test fails
    passed = re.search(r"(\d+) passed", run.stdout)
    assert run.returncode == 0
    assert passed is not None and int(passed[1]) > 0


def test_outside_the_guard_nothing_is_collected() -> None:
    tests = str(ROOT / "tests/sandbox/test_output.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tests]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "python -m tests.sandbox.guard python -m pytest" in run.stderr
    assert run.stderr.count("\n") <= 2 and "passed" not in run.stdout
