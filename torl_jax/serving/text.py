"""From the bytes of tokens to text that may be shown: whole characters, and no stop string.

    shown = the bytes sampled, up to where the first completed stop begins
    shown now = that, less the longest end that a stop may begin with

Of several stops the one that ends first wins (`StopFinder`). What has been shown is never
taken back: a stop can only begin in what is withheld.

This module is part of the words world: no jax.
"""

import codecs
from collections.abc import Sequence

from torl_jax.protocols.text import Stop, StopFinder


class Typist:
    """Types out what one turn's tokens spell; bytes that are no UTF-8 come as U+FFFD.

    However the tokens arrive, the texts returned join to the same text.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._finder = StopFinder(stops)
        self._stops = [stop.encode() for stop in stops]
        self._longest = max(map(len, self._stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""  # may be the beginning of a stop
        self._shown = 0  # bytes given to the decoder

    def type(self, pieces: Sequence[bytes]) -> tuple[str, Stop | None]:
        """The text that `pieces`, one a token, add, and the stop that they complete.

        After a stop nothing more may be typed.
        """
        stop = self._finder.feed(pieces)
        self._held += b"".join(pieces)
        if stop is not None:
            until = stop.end - len(stop.text.encode()) - self._shown
            self._held = self._held[:until]
            return self.end(), stop
        return self._show(len(self._held) - self._doubtful()), None

    def end(self) -> str:
        """The rest, when no more comes."""
        return self._show(len(self._held)) + self._decoder.decode(b"", final=True)

    def _show(self, count: int) -> str:
        now, self._held = self._held[:count], self._held[count:]
        self._shown += count
        return self._decoder.decode(now)

    def _doubtful(self) -> int:
        """How many of the last bytes may be the beginning of a stop."""
        for count in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-count:]
            if any(stop.startswith(end) for stop in self._stops):
                return count
        return 0
