"""A sandbox's processes seen through /proc: roles, memory, descriptors, processor time."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SETTLED = 0.5  # seconds without a change of the tree
TICK = os.sysconf("SC_CLK_TCK")
ROLES = ("trainer", "daemon", "zygote", "slot", "program")
GONE = (FileNotFoundError, ProcessLookupError)  # a process may end while it is looked at


@dataclass(frozen=True)
class Process:
    """`depth` is 0 for the root; `cpu` in seconds, with the children that it has reaped;
    `started` in clock ticks since boot.
    """

    pid: int
    parent: int
    depth: int
    cpu: float
    started: int


def tree(root: int) -> list[Process]:
    """`root` and everything below it, parents first, zombies left out."""
    children: dict[int, list[tuple[int, float, int]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (text := _read(f"/proc/{entry}/stat")):
            # The name in brackets may hold spaces and brackets of its own.
            state, parent, *rest = text.rpartition(")")[2].split()
            if state != "Z":
                row = (int(entry), sum(map(int, rest[9:13])) / TICK, int(rest[17]))
                children.setdefault(int(parent), []).append(row)
    (me,) = (row for rows in children.values() for row in rows if row[0] == root)
    found = [Process(root, 0, 0, me[1], me[2])]
    for above in found:  # it grows meanwhile
        found += [
            Process(pid, above.pid, above.depth + 1, cpu, started)
            for pid, cpu, started in children.get(above.pid, ())
        ]
    return found


def roles(processes: Sequence[Process]) -> dict[int, str]:
    """What each process of a sandbox's tree is; the tree begins with the trainer.

    The daemon's children are zygotes and slots. A slot is the first process of its own
    pid namespace; where there are none the daemon's oldest child is the zygote.
    """
    below = [process for process in processes if process.depth == 2]
    slots = {process.pid for process in below if _first_of_namespace(process.pid)}
    if not slots:
        slots = {process.pid for process in sorted(below, key=lambda one: one.started)[1:]}
    found: dict[int, str] = {}
    for process in processes:
        if process.depth < 2:
            found[process.pid] = ROLES[process.depth]
        elif process.pid in slots:
            found[process.pid] = "slot"
        else:
            inside = found[process.parent] in ("slot", "program")
            found[process.pid] = "program" if inside else "zygote"
    return found


def cpu_seconds(root: int) -> float:
    """Processor time of the whole tree, children that were reaped included."""
    return sum(process.cpu for process in tree(root))


def memory(pid: int) -> tuple[int, int]:
    """(RSS, PSS) in bytes; (0, 0) for a process that has ended.

    Raises PermissionError for a process of another user.
    """
    figures = {"Rss": 0, "Pss": 0}
    for line in _read(f"/proc/{pid}/smaps_rollup").split("\n"):
        name, _, rest = line.partition(":")
        if name in figures:
            figures[name] = int(rest.split()[0]) << 10
    return figures["Rss"], figures["Pss"]


def descriptors(pid: int) -> int:
    """Open files; 0 for a process that has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except GONE:
        return 0


def settle(limit: float = 20.0) -> list[Process]:
    """Our tree, once it has stopped changing. Raises TimeoutError after `limit` seconds."""
    end, since, before = time.monotonic() + limit, time.monotonic(), set()
    while time.monotonic() < end:
        now = tree(os.getpid())
        if {process.pid for process in now} != before:
            since, before = time.monotonic(), {process.pid for process in now}
        elif time.monotonic() - since > SETTLED:
            return now
        time.sleep(0.05)
    raise TimeoutError(f"processes still come and go after {limit:g} s of rest")


def _first_of_namespace(pid: int) -> bool:
    for line in _read(f"/proc/{pid}/status").split("\n"):
        if line.startswith("NSpid:"):
            ids = line.split()[1:]
            return len(ids) > 1 and ids[-1] == "1"
    return False


def _read(path: str) -> str:
    """Empty where the process has ended."""
    try:
        return Path(path).read_text("utf-8", "replace")
    except GONE:
        return ""
