"""Attention in plain XLA: what every other implementation is compared with."""

import functools

import jax
import jax.numpy as jnp

# Queries that look at the past together, at least; and how many such blocks, at most.
SIDE, BLOCKS = 128, 8


def causal_mask(positions_BT: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    """[B, T, T] True where a query may look: not later, and in its own segment."""
    mask = positions_BT[:, :, None] >= positions_BT[:, None, :]
    if segments_BT is not None:
        mask &= segments_BT[:, :, None] == segments_BT[:, None, :]
    return mask


def attend(q_BTNH, k_BKSH, v_BKSH, mask_BTS) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v with N query heads sharing K kv heads; softmax in float32.

    Returns [B, T, N, H]. A query that may look nowhere gets a finite, meaningless value.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BKSH.shape[1]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    score_BKGTS = jnp.einsum(
        "BTKGH,BKSH->BKGTS", q_BTKGH, k_BKSH, preferred_element_type=jnp.float32
    )
    score_BKGTS = jnp.where(mask_BTS[:, None, None], score_BKGTS * H**-0.5, -1e30)
    weight_BKGTS = jax.nn.softmax(score_BKGTS, axis=-1).astype(v_BKSH.dtype)
    # The products' own order of axes: any other is many times slower on a CPU.
    out_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", weight_BKGTS, v_BKSH)
    return jnp.moveaxis(out_BKGTH, 3, 1).reshape(B, T, N, H)


def causal(q_BTNH, k_BTKH, v_BTKH, positions_BT, segments_BT) -> jax.Array:
    """`attend` among the tokens of each segment, [B, T, N, H].

    A block of queries looks at the keys up to its own last: what is later in the row is of
    another segment, or later in this one. Nothing of T x T is kept for the backward pass.
    """
    T = q_BTNH.shape[1]
    side = max(SIDE, -(-T // (BLOCKS * SIDE)) * SIDE)
    k_BKTH, v_BKTH = (jnp.swapaxes(x, 1, 2) for x in (k_BTKH, v_BTKH))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block(q_BtNH, k_BKSH, v_BKSH, positions_BS, segments_BS):
        mask_BSS = causal_mask(positions_BS, segments_BS)
        return attend(q_BtNH, k_BKSH, v_BKSH, mask_BSS[:, -q_BtNH.shape[1] :])

    out = []
    for start in range(0, T, side):
        end = min(start + side, T)
        past = [None if x is None else x[:, :end] for x in (positions_BT, segments_BT)]
        out.append(block(q_BTNH[:, start:end], k_BKTH[:, :, :end], v_BKTH[:, :, :end], *past))
    return jnp.concatenate(out, axis=1)
