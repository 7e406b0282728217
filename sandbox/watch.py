"""One program while it runs: its output drained, its deadlines kept, its end judged."""

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass, field

from sandbox import messages
from sandbox.messages import Message
from sandbox.output import Capture
from sandbox.sweep import Ended

GRACE = 0.1  # seconds from the deadline's signal to SIGKILL
HARD_OUTPUT = 256 << 20  # bytes; a program that writes more is killed
WORD = 1.0  # seconds within which a started frame must be complete
PF_EXITING = 4
LONGEST_WORD = 4096  # bytes of a frame from a session's process, which is not to be trusted


class Hangup(Exception):
    """The other side has closed its end while a program was running."""


@dataclass
class Run:
    """A program, or the cell `number`: then `holder`, the session's process, reports on `job`."""

    pid: int
    ending: int  # readable at its end
    streams: dict[int, Capture]
    timeout: float
    own_proc: bool  # /proc shows the process ids that we see
    holder: int | None = None
    job: int | None = None
    number: int = 0
    started: float = field(default_factory=time.monotonic)
    ended: Ended = field(default_factory=dict)
    met: list[int] = field(default_factory=list)  # the processes that the cell has gone on in
    news: Message | None = None  # a session's last word
    heard: bool = False  # a session's process has said anything at all
    late: bool = False
    flooded: bool = False
    out_of_memory: bool = False

    @property
    def flood(self) -> bool:
        return sum(capture.total for capture in self.streams.values()) > HARD_OUTPUT

    @property
    def never_began(self) -> bool:
        """A cell of which nothing was heard, and which was given the time for it."""
        return not self.heard and not self.late and not self.flooded

    def wait(self, sock: int, daemon: int) -> None:
        """Drains output until the program ends or must end; then it is the caller's to sweep.

        Raises Hangup where the other end of `sock` closes or `daemon` becomes readable,
        FrameError or TimeoutError where a session's process speaks nonsense.
        """
        poller = self._poller(sock, daemon)
        deadline = self.started + self.timeout
        while True:
            left = deadline - time.monotonic()
            # Also when it is too late: who ended in time is not late because we were.
            for fd, event in poller.poll(max(left, 0.0) * 1000 + 1):
                if fd in (sock, daemon):
                    raise Hangup
                if fd == self.ending or (fd == self.job and self._listen(fd)):
                    return
                if fd in self.streams and not (self.drain(fd) and event & select.POLLIN):
                    poller.unregister(fd)
                if self.flood:
                    self.flooded = True
                    return
            if left > 0:
                continue
            if self.late:
                return
            later = self.started + self.timeout + min(self._waited_for_cpu(), self.timeout)
            if later > deadline + 0.001:
                deadline = later
                continue
            self.late, deadline = True, time.monotonic() + GRACE
            self._say_late()

    def drain(self, fd: int) -> bool:
        """Reads what is there, once. False at the end of the stream or when it is empty."""
        try:
            return self.streams[fd].drain(fd) > 0
        except BlockingIOError:
            return False

    def finish(self) -> None:
        """Reads what is left; every writer has ended or is stopped."""
        for fd in self.streams:
            while self.drain(fd) and not self.flood:
                pass

    def result(self, exit_code: int, seconds: float, cpu: float) -> Message:
        """The fields of a Result that this process knows: not what was written."""
        return {
            "status": self._verdict(exit_code, cpu),
            "exit_code": exit_code,
            "seconds": seconds,
            "cpu_seconds": cpu,
        }

    def _poller(self, sock: int, daemon: int) -> select.poll:
        poller = select.poll()
        poller.register(sock, 0)  # only its hang-up
        poller.register(daemon, select.POLLIN)
        # In this order: what a cell has said counts before the end of its session's process.
        for fd in (*([] if self.job is None else [self.job]), self.ending, *self.streams):
            poller.register(fd, select.POLLIN)
        return poller

    def _listen(self, job: int) -> bool:
        """True where the cell has ended."""
        news = messages.read(job, time.monotonic() + WORD, LONGEST_WORD)
        self.heard = self.heard or news is not None
        if news is not None and news.get("number") != self.number:
            return False  # of an earlier cell, which has been answered
        if news is not None and "pid" in news:
            self._meet(news["pid"])
            return False
        self.news = news
        return True

    def _meet(self, pid: object) -> None:
        """The cell's process: only a child of the session's, or of the cell's before."""
        if isinstance(pid, int) and _parent(pid) in (self.holder, self.pid):
            self.pid = pid
            self.met.append(pid)

    def _say_late(self) -> None:
        """SIGXCPU: the program flushes what it has printed, and ends."""
        if self.holder is None:
            os.kill(self.pid, signal.SIGXCPU)  # our child, not reaped yet: the id is its own
            return
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            try:
                if lives(self.pid, self.holder):
                    signal.pidfd_send_signal(fd, signal.SIGXCPU)
            finally:
                os.close(fd)

    def _waited_for_cpu(self) -> float:
        """Seconds that a lone process was ready to run but had no processor.

        Counting them would make a result depend on the machine's load. Where it has
        threads or children it may have waited for those: nothing is added.
        """
        if not self.own_proc:
            return 0.0
        try:
            if len(os.listdir(f"/proc/{self.pid}/task")) > 1:
                return 0.0
            with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
                if file.read().strip():
                    return 0.0
            with open(f"/proc/{self.pid}/schedstat") as file:
                return int(file.read().split()[1]) / 1e9
        except (OSError, IndexError):  # ended meanwhile, or a kernel without the statistic
            return 0.0

    def _verdict(self, exit_code: int, cpu: float) -> str:
        if self.flooded:
            return "killed"
        if self.out_of_memory:
            return "memory"
        over = exit_code == -signal.SIGKILL and cpu > self.timeout
        if self.late or exit_code == -signal.SIGXCPU or over:
            return "timeout"
        if exit_code < 0:
            return "killed"
        return "ok" if exit_code == 0 else "error"


def lives(pid: int, parent: int | None) -> bool:
    """Whether it is a child of `parent` and has not ended."""
    return parent is not None and _parent(pid) == parent


def _parent(pid: int) -> int | None:
    """None where it has ended, or is on its way there and cannot turn back."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    state, parent, flags, pending = fields[0], *map(int, (fields[1], fields[6], fields[28]))
    ending = state in b"ZX" or flags & PF_EXITING or pending & 1 << signal.SIGKILL - 1
    return None if ending else parent
