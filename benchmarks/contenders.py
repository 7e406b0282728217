"""Ways to run a Python program: a plain process, a process in a jail each, the sandbox."""

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from sandbox import Sandbox

# One thread for BLAS, as in the sandbox: two clients keep both processors busy.
ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
LONGEST = 60.0  # seconds; no program of the comparison takes nearly that long
OUTPUT_KB = 512  # the sandbox keeps all of the largest output, as the others do

Run = Callable[[str], str]


@dataclass(frozen=True)
class Contender:
    """`run` takes a program and returns what it printed; anything but success raises."""

    name: str
    run: Run
    counts_cpu: bool = True  # whether its processor time can be read off its parent


class Failed(Exception):
    """A program of the comparison did not succeed: the figures would mean nothing."""


def plain() -> Contender:
    """`python -I -c`, a process each, no isolation."""
    return Contender("python -I", _process([sys.executable, "-I", "-c"]))


def bare() -> Contender:
    """The same without the site module, whose .pth files cost more than the interpreter."""
    paths = site.getsitepackages()
    start = f"import sys; sys.path += {paths!r}; exec(sys.argv[1])"
    return Contender("python -I -S", _process([sys.executable, "-I", "-S", "-c", start]))


def bubblewrap() -> Contender | None:
    """A fresh jail for each process; None where bwrap is not installed."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    command = [program, "--unshare-all", "--die-with-parent", "--new-session"]
    for path in ("/usr", "/bin", "/lib", "/lib64", sys.base_prefix, sys.prefix):
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path) and (path == "/usr" or not path.startswith("/usr/")):
            command += ["--ro-bind", path, path]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    run = _process([*command, sys.executable, "-I", "-c"])
    return Contender("bwrap each", run, counts_cpu=False)  # the jailed process is not reaped by us


def bubblewrap_version() -> str:
    return subprocess.run(
        ["bwrap", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def sandboxed(box: Sandbox, name: str) -> Contender:
    """Programs in an open sandbox."""

    def run(code: str) -> str:
        result = box.run(code, timeout=LONGEST)
        if result.status != "ok":
            raise Failed(f"{name}: status {result.status}, expected ok: {result.stderr[-300:]!r}")
        return result.stdout

    return Contender(name, run)


def _process(command: list[str]) -> Run:
    def run(code: str) -> str:
        done = subprocess.run(
            [*command, code], capture_output=True, text=True, timeout=LONGEST, env=ENVIRONMENT
        )
        if done.returncode != 0:
            raise Failed(
                f"{command[0]}: exit status {done.returncode}, expected 0: {done.stderr[-300:]!r}"
            )
        return done.stdout

    return run
