"""One token from logits: temperature, top-k, top-p, each row with its own key.

The settings are data, not shapes: changing them compiles nothing, and each row may have
its own. The log-prob returned is that of the distribution really sampled from, after
temperature and truncation; a greedy choice has probability one.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # numpy on the host, jax in a program


# The most rows that `sample` folds a vocabulary into: what a mesh may split it by divides this.
ROWS = 128


@flax.struct.dataclass
class Settings:
    """temperature (0: greedy), top_k (0: off), top_p (1: off); scalars, or [B] each."""

    temperature: Array
    top_k: Array
    top_p: Array

    @classmethod
    def of(cls, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> "Settings":
        """From plain numbers."""
        return cls(
            temperature=np.float32(temperature), top_k=np.int32(top_k), top_p=np.float32(top_p)
        )

    @classmethod
    def rows(cls, each: Sequence["Settings"]) -> "Settings":
        """One row for each of these, whose fields are scalars."""
        return cls(
            temperature=np.asarray([one.temperature for one in each], np.float32),
            top_k=np.asarray([one.top_k for one in each], np.int32),
            top_p=np.asarray([one.top_p for one in each], np.float32),
        )

    @property
    def truncates(self) -> Array:
        """Whether some tokens may not be sampled; bool, scalar or [B]."""
        return (self.top_k > 0) | (self.top_p < 1)


def truncate(logits_BV: jax.Array, settings: Settings) -> jax.Array:
    """Keeps the top_k likeliest tokens, of these the fewest with mass >= top_p; the rest -inf.

    The mass is that among the top_k. The likeliest token always stays; ties at the
    border stay together. Rows that do not truncate keep all of theirs.
    """
    V = logits_BV.shape[-1]
    k_B1 = jnp.where(settings.top_k > 0, settings.top_k, V)[:, None]
    sorted_BV = -jnp.sort(-logits_BV, axis=-1)
    prob_BV = jax.nn.softmax(jnp.where(jnp.arange(V) < k_B1, sorted_BV, -jnp.inf), axis=-1)
    before_BV = jnp.cumsum(prob_BV, axis=-1) - prob_BV
    keep_BV = (jnp.arange(V) < k_B1) & (before_BV < settings.top_p[:, None])
    keep_BV = keep_BV.at[:, 0].set(True)
    border_B = jnp.min(jnp.where(keep_BV, sorted_BV, jnp.inf), axis=-1)
    # Rounding brings the summed mass to 1 before the last token: such rows are not to notice.
    border_B = jnp.where(settings.truncates, border_B, -jnp.inf)
    return jnp.where(logits_BV >= border_B[:, None], logits_BV, -jnp.inf)


def uniform(keys_B: jax.Array) -> jax.Array:
    """Two random numbers [B, 2] for each key, strictly between 0 and 1: a grid's midpoints."""
    bits_B2 = jax.vmap(lambda key: jax.random.bits(key, (2,)))(keys_B)
    # Not 0, which would draw a first token however unlikely; 24 bits are all that a float has.
    return (bits_B2 >> 9).astype(jnp.float32) * 2.0**-23 + 2.0**-24


def pick(mass_BJ: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """An index [B] drawn in proportion to its mass; never one without mass."""
    # Where nothing is added a sum of floats may grow all the same: such places are left out.
    upto_BJ = jnp.where(mass_BJ > 0, jnp.cumsum(mass_BJ, axis=-1), 0)
    drawn_B = uniform_B * jnp.max(upto_BJ, axis=-1)
    return jnp.argmax(upto_BJ > drawn_B[:, None], axis=-1)


def sample(
    logits_BV: jax.Array, keys_B: jax.Array, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """(token [B] int32, its log-prob [B] float32 in nats).

    By inversion in two draws: the vocabulary is folded to [W, J], of which first a row is
    drawn and then a token of it. That takes two random numbers where a Gumbel maximum takes V.
    """
    B, V = logits_BV.shape
    settings = jax.tree.map(lambda x: jnp.broadcast_to(x, (B,)), settings)
    greedy_B = settings.temperature <= 0
    scaled_BV = logits_BV / jnp.where(greedy_B, 1.0, settings.temperature)[:, None]
    truncated = jnp.any(settings.truncates)
    scaled_BV = jax.lax.cond(truncated, truncate, lambda x, _: x, scaled_BV, settings)

    # The same on every mesh, or other tokens would be drawn there.
    scaled_BWJ = scaled_BV.reshape(B, math.gcd(V, ROWS), -1)
    best_BW = jnp.max(scaled_BWJ, axis=-1)
    top_B = jnp.max(best_BW, axis=-1)
    mass_BW = jnp.sum(jnp.exp(scaled_BWJ - top_B[:, None, None]), axis=-1)
    uniform_B2 = uniform(keys_B)
    w_B = jnp.where(greedy_B, jnp.argmax(best_BW, axis=-1), pick(mass_BW, uniform_B2[:, 0]))
    scaled_BJ = jnp.take_along_axis(scaled_BWJ, w_B[:, None, None], axis=1)[:, 0]
    mass_BJ = jnp.exp(scaled_BJ - top_B[:, None])
    j_B = jnp.where(greedy_B, jnp.argmax(scaled_BJ, axis=-1), pick(mass_BJ, uniform_B2[:, 1]))
    token_B = (w_B * scaled_BJ.shape[1] + j_B).astype(jnp.int32)
    chosen_B = jnp.take_along_axis(scaled_BJ, j_B[:, None], axis=-1)[:, 0]
    logp_B = chosen_B - top_B - jnp.log(jnp.sum(mass_BW, axis=-1))
    return token_B, jnp.where(greedy_B, 0.0, logp_B)
