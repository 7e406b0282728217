"""The trainer's side of the daemon: starts it, asks it for slots, replaces it when it dies.

The daemon is started by exec, never by forking the caller (who may have threads), in a
session of its own, so that Ctrl-C in the terminal does not reach it.
"""

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sandbox import cgroup, messages, wire
from sandbox.command import last_words
from sandbox.messages import Message
from sandbox.pool import PoolClosed, StartError, WorkerDied, WorkerTimeout

START_SECONDS = 180.0  # a machine under load, several plans tried
RESTARTS = 5
NOTICE_SECONDS = 2.0  # from the end of a slot to the daemon's word about it
STOP_SECONDS = 5.0  # from hanging up to SIGKILL


class OutOfMemory(WorkerDied):
    """The kernel chose the slot itself where a program took too much: the program's doing."""


class Slot:
    """A worker of sandbox.pool: a slot at the other end of a socket."""

    def __init__(self, link: "Link", index: int, sock: socket.socket) -> None:
        self._link = link
        self._index = index
        self._socket = sock
        self._stopping = threading.Lock()
        self._over = False
        self._ooms = 0  # kills for want of memory until its last answer
        sock.setblocking(False)

    @property
    def dead(self) -> bool:
        """It has ended, or it has said that its last answer was its last."""
        if self._over:
            return True
        return self._hung_up()

    def start(self) -> None:
        """Waits until it is ready. Raises WorkerDied, or StartError where no slot ever will be."""
        reply = self._talk(None, START_SECONDS)
        if "error" in reply:
            self.stop()
            raise StartError(reply["error"])
        if "failed" in reply:
            self.stop()
            raise WorkerDied(f"a slot did not start: {reply['failed']}")

    def ask(self, message: Message, seconds: float) -> Message:
        """The reply to `message`. Raises WorkerTimeout or WorkerDied; the slot is then gone."""
        reply = self._talk(message, seconds)
        self._ooms = reply.pop("ooms", self._ooms)
        if reply.pop("last", False):
            self.stop()
        return reply

    def stop(self) -> None:
        """Hangs up, which ends the slot and all its processes; from any thread."""
        with self._stopping:
            if not self._over:
                self._over = True
                gone = self._hung_up()
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
                self._link.end(self._index, gone)

    def close(self) -> None:
        """Stops it and releases the socket; for the owning thread only."""
        self.stop()
        self._socket.close()
        self._link.forget(self._index)

    def _hung_up(self) -> bool:
        """Nobody is left at the other end."""
        poller = select.poll()
        poller.register(self._socket.fileno(), 0)
        return bool(poller.poll(0))

    def _talk(self, message: Message | None, seconds: float) -> Message:
        deadline = time.monotonic() + seconds
        try:
            fd = self._socket.fileno()
            reply = wire.hear(fd, deadline) if message is None else wire.ask(fd, message, deadline)
        except TimeoutError:
            self.stop()
            raise WorkerTimeout(f"no answer within {seconds:g} s") from None
        except (messages.FrameError, OSError) as error:
            self.stop()
            raise WorkerDied(f"the slot ended: {error}") from error
        if reply is None:
            self.stop()
            if self._link.ooms(self._index) > self._ooms:
                raise OutOfMemory("the slot was ended with its program for want of memory")
            raise WorkerDied(f"the slot ended; {self._link.last_words()}")
        return reply


