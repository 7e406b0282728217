"""Sampling in plain XLA: of each row's cache the blocks that it has read, and few beside them.

A softmax over blocks as in flash decoding (Milakov & Gimelshein 2018): running maximum, sum
and weighted values in float32. A block past a row's own end changes nothing of it, to the last
bit, so a row does not depend on its neighbours' lengths. Rows taken `by_length` do, in their last
bits: all go as far as the longer half begins, then that half alone, and so on, so that short rows
hardly pay for long ones, and a CPU rounds other numbers of rows otherwise.
"""

import functools

import jax
import jax.numpy as jnp

from torl_jax.model.cache import BLOCK, Cache, Window, read

# The loop's name in a compiled program, by which a plan knows it.
SCOPE = "live_blocks"
# All rows, a half, a quarter and an eighth, each a loop of its own, where there are many blocks:
# few do not pay for their compilation.
RUNGS, LONG = 4, 8 * BLOCK


def attend(
    q_RTNH: jax.Array, cache: Cache, layer: jax.Array, window: Window, by_length: bool = False
) -> jax.Array:
    """Each query over what its row has read up to its own position; [R, T, N, H].

    `by_length`: where the cache is long, long rows go on among themselves. A row without a token
    gets a finite, meaningless value.
    """
    R, T, N, H = q_RTNH.shape
    K = cache.k_LBKSH.shape[2]
    q_RKGTH = jnp.moveaxis(q_RTNH.reshape(R, T, K, N // K, H), 1, 3)
    rows_R, at_RT = window.rows_R, window.positions_RT
    blocks_R = -(-jnp.max(jnp.where(at_RT < cache.capacity, at_RT + 1, 0), axis=1) // BLOCK)
    if cache.capacity < LONG or not by_length:
        out_RKGTH = _sweep(q_RKGTH, cache, layer, rows_R, at_RT, blocks_R, 1)
    else:
        order_R = jnp.argsort(-blocks_R)
        rows_R = order_R if rows_R is None else rows_R[order_R]
        sorted_RKGTH = _sweep(
            q_RKGTH[order_R], cache, layer, rows_R, at_RT[order_R], blocks_R[order_R], RUNGS
        )
        out_RKGTH = sorted_RKGTH[jnp.argsort(order_R)]
    return jnp.moveaxis(out_RKGTH, 3, 1).reshape(R, T, N, H).astype(q_RTNH.dtype)


def _sweep(q_RKGTH, cache: Cache, layer, rows_R, at_RT, blocks_R, rungs: int) -> jax.Array:
    """[R, K, G, T, H] in float32. With several rungs the longest row comes first."""
    # A finite lowest value: nothing minus itself is not a number.
    low_RKGT1 = jnp.full((*q_RKGTH.shape[:-1], 1), -1e30, jnp.float32)
    carry = (low_RKGT1, jnp.zeros_like(low_RKGT1), jnp.zeros(q_RKGTH.shape, jnp.float32))
    done, start = [], 0
    for r in range(rungs):
        rows = q_RKGTH.shape[0] >> r
        half = rows >> 1 if r < rungs - 1 else 0
        slots = None if rows_R is None else rows_R[:rows]
        block = functools.partial(_block, q_RKGTH[:rows], slots, at_RT[:rows], cache, layer)
        end = jnp.max(blocks_R[half:rows])
        with jax.named_scope(SCOPE):
            carry = jax.lax.fori_loop(start, end, block, carry)
        done.append(jax.tree.map(lambda x, half=half: x[half:], carry))
        if not half:
            break
        carry, start = jax.tree.map(lambda x, half=half: x[:half], carry), end
    _, total_RKGT1, sum_RKGTH = jax.tree.map(lambda *x: jnp.concatenate(x), *reversed(done))
    return sum_RKGTH / jnp.maximum(total_RKGT1, 1e-30)


def _block(q_RKGTH, rows_R, at_RT, cache: Cache, layer, i, carry):
    """The i-th block of these rows taken into (maximum, sum, weighted values)."""
    top_RKGT1, total_RKGT1, sum_RKGTH = carry
    k_RKSH, v_RKSH = read(cache, layer, rows_R, i * BLOCK, BLOCK)
    score_RKGTS = q_RKGTH.shape[-1] ** -0.5 * jnp.einsum(
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
