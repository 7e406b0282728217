"""Sampling in plain XLA: blocks of the cache, as far as the longest row of the call has read.

A softmax over blocks as in flash decoding (Milakov & Gimelshein 2018): running maximum, sum
and weighted values in float32. A block past a row's own end changes nothing of it, to the last
bit, so a row does not depend on its neighbours' lengths.
"""

import jax
import jax.numpy as jnp

from torl_jax.model.cache import BLOCK, Cache, Window, read

# The loop's name in a compiled program, by which a plan knows it.
SCOPE = "live_blocks"


def attend(q_RTNH: jax.Array, cache: Cache, layer: jax.Array, window: Window) -> jax.Array:
    """Each query over what its row has read up to its own position; [R, T, N, H].

    A row without a token gets a finite, meaningless value.
    """
    R, T, N, H = q_RTNH.shape
    K = cache.k_LBKSH.shape[2]
    q_RKGTH = jnp.moveaxis(q_RTNH.reshape(R, T, K, N // K, H), 1, 3)
    at_RT = window.positions_RT
    last = jnp.max(jnp.where(at_RT < cache.capacity, at_RT, -1))

    def block(i, carry):
        top_RKGT1, total_RKGT1, sum_RKGTH = carry
        k_RKSH, v_RKSH = read(cache, layer, window, i * BLOCK, BLOCK)
        score_RKGTS = H**-0.5 * jnp.einsum(
            "RKGTH,RKSH->RKGTS", q_RKGTH, k_RKSH, preferred_element_type=jnp.float32
        )
        here_RTS = at_RT[:, :, None] >= i * BLOCK + jnp.arange(BLOCK)
        score_RKGTS = jnp.where(here_RTS[:, None, None], score_RKGTS, -jnp.inf)
        new_RKGT1 = jnp.maximum(top_RKGT1, jnp.max(score_RKGTS, axis=-1, keepdims=True))
        weight_RKGTS = jnp.exp(score_RKGTS - new_RKGT1)
        keep_RKGT1 = jnp.exp(top_RKGT1 - new_RKGT1)
        total_RKGT1 = keep_RKGT1 * total_RKGT1 + jnp.sum(weight_RKGTS, axis=-1, keepdims=True)
        # The product's own order of axes: another is many times slower on a CPU.
        more_RKGTH = jnp.einsum(
            "RKGTS,RKSH->RKGTH",
            weight_RKGTS.astype(v_RKSH.dtype),
            v_RKSH,
            preferred_element_type=jnp.float32,
        )
        return new_RKGT1, total_RKGT1, keep_RKGT1 * sum_RKGTH + more_RKGTH

    # A finite lowest value: nothing minus itself is not a number.
    low_RKGT1 = jnp.full((*q_RKGTH.shape[:-1], 1), -1e30, jnp.float32)
    start = (low_RKGT1, jnp.zeros_like(low_RKGT1), jnp.zeros(q_RKGTH.shape, jnp.float32))
    with jax.named_scope(SCOPE):
        _, total_RKGT1, sum_RKGTH = jax.lax.fori_loop(0, -(-(last + 1) // BLOCK), block, start)
    out_RKGTH = (sum_RKGTH / jnp.maximum(total_RKGT1, 1e-30)).astype(q_RTNH.dtype)
    return jnp.moveaxis(out_RKGTH, 3, 1).reshape(R, T, N, H)
