"""A trainer's own loop, which goes one step on each time it is asked to. Standard library only.

    paced = Paced(loop)              loop(paced) runs in a thread of its own
    paced.pause()                    in the loop, before each step: waits until it is asked for
    paced.step()                     by whoever asks: one step, from one pause to the next

A peer's `train` is one call for many steps, and opens and closes much around them; so what is
measured here is a step of a run that goes on.
"""

import queue
import threading
from collections.abc import Callable


class Paced:
    """The thread is a daemon: it ends with the process, between two steps."""

    def __init__(self, loop: Callable[["Paced"], object]) -> None:
        """`loop` must come to its first pause; what is before it is not part of any step."""
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._paused: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(loop,), daemon=True).start()
        self._wait()

    def pause(self) -> None:
        """The step before is done; waits until another is asked for."""
        self._paused.put(None)
        self._asked.get()

    def step(self) -> None:
        """One step more. Raises what the loop raised, and RuntimeError where it has ended."""
        self._asked.put(None)
        self._wait()

    def _wait(self) -> None:
        error = self._paused.get()
        if error is not None:
            raise error

    def _run(self, loop: Callable[["Paced"], object]) -> None:
        try:
            loop(self)
            self._paused.put(RuntimeError("the loop has ended"))
        except BaseException as error:
            self._paused.put(error)
