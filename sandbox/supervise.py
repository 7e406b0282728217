"""One program from fork to result: start, drain, deadlines, sweep.

    zygote (this process) --fork--> program --> whatever the program starts

The program's process becomes a session leader in a private directory with its own
limits and identity, then sandbox.program takes over. When it has ended, or has been
ended, nothing that it started is left: in a pid namespace of ours one kill(-1) sees
to that, elsewhere orphans come to us and are killed until there are none.
"""

import contextlib
import os
import re
import select
import signal
import time
import traceback
from dataclasses import dataclass, field

from sandbox import isolation, program
from sandbox.messages import Message
from sandbox.output import Capture
from sandbox.scratch import Scratch

GRACE = 0.1  # seconds from the deadline's signal to SIGKILL
HARD_OUTPUT = 256 << 20  # bytes; a program that writes more is killed
CHUNK = 1 << 18
MEMORY_ERROR = re.compile(r"[\w.]*MemoryError\b")
BASE_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class Infrastructure(Exception):
    """Our failure, not the program's."""


class Hangup(Exception):
    """The pool has closed its end while a program was running."""


@dataclass
class Settings:
    """What every program of this worker gets."""

    scratch: Scratch
    memory: int  # bytes above what the zygote has
    output: int  # bytes kept of each stream
    requests: int  # the descriptor on which the pool would hang up
    namespaces: frozenset[str]
    own_proc: bool  # /proc shows the process ids that we see
    identity: str = "same"
    base: tuple[int, int] = (0, 0)


@dataclass
class Run:
    """One program while it runs."""

    pid: int
    pidfd: int
    streams: dict[int, Capture]
    started: float
    ended: dict[int, tuple[int, float]] = field(default_factory=dict)  # pid: status, cpu s
    late: bool = False
    flooded: bool = False

    @property
    def flood(self) -> bool:
        return sum(capture.total for capture in self.streams.values()) > HARD_OUTPUT


def execute(code: str, stdin: str | None, timeout: float, settings: Settings) -> Message:
    """Runs `code`; the fields of a Result. Raises Infrastructure, Hangup, OSError."""
    place = Scratch(settings.scratch.path)
    try:
        with contextlib.ExitStack() as stack:
            run, confirmed = _start(code, stdin, timeout, settings, place, stack)
            try:
                _watch(run, timeout, settings)
            finally:
                _sweep(run.ended, settings.namespaces)
            seconds = time.monotonic() - run.started
            for fd, capture in run.streams.items():
                while _drain(fd, capture) and not run.flood:
                    pass
            said = os.read(confirmed, 4096)
            if said != b"+":
                raise Infrastructure(said.decode() or "the program's process never started")
            return _result(run, timeout, seconds)
    finally:
        place.remove()


def _start(
    code: str,
    stdin: str | None,
    timeout: float,
    settings: Settings,
    place: Scratch,
    stack: contextlib.ExitStack,
) -> tuple[Run, int]:
    """Forks the program; returns it and the pipe on which it confirms its set-up."""
    ends = [_pipe(stack) for _ in range(3)]  # stdout, stderr, confirmation
    source = _stdin(stdin, stack)
    if settings.identity == "nobody":
        for owned in (place.fd, ends[0][1], ends[1][1]):
            os.fchown(owned, isolation.NOBODY, isolation.NOBODY)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become_program(code, timeout, settings, place.path, (source, *(w for _, w in ends)))
    for _, write_end in ends:
        os.close(write_end)
    pidfd = os.pidfd_open(pid)
    stack.callback(os.close, pidfd)
    streams = {read_end: Capture(settings.output) for read_end, _ in ends[:2]}
    return Run(pid, pidfd, streams, started), ends[2][0]


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    stack.callback(os.close, read_end)
    os.set_blocking(read_end, False)
    return read_end, write_end


def _stdin(text: str | None, stack: contextlib.ExitStack) -> int:
    if text is None:
        fd = os.open(os.devnull, os.O_RDONLY)
    else:
        fd = os.memfd_create("stdin")
        with open(fd, "wb", closefd=False) as file:
            file.write(text.encode("utf-8", "surrogatepass"))
        os.lseek(fd, 0, os.SEEK_SET)
    stack.callback(os.close, fd)
    return fd


