"""Three ways to take episodes with tools through the same engine."""

import collections
import time
from collections.abc import Callable

from benchmarks.latency.scripted import (
    CALLS,
    EOS,
    Delays,
    Markup,
    Scripted,
    Words,
    problems,
)  # fmt: skip
from benchmarks.latency.workload import KINDS, PROMPT
from torl_jax.rollout import Rollout


def ours(engine: Scripted, pace: float) -> None:
    """The rollout as training has it."""
    rollout(engine, pace).collect(problems(len(engine.scripts)), 1)


def unfilled(engine: Scripted, pace: float) -> None:
    """Calls of each episode by itself, but no slot is filled again before all are done."""
    every, slots = problems(len(engine.scripts)), len(engine.table.slots)
    for start in range(0, len(every), slots):
        rollout(engine, pace).collect(every[start : start + slots], 1)


def rounds(engine: Scripted, pace: float) -> None:
    """ToRL's: all write until their calls, all calls are carried out, all are read anew."""
    names = [problem.key for problem in problems(len(engine.scripts))]
    words, markup = Words(), Markup()
    written = {
        name: words.encode(markup.prompt(problem))
        for name, problem in zip(names, problems(len(names)), strict=True)
    }
    active = names
    while active:
        kinds = turn(engine, {name: written[name] for name in active}, written)
        active = [name for name in active if name in kinds]
        time.sleep(max((KINDS[kind][1] * pace for kind in kinds.values()), default=0.0))
        for name in active:
            written[name] += words.encode(markup.insertion("", None))


def turn(
    engine: Scripted, texts: dict[int, list[int]], written: dict[int, list[int]]
) -> dict[int, str]:
    """Every text is continued to its next call or its end; which calls were made."""
    spelled = {token: kind for kind, token in CALLS.items()}
    waiting, kinds = collections.deque(texts.items()), {}
    while waiting or engine.free < len(engine.table.slots):
        while waiting and engine.free:
            name, text = waiting.popleft()
            room = engine.capacity - len(text)
            engine.admit(text, problem=name, sample=0, budget=room, watch=False)
        for chunk in engine.decode():
            last = chunk.tokens[-1]
            if last != EOS and last not in spelled:
                continue
            written[chunk.slot.problem] = list(chunk.slot.tokens)
            if last != EOS:
                kinds[chunk.slot.problem] = spelled[last]
            engine.release(chunk.slot)
    return kinds


def rollout(engine: Scripted, pace: float) -> Rollout:
    """The real one."""
    most = engine.capacity - PROMPT
    return Rollout(
        engine,
        Words(),
        Markup(),
        Delays(pace),
        max_prompt=PROMPT,
        max_response=most,
    )


SCHEDULES: dict[str, Callable[[Scripted, float], None]] = {
    "torl_jax": ours, "rounds": rounds, "no refill": unfilled
}  # fmt: skip
