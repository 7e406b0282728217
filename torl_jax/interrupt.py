"""Ctrl-C and SIGTERM as a request to stop where the run can be saved."""

import os
import signal
import time


class StopSignal:
    """The first signal is noted, for the next safe point; one more, SETTLED later, kills.

    Within SETTLED two signals are one: a scheduler's may come by several ways.
    """

    SETTLED = 1.0  # seconds

    def __init__(self) -> None:
        self.caught = False
        self._at = 0.0

    def __enter__(self) -> "StopSignal":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if self.caught:
            if time.monotonic() - self._at > self.SETTLED:
                os._exit(128 + number)
            return
        self.caught, self._at = True, time.monotonic()
        # Not through the writer: a handler must not wait for a lock that it interrupted.
        os.write(2, b"\nstopping: what is done will be saved; once more quits at once\n")
