"""Which episode lies in which row: first-fit decreasing over a ladder of row lengths.

    layout = pack(lengths, ladder(3584, rungs=3), rows=16)

All rows of a microbatch have one length: T, or on a lower rung T/2, T/4, .. Whole microbatches
are filled first; what is left of the batch goes into one microbatch a rung at most, as the binary
digits of a number. Without lower rungs the last microbatch is as long as the others, however
little it holds. A packing is a function of the lengths alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """rungs: of each microbatch, the longest first; rows: what lies in each row of all of them."""

    rungs: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


def ladder(row_tokens: int, rungs: int) -> tuple[int, ...]:
    """The lengths that rows may have, longest first; each half of the one before."""
    return tuple(row_tokens >> rung for rung in range(rungs))


def microbatches(episodes: int, rows: int, rungs: int) -> int:
    """The most that so many episodes can need: a row each, the last of them on lower rungs."""
    return -(-episodes // rows) + max(rungs - 2, 0)


def pack(lengths: Sequence[int], widths: Sequence[int], rows: int) -> Layout:
    """The fewest places, in steps of a lowest microbatch, in which first fit finds room for all.

    `widths`: a `ladder`; `rows`: of a microbatch. Raises ValueError where a length exceeds the
    longest rung.
    """
    if lengths and max(lengths) > widths[0]:
        raise ValueError(f"an episode of {max(lengths)} tokens exceeds rows of {widths[0]}")
    steps = -(-sum(lengths) // (rows * widths[-1]))
    while True:
        rungs = split(steps, len(widths))
        room = np.repeat([widths[rung] for rung in rungs], rows)
        if (found := first_fit(lengths, room)) is not None:
            return Layout(rungs, found)
        steps += 1


def split(steps: int, rungs: int) -> tuple[int, ...]:
    """The rungs of as few microbatches as make up `steps` of the lowest."""
    whole, rest = divmod(steps, 1 << (rungs - 1))
    lower = (rung for rung in range(1, rungs) if rest >> (rungs - 1 - rung) & 1)
    return (*[0] * whole, *lower)


def first_fit(lengths: Sequence[int], room: np.ndarray) -> tuple[tuple[int, ...], ...] | None:
    """What lies in each row, whose `room` is given; None where something finds none.

    The longest come first, and equals in their order.
    """
    out: list[list[int]] = [[] for _ in room]
    left = np.array(room)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = np.flatnonzero(left >= lengths[i])
        if not len(fits):
            return None
        out[fits[0]].append(i)
        left[fits[0]] -= lengths[i]
    return tuple(map(tuple, out))
