"""The daemon's own descriptors: what it hears through them, and how many it may have."""

import os
import resource
import select
import signal
import socket

from sandbox import kernel

MOST = 1 << 16  # where the kernel has no call to close many, a child closes them one by one


def take_stdin() -> socket.socket:
    """The socket that is stdin, under another number; 0 becomes /dev/null, as for our children."""
    sock = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return sock


def watch_parent(pid: int) -> int | None:
    """Tells of its end, see kernel.watch; None where it has ended before we began."""
    try:
        watched = kernel.watch(pid)
    except ProcessLookupError:
        return None
    return watched if os.getppid() == pid else None


def wake_on_signals() -> int:
    """A descriptor that tells of SIGTERM and SIGCHLD, which otherwise interrupt nothing."""
    told, tell = os.pipe()
    for fd in (told, tell):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda number, frame: None)
    return told


def sleep_on_signals() -> None:
    """Undoes that, in a child."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def allow_many() -> tuple[int, int]:
    """Raises the soft limit on open files as far as we may. Returns both limits before."""
    soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    return before


def keep_only(first: int, kept: int, limits: tuple[int, int]) -> None:
    """In a child: closes all from `first` on but `kept`; open files are limited as they were."""
    os.closerange(first, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def readable(fd: int) -> bool:
    """Whether there is something to read, or the end. Not select(), which ends at 1024."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
