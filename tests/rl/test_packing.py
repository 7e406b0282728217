"""The packer: everything once, nothing beyond a row's length, and little left empty."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.packing import lengths_of, share
from configs import torl_1p5b, torl_7b
from torl_jax.rl.packing import ladder, microbatches, pack

lengths = st.lists(st.integers(1, 40), max_size=30)


@given(lengths, st.integers(10, 15), st.integers(1, 4), st.integers(1, 4))
def test_pack(lengths, lowest, rungs, rows):
    """Rows begin at their rung's length; each of the lengths lies in one, once."""
    widths = ladder(lowest << (rungs - 1), rungs)
    lengths = [min(n, widths[0]) for n in lengths]
    found = pack(lengths, widths, rows)
    assert sorted(i for row in found.rows for i in row) == list(range(len(lengths)))
    room = np.repeat([widths[rung] for rung in found.rungs], rows)
    assert all(
        sum(lengths[i] for i in row) <= size for row, size in zip(found.rows, room, strict=True)
    )
    # Whole microbatches, then one of a lower rung at most; as many as there may be.
    lower = [rung for rung in found.rungs if rung]
    assert found.rungs == (*[0] * (len(found.rungs) - len(lower)), *sorted(set(lower)))
    assert len(found.rungs) <= microbatches(len(lengths), rows, rungs)
    assert found == pack(list(lengths), widths, rows)
    alone = pack(lengths, widths[:1], rows)
    assert room.sum() <= len(alone.rungs) * rows * widths[0]


@given(lengths, st.integers(40, 60), st.integers(1, 4))
def test_no_two_rows_could_have_been_one(lengths, row_tokens, rows):
    found = pack(lengths, (row_tokens,), rows)
    loads = sorted(sum(lengths[i] for i in row) for row in found.rows if row)
    assert len(loads) < 2 or loads[0] + loads[1] > row_tokens
    assert len(found.rungs) == -(-len(loads) // rows)


def test_the_longest_come_first_and_equals_in_their_order():
    assert pack([3, 5, 3, 8, 2], (8,), 3).rows == ((3,), (1, 0), (2, 4))


def test_what_is_left_goes_into_short_rows():
    found = pack([8, 8, 3, 2, 1], (8, 4, 2), 2)
    assert (found.rungs, found.rows) == ((0, 1), ((0,), (1,), (2, 4), (3,)))


def test_what_cannot_fit_is_refused():
    with pytest.raises(ValueError, match="9 tokens exceeds rows of 8"):
        pack([3, 9], (8, 4), 1)


@pytest.mark.parametrize("recipe", [torl_1p5b, torl_7b])
@pytest.mark.parametrize("seed", range(5))
def test_a_recipe_fills_what_it_sends(recipe, seed):
    """Of all places of a step of ToRL, padding rows and all, tokens fill 92 % at least."""
    cfg = recipe.get_config()
    problems, samples = cfg.rl.problems_per_step, cfg.rl.group_size
    found = lengths_of(problems, samples, seed)
    assert (
        share(found, cfg.learner.row_tokens, cfg.learner.rungs, cfg.learner.microbatch_rows) > 0.92
    )


def test_a_small_step_is_filled_too():
    """Eight problems of eight samples, in microbatches of four rows of three lengths."""
    found = [lengths_of(8, 8, seed) for seed in range(20)]
    shares = [share(each, torl_1p5b.get_config().learner.row_tokens, 3, 4) for each in found]
    assert np.mean(shares) > 0.92 and min(shares) > 0.88


def test_the_order_of_episodes_changes_no_shape():
    found = lengths_of(8, 8, 0)
    mixed = random.Random(0).sample(found, len(found))
    widths = ladder(3584, 3)
    assert pack(found, widths, 4).rungs == pack(mixed, widths, 4).rungs
