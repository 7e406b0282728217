"""Ctrl-C and SIGTERM as a request to stop where the run can be saved."""

import os
import signal


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, raised where the run can be saved."""


class StopSignal:
    """The first signal is noted and raised at the next safe point; the second kills."""

    def __init__(self) -> None:
        self.caught = False

    def __enter__(self) -> "StopSignal":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if self.caught:
            os._exit(128 + number)
        self.caught = True
        # Not through the writer: a handler must not wait for a lock that it interrupted.
        os.write(2, b"\nstopping: what is done will be saved; once more quits at once\n")

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.caught:
            raise Interrupted
