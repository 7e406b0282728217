"""A slot: the process that runs one program after another, each in a fork made ahead.

Where the plan has namespaces it is the first process of its own pid namespace, with
its own mounts: no program can signal it, and with it all its descendants end. It
speaks sandbox.wire with the trainer on a socket and ends when that closes, or when
the daemon ends: its parent, at whose death the kernel kills it, unless the daemon was
dying already when the slot became its child.

What a program is and what it writes pass through without being looked at: a fork of
this process, the next program, finds nothing of them in its memory.
"""

import contextlib
import os
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sandbox import kernel, messages, wire
from sandbox.child import Walls, become
from sandbox.messages import Message
from sandbox.output import CHUNK, Buffers
from sandbox.scratch import FLAGS, Scratch
from sandbox.sweep import sweep, sweep_but
from sandbox.watch import Run, lives

START_SECONDS = 60.0
LIFE = 2000  # programs that a slot runs before a fresh one takes its place
CPU_CLOCK = 2  # of a process, as clock_getcpuclockid(3) composes it
FETCH_BYTES = 8 << 20  # of all files that one program's caller reads back


class Infrastructure(Exception):
    """Our failure, not the program's."""


@dataclass
class Child:
    """A process that has raised its walls and waits for its job."""

    pid: int
    ending: int
    job: int
    streams: tuple[int, int]
    stack: contextlib.ExitStack
    up: bool = False


Files = dict[str, tuple[int, int]]  # name: open descriptor, size


@dataclass
class Slot:
    """`places` are emptied after each program; `ooms` counts kills for memory so far."""

    walls: Walls
    places: Sequence[Scratch]
    buffers: Buffers
    own_proc: bool
    daemon: int  # readable once it has ended
    ooms: Callable[[], int]
    jailed: bool  # we are the first process of a pid namespace made for us
    spare: Child | None = None
    holder: int | None = None  # of the session, once one is open
    most: float = 0.0  # the session's longest deadline
    number: int = 0  # of its last cell
    served: int = field(default=0, init=False)

    def serve(self, sock: int) -> None:
        """Until the other side closes. Raises Infrastructure, OSError: this slot then ends."""
        try:
            self.spare = self._prepare()
            self._confirm(self.spare)
        except (Infrastructure, OSError, TimeoutError) as error:
            messages.write(sock, {"failed": str(error)})
            raise
        messages.write(sock, {"ready": True})
        while (message := self._next(sock)) is not None:
            with contextlib.ExitStack() as stack:
                self._answer(sock, *self._handle(message, sock, stack))
            self.buffers.wipe()
            if self.spare is None:
                self.spare = self._prepare()

    def _answer(self, sock: int, facts: Message, files: Files) -> None:
        self.served += 1
        facts["last"] = self.served >= LIFE and self.holder is None
        if "status" in facts:
            facts["ooms"] = self.ooms()
            wire.answer(sock, facts, self.buffers, files)
        else:
            messages.write(sock, facts)

    def _next(self, sock: int) -> Message | None:
        """None where nobody is left to answer to."""
        if self.daemon in select.select([sock, self.daemon], [], [])[0]:
            return None
        return messages.read(sock)

    def _handle(
        self, message: Message, sock: int, stack: contextlib.ExitStack
    ) -> tuple[Message, Files]:
        """The reply's facts and its files, open as long as `stack` is."""
        if "open" in message:
            return self._open(message["open"]), {}
        if "cell" in message:
            return self._cell(message["timeout"], sock), {}
        return self._program(message, sock, stack)

    def _program(
        self, message: Message, sock: int, stack: contextlib.ExitStack
    ) -> tuple[Message, Files]:
        child = self._take_spare()
        try:
            ooms = self.ooms()
            run = Run(
                child.pid,
                child.ending,
                dict(zip(child.streams, self.buffers.captures, strict=True)),
                message["timeout"],
                self.own_proc,
            )
            try:
                wire.relay(sock, child.job, self.buffers.chunk)
                run.wait(sock, self.daemon)
            finally:
                sweep(self.jailed, run.ended)
            seconds = time.monotonic() - run.started
            run.finish()
            run.out_of_memory = self.ooms() > ooms
            status, _ = run.ended[run.pid]
            cpu = sum(used for _, used in run.ended.values())
            facts = run.result(os.waitstatus_to_exitcode(status), seconds, cpu)
            return facts, self._fetch(message["fetch"], stack)
        finally:
            child.stack.close()
            for place in self.places:
                place.empty()

    def _open(self, message: Message) -> Message:
        """The spare becomes the session's process; it keeps its descriptors."""
        if not self.own_proc:
            return {"refused": "sessions need a /proc of the slot's own, which is refused here"}
        child = self._take_spare()
        messages.write(child.job, {"open": message})
        if messages.read(child.job, time.monotonic() + START_SECONDS) != {"open": True}:
            raise Infrastructure("the session's process did not start")
        self.spare, self.holder, self.most = child, child.pid, message["timeout"]
        return {"opened": True}

    def _cell(self, timeout: float, sock: int) -> Message:
        child, holder = self.spare, self.holder
        if child is None or holder is None:
            raise Infrastructure("a cell came before the session was opened")
        self.number += 1
        _drop(child.job)
        ooms, reaped = self.ooms(), _reaped_seconds(holder)
        ending = kernel.watch(holder)
        run = Run(
            holder,
            ending,
            dict(zip(child.streams, self.buffers.captures, strict=True)),
            timeout,
            self.own_proc,
            holder,
            child.job,
            self.number,
        )
        spoiled = False
        try:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGCONT)
            deadline = time.monotonic() + timeout
            messages.write(child.job, {"most": self.most, "number": self.number}, deadline)
            wire.relay(sock, child.job, self.buffers.chunk, deadline)
            run.wait(sock, self.daemon)
        except (messages.FrameError, TimeoutError, ConnectionError):
            spoiled = True  # the program has used our socket: nothing more can be read or written
        finally:
            os.close(ending)
        if run.never_began and not lives(holder, os.getpid()):
            raise Infrastructure("the session's process ended between two cells")
        cpu = _reaped_seconds(holder) - reaped
        result = self._after_cell(run, holder, ooms, cpu)
        self.holder = holder = result.pop("holder")
        alive = not spoiled and lives(holder, os.getpid())
        if alive:  # what it would do between two cells nobody would answer for
            os.kill(holder, signal.SIGSTOP)
        return result | {"alive": alive}

    def _after_cell(self, run: Run, holder: int, ooms: int, cpu: float) -> Message:
        """Keeps the process that has the state to go on from, and nothing else.

        `cpu`: seconds of a cell that its session's process has waited for.
        """
        seconds = time.monotonic() - run.started
        intact = run.pid != holder and not run.late and lives(holder, os.getpid())
        done, code = _end_of_cell(run.news or {}, intact)
        cpu += sum(_cpu_seconds(pid) + _reaped_seconds(pid) for pid in run.met)
        holder = run.pid if done else holder
        sweep_but(holder, self.jailed)
        run.finish()
        run.out_of_memory = self.ooms() > ooms
        return run.result(code, seconds, cpu) | {"holder": holder, "advanced": bool(done)}

    def _take_spare(self) -> Child:
        """A child that is up. One that died while it was idle is replaced, once."""
        if self.spare is None or select.select([self.spare.ending], [], [], 0)[0]:
            if self.spare is not None:
                self.spare.stack.close()
                sweep(self.jailed)
            self.spare = self._prepare()
        child, self.spare = self.spare, None
        self._confirm(child)
        return child

    def _confirm(self, child: Child) -> None:
        if child.up:
            return
        said = messages.read(child.job, time.monotonic() + START_SECONDS)
        if said != {"up": True}:
            raise Infrastructure((said or {}).get("failed", "the program's process never started"))
        child.up = True

    def _prepare(self) -> Child:
        """Forks a process that waits for its job."""
        with contextlib.ExitStack() as undo:
            ends = [_pipe(undo) for _ in range(2)]
            ours, theirs = _socketpair(undo)
            if self.walls.plan.uid is not None and os.geteuid() == 0:
                for _, write_end in ends:
                    os.fchown(write_end, self.walls.plan.uid, self.walls.plan.uid)
            if self.jailed:
                _next_pid_is_two()
            pid = os.fork()
            if pid == 0:
                nothing = os.open(os.devnull, os.O_RDONLY)
                become(self.walls, (nothing, ends[0][1], ends[1][1], theirs))
            for fd in (ends[0][1], ends[1][1], theirs):
                os.close(fd)
            ending = kernel.watch(pid)
            undo.callback(os.close, ending)
            return Child(pid, ending, ours, (ends[0][0], ends[1][0]), undo.pop_all())

    def _fetch(self, names: Sequence[str], stack: contextlib.ExitStack) -> Files:
        """Files of the working directory; without those that are not plain or too large."""
        found: Files = {}
        left = FETCH_BYTES
        for name in names:
            opened = _open_file(self.places[0].fd, name, left, stack)
            if opened is not None:
                found[name] = opened
                left -= opened[1]
        return found


