"""What a token says of the stop strings: the sampler knows numbers, not what they spell."""

import enum


class Pause(enum.IntFlag):
    """Of a token: whether a stop may have ended with it, so that the row should pause.

    ALONE: it may, whatever stood before. SECOND: it may behind a FIRST.
    """

    ALONE = 1
    FIRST = 2
    SECOND = 4
