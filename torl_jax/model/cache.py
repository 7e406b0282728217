"""Keys and values of what every row has read so far.

One cache holds B rows (slots). Each row's length is its owner's number, not a
shape: what lies past it is never read and will be overwritten. So to pause, to
resume, to feed a tool's output and to roll back overshoot change a length and
nothing else.
"""

import flax.struct
import jax
import jax.numpy as jnp

from torl_jax.model.config import ModelConfig


@flax.struct.dataclass
class Cache:
    """Keys and values, [L, B, S, K, H]."""

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array

    @property
    def capacity(self) -> int:
        """S: the most tokens a row can hold."""
        return self.k_LBSKH.shape[2]

    @classmethod
    def zeros(cls, config: ModelConfig, rows: int, capacity: int, dtype: jnp.dtype) -> "Cache":
        """An empty cache of `rows` rows."""
        shape = (config.layers, rows, capacity, config.kv_heads, config.head_dim)
        return cls(
            k_LBSKH=jnp.zeros(shape, dtype),
            v_LBSKH=jnp.zeros(shape, dtype),
        )


@flax.struct.dataclass
class Window:
    """Where T new tokens of R rows go.

    rows_R: slot of each row, or None for "all B slots in order"; a slot of B or
    more is nobody's: nothing is written. positions_RT: cache position of each
    token, S or more where there is no token.
    """

    rows_R: jax.Array | None
    positions_RT: jax.Array


def write(cache: Cache, layer: jax.Array, window: Window, k_RTKH, v_RTKH) -> Cache:
    """Puts the new keys and values of one layer in place."""
    rows_R = jnp.arange(k_RTKH.shape[0]) if window.rows_R is None else window.rows_R
    where = (layer, rows_R[:, None], window.positions_RT)
    return Cache(
        k_LBSKH=cache.k_LBSKH.at[where].set(k_RTKH.astype(cache.k_LBSKH.dtype), mode="drop"),
        v_LBSKH=cache.v_LBSKH.at[where].set(v_RTKH.astype(cache.v_LBSKH.dtype), mode="drop"),
    )


def read(cache: Cache, layer: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
    """Keys and values [R, S, K, H] of one layer for the window's rows."""
    k_BSKH = jax.lax.dynamic_index_in_dim(cache.k_LBSKH, layer, 0, keepdims=False)
    v_BSKH = jax.lax.dynamic_index_in_dim(cache.v_LBSKH, layer, 0, keepdims=False)
    if window.rows_R is None:
        return k_BSKH, v_BSKH
    # A slot that is nobody's reads some row; what it computes is dropped by `write`.
    return (
        k_BSKH.at[window.rows_R].get(mode="clip"),
        v_BSKH.at[window.rows_R].get(mode="clip"),
    )


def fork(cache: Cache, source_R: jax.Array, target_R: jax.Array, span: int) -> Cache:
    """Copies the first `span` positions of rows source -> target (target >= B: nothing)."""

    def copy(x_LBSKH: jax.Array) -> jax.Array:
        rows_LRSKH = x_LBSKH.at[:, source_R, :span].get(mode="clip")
        return x_LBSKH.at[:, target_R, :span].set(rows_LRSKH, mode="drop")

    return Cache(k_LBSKH=copy(cache.k_LBSKH), v_LBSKH=copy(cache.v_LBSKH))