def _end_of_cell(news: Message, intact: bool) -> tuple[bool, int]:
    """Whether it came to its end, and its exit code: -9 where nobody has said a possible one.

    A cell that was never heard of, was late, or has killed its session's process, is not `intact`.
    """
    done, died = news.get("done"), news.get("died")
    if intact and isinstance(done, int) and 0 <= done <= 255:
        return True, int(done)
    if isinstance(died, int):
        with contextlib.suppress(ValueError, OverflowError):
            return False, os.waitstatus_to_exitcode(died)
    return False, -signal.SIGKILL


def _drop(job: int) -> None:
    """Reads away what was said too late; who could say more has ended, or waits for a cell."""
    with contextlib.suppress(BlockingIOError):
        while os.read(job, CHUNK):
            pass


def _open_file(
    directory: int, name: str, most: int, stack: contextlib.ExitStack
) -> tuple[int, int] | None:
    """Its descriptor and size, if that is at most `most`. Follows no link, waits for nothing."""
    *folders, last = name.split("/")
    try:
        for folder in folders:
            directory = os.open(folder, FLAGS, dir_fd=directory)
            stack.callback(os.close, directory)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(last, flags, dir_fd=directory)
    except OSError:  # missing, a link, a directory: the caller sees that it is not there
        return None
    stack.callback(os.close, fd)
    facts = os.fstat(fd)
    plain = stat.S_ISREG(facts.st_mode) and facts.st_size <= most
    return (fd, facts.st_size) if plain else None


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    stack.callback(os.close, read_end)
    os.set_blocking(read_end, False)
    return read_end, write_end


def _socketpair(stack: contextlib.ExitStack) -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stack.callback(os.close, ours.fileno())
    return ours.detach(), theirs.detach()


def _next_pid_is_two() -> None:
    """Every program of every slot is process 2: what it sees does not tell them apart."""
    try:
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write("1")
    except OSError:  # an older kernel, or no /proc of our own: ids then count up
        pass


def _cpu_seconds(pid: int) -> float:
    """Of all threads of a process, also of those that have ended."""
    try:
        return time.clock_gettime(~pid << 3 | CPU_CLOCK)
    except OSError:  # it has ended
        return 0.0


def _reaped_seconds(pid: int) -> float:
    """Of the descendants that a process has waited for, in the kernel's ticks."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
