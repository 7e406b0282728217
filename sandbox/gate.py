"""Admission: so many jobs run, so many wait in order, the rest is turned away at once."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator


class Full(Exception):
    """No place for this job, and no use in waiting."""


class Late(Exception):
    """No place came in time."""


class Ending(Exception):
    """No more jobs are taken."""


class Bodies:
    """Counts the bytes of what callers have sent and is still needed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @contextlib.contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Yields what takes so many bytes more, until the end of the block. It raises Full."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._held + size > self._most:
                raise Full(f"requests of {self._held >> 20} MiB are held already, no more is taken")
            self._held += size
            taken += size

        try:
            yield take
        finally:
            self._held -= taken


class Gate:
    """`width` jobs at a time, `queue` waiting. For one event loop."""

    def __init__(self, width: int, queue: int) -> None:
        self.running = 0
        self._width = width
        self._queue = queue
        self._closed = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def enter(self, seconds: float) -> None:
        """Takes a place, after at most `seconds` of waiting. Raises Full, Late, Ending."""
        if self._closed:
            raise Ending("the server is ending")
        if self.running < self._width:
            self.running += 1
            return
        if len(self._waiting) >= self._queue:
            raise Full(f"{self._queue} jobs wait already, no more are taken")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except TimeoutError:
            self._forget(turn)
            raise Late(f"no place after {seconds:g} s in the queue") from None
        except asyncio.CancelledError:
            self._forget(turn)
            raise

    def leave(self) -> None:
        """Hands the place to the first in the queue."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def close(self) -> None:
        """Turns away all who wait and all who come; who runs is not touched."""
        self._closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(Ending("the server is ending"))

    def _forget(self, turn: "asyncio.Future[None]") -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled() and turn.exception() is None:
            self.leave()  # the place came in the same moment as the end of the wait
