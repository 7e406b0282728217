"""Training on an NVIDIA GPU: cuDNN's fused attention through `jax.nn`."""

from typing import Literal

import jax
import jax.numpy as jnp

# More is possible on some GPUs only.
HEAD_DIM = 128


def misfit(q_BTNH: jax.Array) -> str:
    """Why cuDNN cannot take these queries, or ""."""
    T, H = q_BTNH.shape[1], q_BTNH.shape[3]
    if q_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        return f"kernel takes bfloat16 or float16, not {q_BTNH.dtype}"
    if H > HEAD_DIM or H % 8:
        return f"kernel takes a head_dim up to {HEAD_DIM} that divides by 8, not {H}"
    if T % 2:
        return f"kernel takes rows of even length, not {T}"
    return ""


def attend(
    q_BTNH, k_BTKH, v_BTKH, segments_BT, implementation: Literal["cudnn", "xla"] = "cudnn"
) -> jax.Array:
    """Causal attention within segments, [B, T, N, H]; the softmax in float32.

    cuDNN skips the blocks above the diagonal; the segments are a bias of [B, 1, T, T] in
    the dtype of the queries, which is made anew in each layer.
    """
    mask_B1TT = None
    if segments_BT is not None:
        mask_B1TT = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q_BTNH, k_BTKH, v_BTKH, mask=mask_B1TT, is_causal=True, implementation=implementation
    )
