"""An event loop in a thread of its own: for calls that only wait for somebody else.

A call to a server runs no foreign code here, so it needs no process; and where a thread
that waits cannot be ended, a coroutine is cancelled at its time limit.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
AGAIN = 1.0  # seconds between two cancellations of one task


class Loop:
    """Runs coroutines from its making until it is closed."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a toolbox that nobody closed must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._loop.is_closed() or not self._thread.is_alive()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begins it; from any thread. Raises RuntimeError once the loop is closed."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise

    def close(self, last: Coroutine[Any, Any, object] | None = None) -> None:
        """Cancels what runs, runs `last`, and ends the thread; again, it does nothing."""
        if self.closed:
            if last is not None:
                last.close()
            return
        self.submit(self._end(last)).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self, last: Coroutine[Any, Any, object] | None) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        while left:
            for task in left:
                task.cancel()
            # Again: what ends by a limit of its own just then may take a cancellation for that.
            done, left = await asyncio.wait(left, timeout=AGAIN)
            for task in done:
                if not task.cancelled():
                    task.exception()  # looked at: nobody waits for it any more
        if last is not None:
            await last
        await self._loop.shutdown_asyncgens()
