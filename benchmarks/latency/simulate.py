"""The three schedules as events on a clock, for sizes that no machine here can run.

What a segment costs is given (`Costs`); who waits for whom follows from the scripts alone.
"""

import collections
import dataclasses
import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.latency.workload import ANSWER, KINDS, PROMPT, Script
from torl_jax.model.attention.prefix import RUNGS

# Seconds of a step (second) where each row has written so many tokens (first).
Curve = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Costs:
    """step: of one decode step by rows decoded, and by what each has written (`reach`).
    read: seconds of one call of `extend`, which takes `rows` texts and `width` tokens of each;
    segment: seconds beside a segment's steps.
    """

    step: Mapping[int, Curve]
    read: float
    rows: int
    width: int
    segment: float = 0.0


@dataclasses.dataclass
class Clock:
    """What has passed: seconds, and decode steps x rows."""

    seconds: float = 0.0
    slot_steps: int = 0

    def read(self, texts: Sequence[int], costs: Costs) -> None:
        """Texts of so many tokens are read."""
        longest = sorted(texts, reverse=True)[:: costs.rows]  # of each call's texts
        self.seconds += sum(-(-tokens // costs.width) for tokens in longest) * costs.read

    def decode(
        self, left: Sequence[int], written: Sequence[int], segment: int, costs: Costs
    ) -> list[int]:
        """One segment of rows that have written so much, and have so much left in this turn.

        Returns what is left then.
        """
        rows = min(size for size in costs.step if size >= len(left))
        steps = min(segment, max(left))
        midway = reach([tokens + steps / 2 for tokens in written], rows)
        each = float(np.interp(midway, *costs.step[rows]))
        self.seconds += costs.segment + steps * each
        self.slot_steps += steps * rows
        return [max(n - steps, 0) for n in left]


def reach(written: Sequence[float], rows: int) -> float:
    """How much all rows would have written where as much is read as plain attention reads here.

    In a long cache it goes through all rows as far as the longer half of them, through that half
    as far as its own longer half, and so on (`attention/prefix.py`).
    """
    longest = [*sorted(written, reverse=True), *[0.0] * (rows - len(written))]
    read, start = 0.0, 0.0
    for r in range(RUNGS):
        half = rows >> (r + 1) if r < RUNGS - 1 else 0
        read += (rows >> r) * (longest[half] - start)
        start = longest[half]
        if not half:
            break
    return read / rows


def ours(
    scripts: Sequence[Script],
    slots: int,
    segment: int,
    pace: float,
    costs: Costs,
    before: Sequence[int] = (),
) -> Clock:
    """Refilled slots; a call is carried out while others write.

    `before`: tokens that each episode has from elsewhere, to be read with its prompt.
    """
    clock, waiting = Clock(), collections.deque(range(len(scripts)))
    written = list(before) or [0] * len(scripts)
    turn = [0] * len(scripts)
    live: dict[int, int] = {}  # episode -> tokens left in its turn
    called: list[tuple[float, int]] = []  # when it is answered, episode
    free = slots
    while waiting or live or called:
        begun = min(free, len(waiting))
        new = [waiting.popleft() for _ in range(begun)]
        live |= {k: scripts[k].turns[0] for k in new}
        free -= begun
        if not live:
            clock.seconds = max(clock.seconds, called[0][0])
        answered = 0
        while called and called[0][0] <= clock.seconds:
            k = heapq.heappop(called)[1]
            turn[k] += 1
            live[k] = scripts[k].turns[turn[k]]
            answered += 1
        clock.read([PROMPT + written[k] for k in new], costs)
        clock.read([ANSWER] * answered, costs)
        if not live:
            continue
        so_far = [written[k] for k in live]
        rest = clock.decode(list(live.values()), so_far, segment, costs)
        for k, left in zip(list(live), rest, strict=True):
            written[k] += live[k] - left
            live[k] = left
            if left:
                continue
            del live[k]
            if turn[k] < len(scripts[k].calls):
                wait = KINDS[scripts[k].calls[turn[k]]][1] * pace
                heapq.heappush(called, (clock.seconds + wait, k))
            else:
                free += 1
    return clock


def unfilled(
    scripts: Sequence[Script], slots: int, segment: int, pace: float, costs: Costs
) -> Clock:
    """One batch after the other."""
    total = Clock()
    for start in range(0, len(scripts), slots):
        part = ours(scripts[start : start + slots], slots, segment, pace, costs)
        total = Clock(total.seconds + part.seconds, total.slot_steps + part.slot_steps)
    return total


def rounds(scripts: Sequence[Script], slots: int, segment: int, pace: float, costs: Costs) -> Clock:
    """All turns, then all calls, then all texts anew."""
    total = Clock()
    for n in range(max(len(script.turns) for script in scripts)):
        active = [script for script in scripts if len(script.turns) > n]
        texts, before = (
            [Script((s.turns[n],), ()) for s in active], [sum(s.turns[:n]) for s in active]
        )  # fmt: skip
        part = ours(texts, slots, segment, pace, costs, before)
        waits = [KINDS[s.calls[n]][1] * pace for s in active if len(s.calls) > n]
        seconds = part.seconds + max(waits, default=0.0)
        total = Clock(total.seconds + seconds, total.slot_steps + part.slot_steps)
    return total


SCHEDULES = {"torl_jax": ours, "rounds": rounds, "no refill": unfilled}
