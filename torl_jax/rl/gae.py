"""Generalised advantage estimation over packed rows. Pure functions of arrays.

    delta_t = r_t + gamma V_t' - V_t
    A_t = delta_t + gamma lam A_t'         t': the policy's next token of the same episode

(Schulman et al. 2016, arXiv 1506.02438, eq. 16.) The policy takes a step where it writes a
token: what a tool writes between two of them is part of the next state, so a place that is
not the policy's has neither reward nor delta, is not discounted, and what lies behind it is
carried over it. After an episode's last policy token V and A are 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

EPS = 1e-8  # the release's: rsqrt(variance + 1e-8)


class Moments(NamedTuple):
    """How many values there are, their mean, and the sum of squares about it."""

    number: jax.Array
    mean: jax.Array
    squares: jax.Array


def gae(
    rewards_BT: jax.Array,
    values_BT: jax.Array,
    mask_BT: jax.Array,
    segments_BT: jax.Array,
    gamma: float,
    lam: float,
) -> jax.Array:
    """Advantages, float32 [..., T], 0 where `mask` is.

    All arrays [..., T]; mask: 1 where the target is the policy's; segments tell packed
    episodes apart. Returns are advantages + values.
    """

    def back(carry, place):
        value, advantage, segment = carry  # of the policy's next token
        reward, own_value, own, own_segment = place
        same = segment == own_segment
        value, advantage = jnp.where(same, value, 0.0), jnp.where(same, advantage, 0.0)
        found = reward + gamma * value - own_value + gamma * lam * advantage
        carry = jnp.where(own, own_value, value), jnp.where(own, found, advantage), own_segment
        return carry, jnp.where(own, found, 0.0)

    places = (rewards_BT, values_BT, mask_BT > 0, segments_BT)
    return _backwards(back, places, (0.0, 0.0, -1))


def last(mask_BT: jax.Array, segments_BT: jax.Array) -> jax.Array:
    """bool [..., T]: the last policy token of each packed episode."""

    def back(carry, place):
        seen, segment = carry
        own, own_segment = place
        seen = seen & (segment == own_segment)
        return (seen | own, own_segment), own & ~seen

    return _backwards(back, (mask_BT > 0, segments_BT), (False, -1))


def _backwards(back, places, start) -> jax.Array:
    """A scan from the last place to the first; `start`: the carry behind the last one."""
    places = jax.tree.map(lambda x: jnp.moveaxis(jnp.asarray(x), -1, 0), places)
    like = places[0][0]
    kinds = {bool: bool, int: jnp.int32, float: jnp.float32}
    carry = tuple(jnp.full(like.shape, x, kinds[type(x)]) for x in start)
    _, out = jax.lax.scan(back, carry, places, reverse=True)
    return jnp.moveaxis(out, 0, -1)


def moments(x: jax.Array, mask: jax.Array) -> Moments:
    """Those of the places where `mask` is; the mean of none is 0."""
    own = mask > 0
    count = jnp.sum(own.astype(jnp.float32))
    mean = jnp.sum(jnp.where(own, x, 0.0)) / jnp.maximum(count, 1)
    return Moments(count, mean, jnp.sum(jnp.where(own, jnp.square(x - mean), 0.0)))


def pooled(parts: Sequence[Moments]) -> tuple[np.float32, np.float32]:
    """(mean, unbiased variance) of all parts together (Chan et al. 1983, eq. 2.1), on the host."""
    counts, means, squares = np.asarray([tuple(part) for part in parts], np.float64).T
    total = max(counts.sum(), 1.0)
    mean = (counts * means).sum() / total
    spread = squares.sum() + (counts * (means - mean) ** 2).sum()
    return np.float32(mean), np.float32(spread / max(total - 1, 1.0))


def whiten(x: jax.Array, mean: jax.Array | float, variance: jax.Array | float) -> jax.Array:
    """(x - mean) / sqrt(variance + EPS), everywhere."""
    return (x - mean) * jax.lax.rsqrt(jnp.float32(variance + EPS))
