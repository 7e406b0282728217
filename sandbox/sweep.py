"""Leaving no process: whatever a program started ends with it.

In a pid namespace of ours one kill(-1) reaches everything at once, also what forks
meanwhile. Elsewhere orphans come to us (we are their subreaper); all that is below us is
stopped first, as what is stopped does not fork, and then killed.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Iterable

from sandbox import kernel

Ended = dict[int, tuple[int, float]]  # pid: wait status, processor seconds


def first_of_own_namespace(jailed: bool) -> bool:
    """kill(-1) means "all of the machine" anywhere else: both must hold."""
    return jailed and os.getpid() == 1


def sweep(jailed: bool, ended: Ended | None = None) -> None:
    """Kills and reaps every process below this one."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            _kill_all(jailed)
            pid, status, usage = os.wait4(-1, 0)
        if ended is not None:
            ended[pid] = (status, usage.ru_utime + usage.ru_stime)


def sweep_strangers(known: Callable[[], Collection[int]]) -> None:
    """Ends the children that we have adopted: all but the known, with what is below them.

    `known` is asked after each look: it may hear then of who has become our child.
    """
    while strangers := {pid for pid, parent in _parents().items() if parent == os.getpid()} - {
        *known()
    }:
        _signal(strangers, signal.SIGKILL)
        for pid in strangers:
            os.waitpid(pid, 0)


def sweep_but(kept: int, jailed: bool) -> None:
    """The same, but one descendant stays; it becomes a child of this process.

    In a namespace everything is stopped first, so that nothing can outrun the sweep.
    """
    if first_of_own_namespace(jailed):
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGSTOP)
    while others := descendants(kept):
        _signal(others, signal.SIGKILL)
        _reap(kept)
    _signal([kept], signal.SIGCONT)


def descendants(*without: int) -> list[int]:
    """Living processes below this one, in no order, zombies of others left out."""
    parents = _parents()
    me, found, below = os.getpid(), [], {os.getpid()}
    grown = True
    while grown:
        grown = False
        for pid, parent in parents.items():
            if parent in below and pid not in below:
                below.add(pid)
                grown = True
                found.append(pid)
    return [pid for pid in found if pid != me and pid not in without]


def _reap(kept: int) -> None:
    """Takes the ends of killed children; `kept` may be a child or become one."""
    for pid, parent in _parents().items():
        if parent == os.getpid() and pid != kept:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _kill_all(jailed: bool) -> None:
    """Kills at least all direct children of this process."""
    if first_of_own_namespace(jailed):
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        return
    stopped: set[int] = set()
    while fresh := set(descendants()) - stopped:
        _signal(fresh, signal.SIGSTOP)
        stopped |= fresh
    _signal(stopped, signal.SIGKILL)


def _signal(pids: Iterable[int], number: int) -> None:
    """To descendants of ours, and to no process that has got one's id meanwhile."""
    family = {os.getpid(), *descendants()}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            if not kernel.LINUX:
                os.kill(pid, number)
                continue
            fd = os.pidfd_open(pid)
            try:
                if _parents_by_proc([str(pid)]).get(pid) in family:
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)


def _parents() -> dict[int, int]:
    """The parent of every process that this one can see."""
    return _parents_by_proc() if kernel.LINUX else _parents_by_ps()


def _parents_by_proc(names: Iterable[str] | None = None) -> dict[int, int]:
    """Without zombies of others: those have ended, and are for their parents to reap.

    A zombie with more than one thread is but the first of them: the others run on.
    """
    parents, me = {}, os.getpid()
    for name in filter(str.isdigit, names or os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        if fields[0] != b"Z" or int(fields[1]) == me or int(fields[17]) > 1:
            parents[int(name)] = int(fields[1])
    return parents


def _parents_by_ps() -> dict[int, int]:
    command = ["/bin/ps", "-axo", "pid=,ppid="]
    listed = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    rows = (line.split() for line in listed.splitlines())
    return {int(pid): int(parent) for pid, parent in rows}
