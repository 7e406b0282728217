"""The decoder's mathematics as free functions of arrays.

Axis letters: B rows, T tokens, D model, N heads, H head dim, F mlp.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from torl_jax.model.config import ModelConfig
from torl_jax.parallel.sharding import shard

PRODUCT = "product"  # of `dense`, as a policy of recomputing sees it


def dense(x: jax.Array, weight: jax.Array, over: int = 1) -> jax.Array:
    """x [.., *I] by weight [*I, *O] -> [.., *O]; `over`: how many axes I has."""
    # A policy does not see what is inside a function with a derivative of its own.
    return checkpoint_name(_dense(x, weight, over), PRODUCT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dense(x: jax.Array, weight: jax.Array, over: int) -> jax.Array:
    return jnp.tensordot(x, weight, over)


def _dense_forward(x: jax.Array, weight: jax.Array, over: int):
    return _dense(x, weight, over), (x, weight)


def _dense_backward(over: int, kept, grad: jax.Array):
    """As jax derives it, but for the order of the weight's product.

    A CPU turns the whole left side of such a product; jax puts `grad` there, and what made it
    is then computed in that slow order too. Here it is the narrower side of the two.
    """
    x, weight = kept
    rows = tuple(range(x.ndim - over))
    out = tuple(range(len(rows), grad.ndim))
    x_grad = jax.lax.dot_general(grad, weight, ((out, tuple(range(over, weight.ndim))), ((), ())))
    wide = math.prod(weight.shape[:over]) > math.prod(weight.shape[over:])
    left, right = (grad, x) if wide else (x, grad)
    found = jax.lax.dot_general(left, right, ((rows, rows), ((), ())))
    if wide:
        found = jnp.moveaxis(found, range(len(out)), range(-len(out), 0))
    return x_grad, found


_dense.defvjp(_dense_forward, _dense_backward)


def rms_norm(x_BTD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale, the statistics in float32 (Zhang & Sennrich 2019)."""
    x32 = x_BTD.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return scale_D.astype(x_BTD.dtype) * normed.astype(x_BTD.dtype)


def frequencies(c: ModelConfig) -> np.ndarray:
    """Radians a position that each of the H/2 pairs turns by, float32: theta^(-2i/H).

    With `rope_scaling` the slow ones are slower by its factor; see RopeScaling.
    """
    half = c.head_dim // 2
    freq_h = c.rope_theta ** (-np.arange(half) / half)
    if (s := c.rope_scaling) is not None:
        turns_h = s.original * freq_h / (2 * np.pi)
        kept_h = np.clip((turns_h - s.low) / (s.high - s.low), 0.0, 1.0)
        freq_h = freq_h * (kept_h + (1 - kept_h) / s.factor)
    return freq_h.astype(np.float32)


def rope(x_BTNH: jax.Array, positions_BT: jax.Array, freq_h: np.ndarray) -> jax.Array:
    """Rotary embedding in the half-split layout of Qwen and Llama (Su et al. 2021).

    The pair (x[i], x[i + H/2]) turns by the angle position * freq[i].
    """
    angle_BTh = positions_BT[..., None].astype(jnp.float32) * freq_h
    cos, sin = jnp.cos(angle_BTh)[:, :, None], jnp.sin(angle_BTh)[:, :, None]
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)


def swiglu(x_BTD, gate_DF, up_DF, down_FD, mesh: Mesh | None = None) -> jax.Array:
    """(silu(x W_gate) * x W_up) W_down (Shazeer 2020)."""
    gate_BTF = shard(dense(x_BTD, gate_DF), "BTF", mesh)
    up_BTF = shard(dense(x_BTD, up_DF), "BTF", mesh)
    return dense(jax.nn.silu(gate_BTF) * up_BTF, down_FD)
