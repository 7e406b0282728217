"""What decoding and reading cost here and now, by which a schedule's seconds are predicted."""

import time

import jax

from benchmarks.latency.scripted import Scripted, problems
from benchmarks.latency.simulate import Costs, Curve
from benchmarks.latency.workload import PROMPT

# Tokens that rows have written where a step is timed; between them is interpolated.
WRITTEN = (0, 128, 256, 512, 1024, 1536, 2048, 2560, 3008)
TIMES = 2


def costs(engine: Scripted) -> Costs:
    """Measured on rows of nobody's script; the engine must be idle, and begins anew."""
    engine.begin()
    step = {rows: curve(engine, rows) for rows in engine.batch_sizes}
    found = Costs(step, reading(engine), engine.extend_rows, engine.ladder[-1])
    engine.begin()
    return found


def curve(engine: Scripted, rows: int) -> Curve:
    """Seconds of a step of so many rows, by what each has written."""
    written, seconds = [], []
    engine.left[0] = 2 * rows * engine.capacity  # the first script never comes to its end
    key = problems(1)[0].key
    for tokens in WRITTEN:
        count = PROMPT + tokens
        room = engine.segment * (TIMES + 1)
        if count + room > engine.capacity:
            break
        prompt = [token % 300 for token in range(count)]
        slots = [
            engine.admit(prompt, problem=key, sample=i, budget=room, watch=False)
            for i in range(rows)
        ]
        engine.decode()  # reads the prompt
        begin = time.perf_counter()
        for _ in range(TIMES):
            engine.decode()
        seconds.append((time.perf_counter() - begin) / (TIMES * engine.segment))
        written.append(tokens + engine.segment * (1 + TIMES / 2))
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
