"""Sampling with tools: whatever rows write and are told, no program is missing."""

import jax
import numpy as np
import pytest

from tests.sampler.test_engine import SHAPE, V, make
from torl_jax.compilation import Counter
from torl_jax.model.transformer import initialise
from torl_jax.parallel import mesh
from torl_jax.sampler.engine import Engine


def tool_step(engine: Engine, seed: int) -> int:
    """Groups of prompts of any length; rows pause anywhere, overshoot, and are told any length."""
    draw, slots = np.random.default_rng(seed), {}
    for problem in range(8):
        prompt = tuple(draw.integers(1, V, draw.integers(1, 12)).tolist())
        for g in range(4):
            slot = engine.admit(prompt, problem=problem, sample=g, budget=50, watch=False)
            slots[slot.index] = 2  # calls that are left
    told = 0
    while slots:
        for chunk in engine.decode():
            slot, calls = chunk.slot, slots[chunk.slot.index]
            if calls and draw.random() < 0.5 and slot.remaining > 18:
                engine.rewind(slot, int(draw.integers(0, len(chunk.tokens))))
                text = draw.integers(1, V, draw.integers(1, 18)).tolist()
                engine.feed(slot, text)
                slots[slot.index], slot.live = calls - 1, bool(draw.random() < 0.5)
                told += len(text)
            elif slot.remaining <= 0:
                engine.release(slot)
                del slots[slot.index]
        for slot in engine.table.slots:
            slot.live = slot.live or (slot.taken and bool(draw.random() < 0.3))
    return told


@pytest.mark.parametrize("sizes", [None, (2, 1, 2)])
def test_tools_compile_nothing_after_the_first_step(sizes):
    """Whatever the lengths, and however many rows live meanwhile."""
    over = None if sizes is None else mesh.make(*sizes, devices=jax.devices()[:4])
    engine = make(initialise(SHAPE, jax.random.key(3)), slots=64, over=over)
    # As the trainer begins.
    engine.warm_up()
    counter = Counter()
    told = [tool_step(engine, seed) for seed in range(3)]
    assert counter.count == 0 and min(told) > 100
    assert engine.tally.rewound_tokens > 100
