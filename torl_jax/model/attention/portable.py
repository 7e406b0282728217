"""Attention in plain XLA: what every other implementation is compared with."""

import jax
import jax.numpy as jnp


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
    return jnp.einsum("BKGTS,BKSH->BTKGH", weight_BKGTS, v_BKSH).reshape(B, T, N, H)
