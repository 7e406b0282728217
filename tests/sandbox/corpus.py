"""Runs attacks against a real sandbox and tells which of them did damage.

    python -m tests.sandbox.guard python -m tests.sandbox.corpus FILE... [--max-level LEVEL]

FILE is a JSON file in the shared format or a module of tests/sandbox/attacks. After
each program the next ones in the same slot must find nothing of it: no process, no
file, no limit, no name; and the canary must be as it was. SANDBOX_SLACK multiplies
the wall times that attacks may take, for a loaded machine (1.0).
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sandbox import LEVELS, Sandbox, SandboxError
from tests.sandbox import guard, verdicts
from tests.sandbox import guard_walls as walls
from tests.sandbox.attacks import attack as attacks
from tests.sandbox.attacks.attack import Attack
from tests.sandbox.canary import Canary
from tests.sandbox.processes import descendants, eventually
from tests.sandbox.verdicts import SLACK, Observed

OWN = "tests.sandbox.attacks"
TIERS = ("numpy", "sympy")
SHARED_PLACES = ("/tmp", "/dev/shm")  # the trainer's own, as nobody else sees them
FOREIGN = ("sandbox-", "trainer-", "pytest-", "hypothesis", "home", "tmp")  # not an attack's
SETTLE = 5.0  # seconds in which what is being killed is gone

# What one program sees of its world. Run before all attacks and after each: equal, or a
# program left something behind.
SURVEY = """
import gc, json, math, os, random, resource, signal, sys, threading
home, temporary = os.environ["HOME"], os.environ["TMPDIR"]
def waits():
    try: return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError: return "no child"
def opened(fd):
    try: return os.fstat(fd).st_mode != 0
    except OSError: return False
def listed(place):
    try: names = os.listdir(place)
    except OSError as error: return error.errno
    return sorted(n for n in names if not n.startswith(FOREIGN))
def bound(name):
    limits = resource.getrlimit(getattr(resource, name))
    return -1 in limits if name in ("RLIMIT_AS", "RLIMIT_DATA") else limits
seen = {
    "files": [[p, listed(p)] for p in (os.getcwd(), home, temporary, "/tmp", "/dev/shm")],
    "mode of its place": os.stat(".").st_mode,
    "environment": sorted(os.environ.items()),
    "descriptors": [fd for fd in range(256) if opened(fd)],
    "sys.path": sys.path,
    "argv": sys.argv,
    "umask": os.umask(0o77),
    "nice value": os.getpriority(os.PRIO_PROCESS, 0),
    "affinity": sorted(os.sched_getaffinity(0)),
    "limits": [[n, bound(n)] for n in dir(resource) if n.startswith("RLIMIT_")],
    "handlers": [repr(signal.getsignal(n)).partition(" at ")[0] for n in range(1, 32)],
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
    "child": waits(),
    "threads": threading.active_count(),
    "host name": os.uname().nodename,
    "numbers": [math.pi, random.random(), sys.getrecursionlimit()],
    "collector": [gc.isenabled(), gc.get_threshold()],
    "timer": signal.getitimer(signal.ITIMER_REAL),
}
print(json.dumps(seen).replace(home, "HOME").replace(temporary, "TMPDIR"))
""".replace("FOREIGN", repr(FOREIGN))


class Runner:
    """A sandbox with one worker, under attack; a context manager.

    Raises SandboxError where the sandbox does not start, GuardError outside the guard.
    """

    def __init__(self, max_level: str | None = None, memory_mb: int = 512) -> None:
        if problem := guard.verify():
            raise guard.GuardError(f"attacks run inside the guard only: {problem}")
        self._options: dict[str, Any] = {} if max_level is None else {"max_level": max_level}
        self._memory_mb = memory_mb
        self._open()

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the sandbox and the canary, and what attacks have left."""
        self._box.close()
        self._canary.close()
        for pid in descendants(os.getpid()) - self._others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        walls.prctl(walls.CHILD_SUBREAPER, 0)
        for path in _shared_files() - self._files:
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def try_out(self, attack: Attack) -> list[str]:
        """Runs one attack; all that is wrong, a line each. What was damaged is made anew."""
        try:
            problems = verdicts.judge(self._observe(attack))
        except SandboxError as error:
            problems = [f"{attacks.DEAD}: {error}"]
        if problems:
            self.close()
            self._open()
        return problems

    def _open(self) -> None:
        walls.prctl(walls.CHILD_SUBREAPER, 1)  # what escapes from its parents comes to us
        self._files, self._others = _shared_files(), descendants(os.getpid())
        self._canary = Canary()
        self._tokens = (self._canary.token, *(f"SECRET-{secrets.token_hex(8)}" for _ in range(2)))
        os.environ["SECRET_KEY"] = self._tokens[1]
        self._box = Sandbox(
            workers=1,
            min_level="rlimits",
            memory_mb=self._memory_mb,
            timeout=60.0,
            output_kb=verdicts.OUTPUT_KB,
            preload=TIERS,
            **self._options,
        )
        self.level = self._box.level
        self._clean = {tier: self._survey(tier) for tier in ("", *TIERS)}
        time.sleep(SETTLE / 10)  # programs are forked ahead, the last one just now
        self._processes = descendants(os.getpid()) - {self._canary.pid}
        self._idle = len(self._processes)

    def _observe(self, attack: Attack) -> Observed:
        tier = next((name for name in reversed(TIERS) if name in attack.code), "")
        code = self._canary.fill(attack.code)
        self._after(tier, f"job = {self._tokens[2]!r}")
        ours, sizes = _children(), {pid: _kilobytes(pid, "VmHWM") for pid in self._processes}
        with _most_resident(attacks.RESIDENT in attack.must_not) as samples:
            started = time.monotonic()
            result = self._box.run(code, stdin=attack.stdin, timeout=attack.timeout)
            wall = time.monotonic() - started
        eventually(lambda: not self._strangers(), SETTLE)
        seen = Observed(attack, self.level, result, wall, self._tokens)
        seen.left_alive = self._strangers()
        seen.resident = max(samples, default=0)
        growth = (_kilobytes(pid, "VmHWM") - size for pid, size in sizes.items())
        seen.growth = max(growth, default=0)
        if attack.then in verdicts.AGAIN:
            seed = 2 if attack.then == "@seed2" else 0
            seen.next_output = self._box.run(code, timeout=attack.timeout, seed=seed).stdout
        elif attack.then:
            seen.next_output = self._after(tier, self._canary.fill(attack.then)).strip()
        before, after = self._clean[tier], self._survey(tier)
        seen.left = [f"{k}: {before[k]}, now {after[k]}" for k in before if before[k] != after[k]]
        eventually(lambda: _shared_files() <= self._files, SETTLE)  # others use /tmp as well
        seen.left += [f"{path} was left" for path in _shared_files() - self._files]
        seen.damage = self._canary.changes()
        if gone := ours - _children():
            seen.damage.append(f"the sandbox's process {min(gone)} has ended")
        return seen

    def _after(self, tier: str, code: str) -> str:
        """What a program prints in the slot where one that imports `tier` runs."""
        started = time.monotonic()
        result = self._box.run(f"import {tier}\n{code}" if tier else code)
        if result.status != "ok":
            raise SandboxError(f"the next program is {result.status}: {result.stderr[-200:]!r}")
        if time.monotonic() - started > SETTLE * SLACK:
            raise SandboxError(f"the next program took more than {SETTLE * SLACK} s")
        return result.stdout

    def _survey(self, tier: str) -> dict[str, object]:
        return json.loads(self._after(tier, SURVEY))

    def _strangers(self) -> list[int]:
        """Processes that were not there when the sandbox was idle."""
        return sorted(descendants(os.getpid()) - {self._canary.pid})[self._idle :]


