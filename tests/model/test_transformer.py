"""Relations of the decoder: causality, packing, the cache, precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torl_jax.model.cache import Cache, fork
from torl_jax.model.transformer import Transformer, initialise

RNG = np.random.default_rng(1)


def test_no_position_depends_on_a_later_or_a_foreign_one(params, shape):
    # Each position has a token of its own, so the embedding's rows are the positions' inputs.
    lengths = (4, 5, 3)
    segments = np.repeat([1, 2, 3], lengths)
    positions = np.concatenate([np.arange(n) for n in lengths])
    tokens = np.arange(len(segments))
    direction = RNG.normal(size=shape.d_model).astype(np.float32)

    def read(embed_VD, positions, segments):
        tree = params | {"embed_VD": embed_VD}
        out, _ = Transformer(shape).apply(
            {"params": tree}, tokens[None], positions[None], segments[None]
        )
        return out[0] @ direction

    jacobian = jax.jit(jax.jacrev(read))
    for p, s in ((positions, segments), (np.arange(12), np.ones(12, int))):
        depends = np.abs(jacobian(params["embed_VD"], p, s)[:, :12]).max(-1) > 0
        wanted = np.tril(np.ones((12, 12), bool)) & (s[:, None] == s)
        np.testing.assert_array_equal(depends, wanted)


def test_packed_is_separate(params, hidden):
    lengths = (7, 4, 9)
    sequences = [RNG.integers(0, 48, n) for n in lengths]
    width = 24  # four of padding at the end
    tokens, positions, segments = (np.zeros((1, width), int) for _ in range(3))
    start = 0
    for i, sequence in enumerate(sequences, start=1):
        where = slice(start, start + len(sequence))
        tokens[0, where], segments[0, where] = sequence, i
        positions[0, where] = np.arange(len(sequence))
        start += len(sequence)
    packed = hidden(params, tokens, positions, segments)
    assert np.isfinite(packed).all()
    start = 0
    for sequence in sequences:
        alone = np.zeros((1, width), int)
        alone[0, : len(sequence)] = sequence
        wanted = hidden(params, alone)[0, : len(sequence)]
        np.testing.assert_allclose(packed[0, start : start + len(sequence)], wanted, atol=1e-5)
        start += len(sequence)


CAPACITY, ROWS, STEP = 24, 4, 7


@st.composite
def schedules(draw):
    """Calls that write rows of any lengths in any order, each {row: (start, count)} of two rows."""
    lengths = draw(st.lists(st.integers(1, CAPACITY), min_size=ROWS, max_size=ROWS))
    at, calls = [0] * ROWS, []
    while open_rows := [r for r in range(ROWS) if at[r] < lengths[r]]:
        some = draw(st.permutations(open_rows))[:2]
        call = {}
        for r in some:
            call[r] = (at[r], draw(st.integers(1, min(STEP, lengths[r] - at[r]))))
            at[r] += call[r][1]
        calls.append(call)
    return calls


@pytest.fixture(scope="module")
def replay(params, shape, hidden, extend):
    """Makes a schedule's calls; yields (what the cache path gave, the dense path's) of each."""

    def run(calls, tokens):
        wanted = np.asarray(hidden(params, tokens))
        # What an earlier owner of a row left behind must not be seen.
        cache = jax.tree.map(lambda x: x + 3.0, Cache.zeros(shape, ROWS, CAPACITY, jnp.float32))
        for call in calls:
            rows, start, count = np.full(2, ROWS), np.zeros(2, int), np.zeros(2, int)
            new = np.zeros((2, STEP), int)
            for i, (row, (begin, length)) in enumerate(call.items()):
                rows[i], start[i], count[i] = row, begin, length
                new[i, :length] = tokens[row, begin : begin + length]
            out, cache = extend(params, cache, rows, start, count, new)
            for i, (row, (begin, length)) in enumerate(call.items()):
                yield out[i, :length], wanted[row, begin : begin + length]

    return run


@settings(max_examples=25, deadline=None)
@given(schedules(), st.integers(0, 2**16))
def test_the_cache_path_is_the_dense_path(replay, calls, seed):
    tokens = np.random.default_rng(seed).integers(0, 48, (ROWS, CAPACITY))
    for got, wanted in replay(calls, tokens):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_an_extend_writes_its_own_tokens_and_nothing_else(params, shape, extend):
    before = jax.tree.map(lambda x: x + 3.0, Cache.zeros(shape, ROWS, CAPACITY, jnp.float32))
    rows, start, count = np.asarray([2, ROWS]), np.asarray([5, 0]), np.asarray([3, 4])
    _, after = extend(params, before, rows, start, count, np.ones((2, STEP), int))
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        changed = np.asarray((x != y).any(axis=(0, 2, 4)))
        wanted = np.zeros((ROWS, before.capacity), bool)
        wanted[2, 5:8] = True
        np.testing.assert_array_equal(changed, wanted)


def test_fork_copies_a_prefix(shape):
    zeros = Cache.zeros(shape, ROWS, CAPACITY, jnp.float32)
    before = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), jnp.float32), zeros)
    after = fork(before, np.asarray([1, 0, 2]), np.asarray([3, 2, ROWS]), span=10)
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        wanted = np.array(x)
        wanted[:, 3, :, :10], wanted[:, 2, :, :10] = x[:, 1, :, :10], x[:, 0, :, :10]
        np.testing.assert_array_equal(y, wanted)


def test_bfloat16_is_close(params, shape, hidden):
    tokens = RNG.integers(0, 48, (2, 24))
    out = hidden(params, tokens, model=Transformer(shape, dtype=jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    exact = np.asarray(hidden(params, tokens))
    error = np.abs(np.asarray(out, np.float32) - exact).mean() / np.abs(exact).mean()
    assert 0 < error < 0.05


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_recomputing_changes_no_gradient_and_keeps_less(params, shape, remat):
    tokens, positions = RNG.integers(0, 48, (2, 6)), np.arange(6)[None].repeat(2, 0)

    def total(tree, remat: str):
        model = Transformer(shape, remat=remat)
        return jnp.sum(jnp.sin(model.apply({"params": tree}, tokens, positions)[0]))

    def gradient(remat: str):
        return jax.jit(jax.grad(total), static_argnums=1)(params, remat)

    def kept(remat: str) -> int:
        _, backward = jax.vjp(lambda tree: total(tree, remat), params)
        return sum(x.size for x in jax.tree.leaves(backward))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        gradient(remat),
        gradient("none"),
    )
    assert kept(remat) < kept("none")
    assert remat == "full" or kept("full") < kept(remat)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_model_has_no_head(shape, tied):
    shape = dataclasses.replace(shape, tied=tied)
    tree = jax.eval_shape(lambda: initialise(shape, jax.random.key(0)))
    assert ("head_DV" in tree) is not tied
    assert sum(x.size for x in jax.tree.leaves(tree)) == shape.parameter_count
