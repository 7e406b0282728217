"""Training on TPU: jax's splash attention (block-sparse flash attention) over packed rows."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)

# The sides that a block may have.
SIDES = (512, 256, 128)


def misfit(q_BTNH: jax.Array) -> str:
    """Why the kernel cannot take these queries, or ""."""
    if q_BTNH.dtype not in (jnp.bfloat16, jnp.float32):
        return f"kernel takes bfloat16 or float32, not {q_BTNH.dtype}"
    return ""


def attend(q_BTNH, k_BTKH, v_BTKH, segments_BT) -> jax.Array:
    """Causal attention within segments, [B, T, N, H]; the softmax in float32.

    Causal by place in the row, which within a segment is the order of positions.
    """
    T, N, H = q_BTNH.shape[1:]
    width = -(-T // SIDES[-1]) * SIDES[-1]
    side = next(side for side in SIDES if width % side == 0)

    def padded(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0), (0, width - T)] + [(0, 0)] * (x.ndim - 2))

    mask = masks.MultiHeadMask([masks.CausalMask((width, width))] * N)
    # One kernel backward: two would both make the scores and their gradient, 7 products for 5.
    sizes = kernel.BlockSizes(
        block_q=side, block_kv=side, block_q_dkv=side, block_kv_dkv=side,
        use_fused_bwd_kernel=True,
    )  # fmt: skip
    # Typed as if it gave its residuals too, which it does when asked.
    run: Any = kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)
    # The kernel does not scale; in float32, so that the product is rounded once.
    q_BTNH = (q_BTNH.astype(jnp.float32) * H**-0.5).astype(q_BTNH.dtype)
    q_BNTH, k_BKTH, v_BKTH = (jnp.swapaxes(padded(x), 1, 2) for x in (q_BTNH, k_BTKH, v_BTKH))
    if segments_BT is None:
        # Padding comes last, and nobody looks ahead.
        out_BNTH = jax.vmap(run)(q_BNTH, k_BKTH, v_BKTH)
    else:
        segments_BT = padded(segments_BT)
        ids = kernel.SegmentIds(q=segments_BT, kv=segments_BT)
        out_BNTH = jax.vmap(run)(q_BNTH, k_BKTH, v_BKTH, ids)
    return jnp.swapaxes(out_BNTH, 1, 2)[:, :T]