def _parents() -> dict[int, int]:
    """Every process and its parent, the ended ones left out."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                found[int(name)] = int(parent)
    return found


def _children() -> set[int]:
    return {pid for pid, parent in _parents().items() if parent == os.getpid()}


def _kilobytes(pid: int, name: str) -> int:
    """A line of /proc/PID/status; 0 where the process has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if line := re.search(rf"{name}:\s*(\d+)", Path(f"/proc/{pid}/status").read_text()):
            return int(line[1])
    return 0


@contextlib.contextmanager
def _most_resident(wanted: bool) -> Iterator[list[int]]:
    """Samples the anonymous memory that new processes of ours hold together, in kB."""
    samples: list[int] = []
    done = threading.Event()
    before = descendants(os.getpid())
    shared = max((_kilobytes(pid, "RssAnon") for pid in before), default=0)

    def sample() -> None:
        while not done.wait(0.02):
            fresh = descendants(os.getpid()) - before
            # A fork counts what it still shares with its zygote as its own: not once more.
            samples.append(sum(max(0, _kilobytes(p, "RssAnon") - shared) for p in fresh))

    thread = threading.Thread(target=sample)
    if wanted:
        thread.start()
    try:
        yield samples
    finally:
        done.set()
        if wanted:
            thread.join()


def _shared_files() -> set[str]:
    return {
        os.path.join(place, name)
        for place in SHARED_PLACES
        for name in os.listdir(place)
        if not name.startswith(FOREIGN)
    }


def collect(file: str) -> list[Attack]:
    """The attacks of a JSON file, or of one of our modules by name or path."""
    if file.endswith(".json"):
        return attacks.load(Path(file))
    return importlib.import_module(f"{OWN}.{Path(file).stem}").ATTACKS


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the attacks that did damage, and why. 1 where there are any."""
    arguments = _parser().parse_args(argv)
    try:
        wanted = [attack for file in arguments.files for attack in collect(file)]
        if arguments.only:
            wanted = [attack for attack in wanted if attack.name in arguments.only]
        failed = 0
        for memory in sorted({attack.memory_mb for attack in wanted}):
            with Runner(arguments.max_level, memory) as runner:
                print(f"level {runner.level}, {memory} MiB", flush=True)
                failed += sum(_show(runner, a) for a in wanted if a.memory_mb == memory)
    except (SandboxError, guard.GuardError, attacks.FormatError, OSError) as error:
        print(f"corpus: {error}", file=sys.stderr)
        return 2
    print(f"{len(wanted) - failed} of {len(wanted)} attacks did no damage")
    return 1 if failed else 0


def _show(runner: Runner, attack: Attack) -> bool:
    if lacking := attack.lacks(runner.level):
        print(f"{attack.name:<28} not run: {lacking}", flush=True)
        return False
    problems = runner.try_out(attack)
    for problem in problems:
        print(f"{attack.name:<28} {problem}", flush=True)
    return bool(problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="corpus", description="Attacks a sandbox.")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--max-level", choices=LEVELS, help="no stronger isolation than this")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these attacks alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
