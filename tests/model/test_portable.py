"""Attention in plain XLA: whole against loops, and block by block against whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torl_jax.model.attention import portable, prefix
from torl_jax.model.cache import Cache, Window, read

RNG = np.random.default_rng(0)
NAN = float("nan")


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


# The portable one.


def attention(q_BTNH, k_BKSH, v_BKSH, mask_BTS):
    """One query head at a time; head n reads kv head n // G."""
    B, T, N, H = q_BTNH.shape
    group = N // k_BKSH.shape[1]
    out = np.zeros((B, T, N, H))
    for b, t, n in np.ndindex(B, T, N):
        score = k_BKSH[b, n // group] @ q_BTNH[b, t, n] / np.sqrt(H)
        weight = np.exp(score - score.max()) * mask_BTS[b, t]
        out[b, t, n] = weight / weight.sum() @ v_BKSH[b, n // group]
    return out


def test_attend_and_its_groups():
    q, k, v = normal(2, 3, 6, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4)
    mask = RNG.random((2, 3, 5)) < 0.6
    mask[..., 0] = True
    got = portable.attend(q, k, v, mask)
    np.testing.assert_allclose(got, attention(q, k, v, mask), atol=1e-5)
    repeated = portable.attend(q, k.repeat(3, 1), v.repeat(3, 1), mask)
    np.testing.assert_allclose(got, repeated, atol=1e-6)


def test_a_query_that_may_look_nowhere_stays_finite():
    q, k, v = normal(1, 2, 2, 4), normal(1, 1, 3, 4), normal(1, 1, 3, 4)
    assert np.isfinite(portable.attend(q, k, v, np.zeros((1, 2, 3), bool))).all()


def test_causal_mask():
    positions = np.asarray([[0, 1, 2, 0, 1, 0]])
    segments = np.asarray([[1, 1, 1, 2, 2, 0]])
    wanted = [[segments[0, t] == segments[0, s] and s <= t for s in range(6)] for t in range(6)]
    np.testing.assert_array_equal(portable.causal_mask(positions, segments)[0], wanted)
    dense = portable.causal_mask(np.arange(4)[None], None)[0]
    np.testing.assert_array_equal(dense, np.tril(np.ones((4, 4), bool)))


# Sampling in plain XLA.


def read_so_far(q, cache, layer, window):
    """What `prefix` gives, from all positions at once."""
    k, v = read(cache, layer, window.rows_R)
    mask = window.positions_RT[:, :, None] >= jnp.arange(cache.capacity)
    return portable.attend(q, k, v, mask)


def prefix_inputs(lengths, T, rows, S=384):
    """Queries of T new tokens behind `lengths`, the last of them at length + T - 1."""
    L, B, K, G, H = 2, 6, 2, 3, 8
    cache = Cache(*(jnp.asarray(normal(L, B, K, S, H)) for _ in range(2)))
    at = np.asarray(lengths)[:, None] + np.arange(T)
    positions = np.where(np.asarray(lengths)[:, None] < S, at, S)
    return normal(len(lengths), T, K * G, H), cache, Window(rows, jnp.asarray(positions))


@pytest.mark.parametrize(
    ("lengths", "T", "rows", "S"),
    [
        ((0, 127, 128, 129, 383, 384), 1, None, 384),
        ((5, 384, 384, 384, 0, 60), 1, None, 384),
        ((0, 120, 250), 9, np.asarray([4, 0, 2]), 384),
        ((40, 384), 40, np.asarray([1, 6]), 384),
        ((0, 127, 1023, 129, 383, 700), 1, None, 1024),
        ((1024, 5, 1024, 1024, 640, 60), 1, None, 1024),
        ((120, 0, 950), 9, np.asarray([4, 0, 2]), 1024),
        ((1024,), 40, np.asarray([6]), 1024),
        ((900,), 1, np.asarray([3]), 1024),
    ],
)
def test_blocks_that_rows_have_read_are_all_positions(lengths, T, rows, S):
    q, cache, window = prefix_inputs(lengths, T, rows, S)
    got = jax.jit(prefix.attend, static_argnames="by_length")(
        q, cache, jnp.int32(1), window, by_length=S == 1024
    )
    assert np.isfinite(got).all()
    real = np.asarray(lengths) < S
    wanted = read_so_far(q, cache, jnp.int32(1), window)
    np.testing.assert_allclose(got[real], wanted[real], atol=1e-5)


def test_no_block_past_the_longest_row_is_read():
    q, cache, window = prefix_inputs((3, 384, 255, 90, 0, 1), 1, None)
    wanted = prefix.attend(q, cache, jnp.int32(0), window)
    holes = jax.tree.map(lambda x: x.at[:, :, :, 256:].set(NAN), cache)
    np.testing.assert_array_equal(prefix.attend(q, holes, jnp.int32(0), window), wanted)
    # The test sees what it says: one position more is of the next block.
    window = dataclasses.replace(window, positions_RT=window.positions_RT.at[2].set(256))
    assert np.isnan(prefix.attend(q, holes, jnp.int32(0), window)).any()


def test_by_length_in_a_long_cache_short_rows_are_not_read_as_far_as_long_ones():
    q, cache, window = prefix_inputs((3, 700, 100, 90, 0, 300), 1, None, 1024)
    wanted = prefix.attend(q, cache, jnp.int32(0), window, by_length=True)
    # The longer half (the first of equal rows is in it) is read as far as its second row, the
    # longest as far as itself.
    ends = np.asarray([384, 768, 128, 128, 128, 384])
    beyond_BS = np.arange(1024) >= ends[:, None]
    holes = jax.tree.map(lambda x: jnp.where(beyond_BS[:, None, :, None], NAN, x), cache)
    got = prefix.attend(q, holes, jnp.int32(0), window, by_length=True)
    np.testing.assert_array_equal(got, wanted)
    assert np.isnan(prefix.attend(q, holes, jnp.int32(0), window)).any()


@pytest.mark.parametrize("S", [384, 1024])
def test_a_longer_neighbour_changes_no_bit(S):
    # As many rows and as wide as real ones: a CPU has other programs for few and narrow ones.
    B, K, G, H = 32, 2, 2, 64
    cache = Cache(*(jnp.asarray(normal(1, B, K, S, H)) for _ in range(2)))
    q, lengths = normal(B, 1, K * G, H), np.r_[300, 5, 140, RNG.integers(0, 60, B - 3)]
    attend = jax.jit(prefix.attend)
    alone = attend(q, cache, jnp.int32(0), Window(None, jnp.asarray(lengths[:, None])))
    lengths[3:] = S - 1 - RNG.integers(0, 60, B - 3)
    beside = attend(q, cache, jnp.int32(0), Window(None, jnp.asarray(lengths[:, None])))
    np.testing.assert_array_equal(alone[:3], beside[:3])