def _become_program(
    code: str, timeout: float, settings: Settings, place: str, fds: tuple[int, ...]
) -> None:
    """In the child: everything between fork and the program's first line."""
    confirm = fds[3]
    try:
        os.setsid()
        for target, fd in enumerate(fds):
            # The zygote's own 0-3 are taken, so no source is overwritten before its turn.
            os.dup2(fd, target, inheritable=target < 3)
        confirm = 3
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        os.chdir(place)
        os.umask(0o077)
        os.environ.clear()
        os.environ.update(BASE_ENVIRONMENT, HOME=place, TMPDIR=place)
        nobody = settings.identity == "nobody"
        isolation.limit(settings.memory, settings.base, timeout, count_processes=nobody)
        isolation.drop_identity(settings.identity)
        isolation.die_with_parent()
        os.write(confirm, b"+")
        os.close(confirm)
    except BaseException:
        os.write(confirm, traceback.format_exc().strip().splitlines()[-1].encode())
        os._exit(1)
    program.run(code)


def _watch(run: Run, timeout: float, settings: Settings) -> None:
    """Drains output until the program ends or must end; then it is ours to sweep."""
    poller = select.poll()
    poller.register(run.pidfd, select.POLLIN)
    poller.register(settings.requests, 0)  # only its hang-up
    for fd in run.streams:
        poller.register(fd, select.POLLIN)
    deadline = run.started + timeout
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            if run.late:
                return
            waited = _waited_for_cpu(run.pid) if settings.own_proc else 0.0
            extended = run.started + timeout + min(waited, timeout)
            if extended > deadline + 0.001:
                deadline = extended
                continue
            run.late, deadline = True, time.monotonic() + GRACE
            signal.pidfd_send_signal(run.pidfd, signal.SIGXCPU)
            continue
        for fd, event in poller.poll(left * 1000 + 1):
            if fd == run.pidfd:
                return
            if fd == settings.requests:
                raise Hangup
            if not _drain(fd, run.streams[fd]) or not event & select.POLLIN:
                poller.unregister(fd)
            if run.flood:
                run.flooded = True
                return


def _drain(fd: int, capture: Capture) -> bool:
    """Reads what is there, once. False at the end of the stream or when it is empty."""
    try:
        data = os.read(fd, CHUNK)
    except BlockingIOError:
        return False
    capture.feed(data)
    return bool(data)


def _waited_for_cpu(pid: int) -> float:
    """Seconds that a process was ready to run but had no processor.

    Counting them would make a result depend on the machine's load.
    """
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):  # ended meanwhile, or a kernel without the statistic
        return 0.0


def _sweep(ended: dict[int, tuple[int, float]], namespaces: frozenset[str]) -> None:
    """Kills and reaps every process below this one."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            _kill_all(namespaces)
            pid, status, usage = os.wait4(-1, 0)
        ended[pid] = (status, usage.ru_utime + usage.ru_stime)


def sweep(namespaces: frozenset[str] = frozenset()) -> None:
    """Leaves this process without a living descendant."""
    _sweep({}, namespaces)


def _kill_all(namespaces: frozenset[str]) -> None:
    """Kills at least all direct children of this process."""
    # kill(-1) means "all of the machine" unless we are the first process of a pid
    # namespace that we made: both are checked.
    if "pid" in namespaces and os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        return
    for child in _children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _children() -> list[int]:
    me, found = os.getpid(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == me:
            found.append(int(name))
    return found


def _result(run: Run, timeout: float, seconds: float) -> Message:
    status, _ = run.ended[run.pid]
    exit_code = os.waitstatus_to_exitcode(status)
    cpu = sum(used for _, used in run.ended.values())
    texts = [capture.text() for capture in run.streams.values()]
    (stdout, cut_out), (stderr, cut_err) = texts
    return {
        "status": _verdict(run, exit_code, stderr, cpu, timeout),
        "stdout": stdout,
        "stderr": stderr,
        "exit_code": exit_code,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "truncated_bytes": cut_out + cut_err,
    }


def _verdict(run: Run, exit_code: int, stderr: str, cpu: float, timeout: float) -> str:
    if run.flooded:
        return "killed"
    if run.late or exit_code == -signal.SIGXCPU or (exit_code == -signal.SIGKILL and cpu > timeout):
        return "timeout"
    if exit_code < 0:
        return "killed"
    if exit_code == 0:
        return "ok"
    last = stderr.rstrip().rpartition("\n")[2]
    return "memory" if MEMORY_ERROR.match(last) else "error"
