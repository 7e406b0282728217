"""What decoding and reading cost here and now, by which a schedule's seconds are predicted."""

import time

import jax

from benchmarks.latency.scripted import Scripted, problems
from benchmarks.latency.simulate import Costs, Curve, reach
from benchmarks.latency.workload import PROMPT

# Tokens that rows have written on average where a step is timed; between them is interpolated.
WRITTEN = (0, 64, 128, 256, 512, 768, 1024, 1408)
LENGTHS, TIMES = 8, 2


def costs(engine: Scripted) -> Costs:
    """Measured on rows of nobody's script; the engine must be idle, and begins anew."""
    engine.begin()
    step = {rows: curve(engine, rows) for rows in engine.batch_sizes}
    found = Costs(step, reading(engine), engine.extend_rows, engine.ladder[-1])
    engine.begin()
    return found


def curve(engine: Scripted, rows: int) -> Curve:
    """Seconds of a step of so many rows, by what they have written, little and much (`reach`)."""
    written, seconds = [], []
    engine.left[0] = 2 * rows * engine.capacity  # the first script never comes to its end
    key, room = problems(1)[0].key, engine.segment * (TIMES + 1)
    for mean in WRITTEN:
        each = [mean * (2 * (i % LENGTHS) + 1) // LENGTHS for i in range(rows)]
        if PROMPT + max(each) + room > engine.capacity:
            break
        slots = []
        for i, tokens in enumerate(each):
            prompt = [token % 300 for token in range(PROMPT + tokens)]
            slots.append(engine.admit(prompt, problem=key, sample=i, budget=room, watch=False))
        engine.decode()  # reads the prompts
        begin = time.perf_counter()
        for _ in range(TIMES):
            engine.decode()
        seconds.append((time.perf_counter() - begin) / (TIMES * engine.segment))
        midway = engine.segment * (1 + TIMES / 2)
        written.append(reach([tokens + midway for tokens in each], rows))
        for slot in slots:
            engine.release(slot)
    return tuple(written), tuple(seconds)


def reading(engine: Scripted) -> float:
    """Seconds of one call of `extend` of the longest kind, full of texts."""
    width, rows, times = engine.ladder[-1], min(engine.extend_rows, engine.free), []
    for turn in range(TIMES + 1):
        # Of texts that a slot has read before nothing would be read.
        texts = [[turn, *((k + t) % 300 for t in range(width))] for k in range(rows)]
        slots = [
            engine.admit(text, problem=k, sample=0, budget=1, watch=False)
            for k, text in enumerate(texts)
        ]
        jax.block_until_ready(engine.cache)
        begin = time.perf_counter()
        engine.read()
        times.append(time.perf_counter() - begin)
        for slot in slots:
            engine.release(slot)
    return min(times)