class Link:
    """One daemon at a time, started at once; `report` waits for what it has found."""

    def __init__(self, config: dict[str, Any], env: dict[str, str]) -> None:
        self._name = config["name"]
        self._config = config
        self._env = env
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._indices = itertools.count(1)
        self._ends: dict[int, tuple[socket.socket, Future[int]]] = {}  # and who tells
        self._closed = False
        self._report: Message | None = None
        self._refusal: StartError | None = None
        self._start()

    @property
    def pid(self) -> int:
        """The daemon's."""
        return self._process.pid

    @property
    def level(self) -> str:
        """The last daemon's, without waiting for a new one."""
        return self._report["level"] if self._report is not None else ""

    def report(self) -> Message:
        """What the daemon found at its start. Raises StartError, PoolClosed."""
        with self._lock:
            if self._closed:
                raise PoolClosed("the sandbox is closed")
            if self._refusal is not None:  # a new one: the old one's traceback would grow
                raise StartError(str(self._refusal))
            for _ in range(RESTARTS):
                if self._report is not None and self._process.poll() is None:
                    return self._report
                if self._report is not None or self._process.poll() is not None:
                    self._clear()
                    self._start()
                self._report = self._hear()
            if self._report is None:
                raise self._refuse(f"the daemon ended {RESTARTS} times: {self.last_words()}")
            return self._report

    def slot(self, tier: int) -> Slot:
        """A new slot, whose `start` waits until it is ready. Raises WorkerError."""
        for _ in range(RESTARTS):
            self.report()
            control, process = self._control, self._process
            ours, theirs = socket.socketpair()
            index = next(self._indices)
            self._ends[index] = (control, Future())
            with theirs:
                try:
                    with self._sending:
                        messages.send(control, {"slot": index, "tier": tier}, [theirs.fileno()])
                except OSError:
                    # It is ending: report shall find it ended. No program has been lost by this.
                    ours.close()
                    self.forget(index)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(STOP_SECONDS)
                else:
                    return Slot(self, index, ours)
        raise WorkerDied(f"the sandbox's daemon ended: {self.last_words()}")

    def end(self, index: int, gone: bool) -> None:
        """Has a slot killed; `gone`: it has ended by itself, or never came to be."""
        with contextlib.suppress(OSError), self._sending:  # the daemon is gone, and it with it
            messages.send(self._control, {"kill": index, "gone": gone})

    def ooms(self, index: int) -> int:
        """How many kills for want of memory a slot has seen that has ended just now."""
        try:
            return self._ends[index][1].result(NOTICE_SECONDS)
        except TimeoutError:
            return 0

    def forget(self, index: int) -> None:
        """No question about this slot will come."""
        self._ends.pop(index, None)

    def last_words(self) -> str:
        """The last line that the daemon, a zygote or a slot wrote to stderr."""
        try:
            return last_words(self._stderr)
        except ValueError:  # another thread has just closed it, to start the next daemon
            return "it said nothing"

    def hang_up(self) -> None:
        """Begins the end: whoever waits for the daemon is told."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the daemon and everything below it, and waits for that; once."""
        self.hang_up()
        with self._lock:
            self._clear()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            # A file, not a pipe: nobody needs to drain it.
            self._stderr = undo.enter_context(tempfile.TemporaryFile())
            # Not as an argument: programs see those, and they shall be the same for all.
            messages.send(ours, self._config)
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-m", "sandbox.daemon"],
                stdin=theirs.fileno(),
                stdout=self._stderr,
                stderr=self._stderr,
                env=self._env,
                start_new_session=True,
            )
            self._control = ours
            self._listened = False
            undo.pop_all()

    def _hear(self) -> Message | None:
        """The daemon's first message; None where it was killed before it could say anything."""
        self._control.settimeout(START_SECONDS)
        try:
            message, _ = messages.receive(self._control)
        except TimeoutError:
            raise self._refuse(f"the daemon was not ready after {START_SECONDS:g} s") from None
        except ConnectionResetError:  # it has not even read what another thread asks of it
            message = None
        except (OSError, messages.FrameError) as error:
            raise self._refuse(f"the daemon's first message is unreadable: {error}") from error
        self._control.settimeout(None)
        if message is None:
            if self._closed:
                raise PoolClosed("the sandbox is closed")
            if self._process.wait(STOP_SECONDS) < 0:
                return None
            raise self._refuse(f"the sandbox did not start: {self.last_words()}")
        if "error" in message:
            raise self._refuse(message["error"])
        self._listened = True
        threading.Thread(target=self._listen, args=(self._control,), daemon=True).start()
        return message

    def _listen(self, control: socket.socket) -> None:
        """Hears of ended slots until the daemon's end of the socket closes."""
        with contextlib.suppress(OSError, messages.FrameError):
            while (message := messages.receive(control)[0]) is not None:
                end = self._ends.get(message["ended"])
                if end is not None:
                    end[1].set_result(message["ooms"])
        for whose, end in list(self._ends.values()):
            if whose is control and not end.done():
                end.set_result(0)  # it ended with its daemon, not for memory
        control.close()

    def _refuse(self, text: str) -> StartError:
        self._refusal = StartError(text)
        return self._refusal

    def _clear(self) -> None:
        """Ends the present daemon; what it could not remove itself is removed here."""
        # The listening thread closes it; another's descriptor must not be pulled away.
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if not self._listened:
            self._control.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stderr.close()
        try:
            cgroup.remove(self._name)
        except OSError as error:
            raise WorkerDied(f"what the daemon has left cannot be removed: {error}") from error


def environment() -> dict[str, str]:
    """The daemon's environment: nothing of the caller's, so that no secret is in reach."""
    package = str(Path(__file__).resolve().parent.parent)
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": package,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_ARENA_MAX": "2",  # each arena of a thread reserves 64 MiB of address space
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
