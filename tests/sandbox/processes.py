"""Looks at processes and at what they leave behind, for tests that count who is left."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

KINDS = ("program", "slot", "zygote", "first zygote", "daemon")


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie has ended)."""
    try:
        return _stat(pid)[0] not in "ZX"
    except OSError:
        return False


def descendants(pid: int) -> set[int]:
    """Ids of all processes below `pid`, zombies left out."""
    parents = _parents()
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh}
        found |= fresh
    return found


def children(pid: int) -> list[int]:
    """Ids of the processes that `pid` is the parent of, oldest first, zombies left out."""
    return sorted(child for child, parent in _parents().items() if parent == pid)


def kin(daemon: int) -> dict[str, list[int]]:
    """The processes of a sandbox by KINDS. Who is being forked just now may be missed."""
    below = children(daemon)
    first = [pid for pid in below if _is_zygote(pid)]
    slots = [pid for pid in below if pid not in first]
    zygotes, above = [], first
    while above:
        above = [pid for parent in above for pid in children(parent) if _is_zygote(pid)]
        zygotes += above
    programs = [pid for slot in slots for pid in children(slot)]
    return dict(zip(KINDS, (programs, slots, zygotes, first, [daemon]), strict=True))


def with_argument(text: str) -> set[int]:
    """Ids of processes that have `text` in their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in line and alive(int(entry.name)):
                found.add(int(entry.name))
    return found


def forked() -> set[int]:
    """Ids of all processes of all sandboxes; only what a program has executed is missing."""
    return with_argument("sandbox.daemon")


def daemons() -> set[int]:
    """Ids of the daemons of this process's sandboxes."""
    return forked().intersection(children(os.getpid()))


def left_by(trainer: int, others: Iterable[int]) -> set[int]:
    """Of forked(): those below a trainer, but for the daemons `others`, and those below nobody.

    What is below another trainer is another test's, in a process beside this one.
    """
    every, parents = forked(), _parents()
    orphans = {pid for pid in every if parents.get(pid) == 1}
    own = every.intersection(children(trainer)).difference(others)
    return every & clan(orphans | own)


def clan(pids: Iterable[int]) -> set[int]:
    """Processes and all that is below them."""
    return set(pids).union(*map(descendants, pids))


def groups(trainer: int) -> list[str]:
    """Directories of control groups that the sandboxes of `trainer` have made."""
    top = "/sys/fs/cgroup"
    found = [os.path.join(path, name) for path, names, _ in os.walk(top) for name in names]
    return [path for path in found if f"/sandbox-{trainer}-" in path]


def mounts() -> list[str]:
    """What is mounted where this process can see it."""
    return sorted(Path("/proc/self/mountinfo").read_text().splitlines())


def kill(pid: int) -> None:
    """kill -9, of a process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether `condition` becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def all_gone(pids: Iterable[int]) -> bool:
    return eventually(lambda: not any(map(alive, pids)))


def _is_zygote(pid: int) -> bool:
    """Zygotes, and nobody else of a sandbox, ignore the ends of their children."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    ignored = next(line.split()[1] for line in lines if line.startswith("SigIgn:"))
    return bool(int(ignored, 16) >> (signal.SIGCHLD - 1) & 1)


def _parents() -> dict[int, int]:
    """Every process but the zombies, and its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = _stat(int(entry.name))
            except OSError:
                continue
            if state not in "ZX":
                found[int(entry.name)] = int(parent)
    return found


def _stat(pid: int) -> list[str]:
    """State letter and parent id."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
