"""One token from logits: temperature, top-k, top-p, each row with its own key.

The settings are data, not shapes: changing them compiles nothing, and each row may have
its own. The log-prob returned is that of the distribution really sampled from, after
temperature and truncation; a greedy choice has probability one.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # numpy on the host, jax in a program


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


def sample(
    logits_BV: jax.Array, keys_B: jax.Array, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """(token [B] int32, its log-prob [B] float32 in nats), by the Gumbel maximum."""
    B = logits_BV.shape[0]
    settings = jax.tree.map(lambda x: jnp.broadcast_to(x, (B,)), settings)
    greedy_B = settings.temperature <= 0
    scaled_BV = logits_BV / jnp.where(greedy_B, 1.0, settings.temperature)[:, None]
    truncated = jnp.any(settings.truncates)
    scaled_BV = jax.lax.cond(truncated, truncate, lambda x, _: x, scaled_BV, settings)
    noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, logits_BV.shape[1:]))(keys_B)
    score_BV = scaled_BV + jnp.where(greedy_B[:, None], 0.0, noise_BV)
    token_B = jnp.argmax(score_BV, axis=-1).astype(jnp.int32)
    chosen_B = jnp.take_along_axis(scaled_BV, token_B[:, None], axis=-1)[:, 0]
    logp_B = chosen_B - jax.nn.logsumexp(scaled_BV, axis=-1)
    return token_B, jnp.where(greedy_B, 0.0, logp_B)
