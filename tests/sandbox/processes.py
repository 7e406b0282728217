"""Looks at processes through /proc, for tests that count who is left."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie has ended)."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> set[int]:
    """Ids of all processes below `pid`, zombies left out."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = _stat(int(entry.name))
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh}
        found |= fresh
    return found


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


def _stat(pid: int) -> list[str]:
    """State letter and parent id."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
