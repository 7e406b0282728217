"""The policy: the decoder of Qwen and Llama as a thin, pure Flax Linen module.

    hidden, cache = Transformer(config).apply({"params": params}, tokens, positions, ...)

Modules own parameters and nothing else; the maths is in `layers.py`. The blocks
are one `nn.scan` over L with (x, cache) as *carry* (as scan input and output the
cache would be copied once a step) around an optional `nn.remat`. The name of a
parameter ends in the letters of its axes: they give its sharding. Without a
cache the module is the trainer's (dense or packed with segment ids); with one
it is the sampler's (any rows, any lengths).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from torl_jax.model import layers
from torl_jax.model.attention.seam import cached, packed
from torl_jax.model.cache import Cache, Window
from torl_jax.model.config import ModelConfig
from torl_jax.parallel.sharding import shard, shardings

INIT = nn.initializers.normal(0.02)
# What a block keeps for its backward pass, the rest being computed again; "none" keeps all.
REMAT = {
    "dots": jax.checkpoint_policies.save_only_these_names(layers.PRODUCT),  # with weights
    "full": jax.checkpoint_policies.nothing_saveable,  # the block's input alone
}


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023), with q/k/v bias or q/k norms."""

    config: ModelConfig
    mesh: Mesh | None
    kernel: str
    by_length: bool

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segments_BT, cache: Cache | None, window, layer):
        c = self.config
        weights = {
            "q": self.param("q_DNH", INIT, (c.d_model, c.heads, c.head_dim)),
            "k": self.param("k_DKH", INIT, (c.d_model, c.kv_heads, c.head_dim)),
            "v": self.param("v_DKH", INIT, (c.d_model, c.kv_heads, c.head_dim)),
        }
        o_NHD = self.param("o_NHD", INIT, (c.heads, c.head_dim, c.d_model))
        heads = {
            name: shard(layers.dense(x_BTD, w.astype(x_BTD.dtype)), "BTNH", self.mesh)
            for name, w in weights.items()
        }
        if c.qkv_bias:
            zeros = nn.initializers.zeros_init()
            bias = {
                "q": self.param("q_bias_NH", zeros, (c.heads, c.head_dim)),
                "k": self.param("k_bias_KH", zeros, (c.kv_heads, c.head_dim)),
                "v": self.param("v_bias_KH", zeros, (c.kv_heads, c.head_dim)),
            }
            heads = {name: x + bias[name].astype(x.dtype) for name, x in heads.items()}
        if c.qk_norm:
            ones = nn.initializers.ones_init()
            for name in ("q", "k"):
                scale_H = self.param(f"{name}_norm_H", ones, (c.head_dim,))
                heads[name] = layers.rms_norm(heads[name], scale_H, c.norm_eps)
        freq_h = layers.frequencies(c)
        q_BTNH = layers.rope(heads["q"], positions_BT, freq_h)
        k_BTKH = layers.rope(heads["k"], positions_BT, freq_h)
        v_BTKH = heads["v"]
        if cache is None:
            out_BTNH = packed(
                q_BTNH, k_BTKH, v_BTKH, positions_BT, segments_BT, name=self.kernel, mesh=self.mesh
            )
        else:
            out_BTNH, cache = cached(
                q_BTNH,
                k_BTKH,
                v_BTKH,
                cache,
                layer,
                window,
                name=self.kernel,
                mesh=self.mesh,
                by_length=self.by_length,
            )
        return layers.dense(out_BTNH, o_NHD.astype(x_BTD.dtype), 2), cache


class Mlp(nn.Module):
    """SwiGLU."""

    config: ModelConfig
    mesh: Mesh | None

    @nn.compact
    def __call__(self, x_BTD):
        c = self.config
        gate_DF = self.param("gate_DF", INIT, (c.d_model, c.d_mlp))
        up_DF = self.param("up_DF", INIT, (c.d_model, c.d_mlp))
        down_FD = self.param("down_FD", INIT, (c.d_mlp, c.d_model))
        gate_DF, up_DF, down_FD = (w.astype(x_BTD.dtype) for w in (gate_DF, up_DF, down_FD))
        return layers.swiglu(x_BTD, gate_DF, up_DF, down_FD, self.mesh)


class Block(nn.Module):
    """Pre-norm attention and mlp with residuals; scanned over L."""

    config: ModelConfig
    mesh: Mesh | None
    kernel: str
    by_length: bool

    @nn.compact
    def __call__(self, carry, layer, positions_BT, segments_BT, window):
        x_BTD, cache = carry
        ones, c, mesh = nn.initializers.ones_init(), self.config, self.mesh
        scale_D = self.param("attention_norm_D", ones, (c.d_model,))
        normed_BTD = layers.rms_norm(x_BTD, scale_D, c.norm_eps)
        out_BTD, cache = Attention(c, mesh, self.kernel, self.by_length, name="attention")(
            normed_BTD, positions_BT, segments_BT, cache, window, layer
        )
        x_BTD = shard(x_BTD + out_BTD, "BTD", mesh)
        scale_D = self.param("mlp_norm_D", ones, (c.d_model,))
        out_BTD = Mlp(c, mesh, name="mlp")(layers.rms_norm(x_BTD, scale_D, c.norm_eps))
        return (shard(x_BTD + out_BTD, "BTD", mesh), cache), None


class Transformer(nn.Module):
    """tokens -> hidden states after the final norm (the head is `heads.py`).

    Without a mesh it is a program for one device. `attention` names an implementation
    (`attention/seam.py`); "auto" takes that of the platform. `by_length`: in a long cache rows are
    decoded faster, and their last bits hang on each other's lengths (`attention/prefix.py`).
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    mesh: Mesh | None = None
    attention: str = "auto"
    by_length: bool = False

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segments_BT: jax.Array | None = None,
        cache: Cache | None = None,
        window: Window | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Returns hidden [B, T, D] in `dtype` and the cache with the new keys written.

        positions_BT count within a sequence and drive both RoPE and causality;
        segments_BT (training) separate packed sequences. With a cache, `window`
        says which slots the rows are and where their tokens go.
        """
        c = self.config
        embed_VD = self.param("embed_VD", INIT, (c.vocab_size, c.d_model))
        x_BTD = shard(embed_VD.astype(self.dtype)[tokens_BT], "BTD", self.mesh)
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=False, policy=REMAT[self.remat])
        # (layer, positions, segments, window); flax's annotation knows single axes only.
        in_axes: Any = (0, nn.broadcast, nn.broadcast, nn.broadcast)
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=in_axes,
            length=c.layers,
        )
        (x_BTD, cache), _ = scanned(c, self.mesh, self.attention, self.by_length, name="blocks")(
            (x_BTD, cache), jnp.arange(c.layers), positions_BT, segments_BT, window
        )
        scale_D = self.param("final_norm_D", nn.initializers.ones_init(), (c.d_model,))
        if not c.tied:
            self.param("head_DV", INIT, (c.d_model, c.vocab_size))
        return layers.rms_norm(x_BTD, scale_D, c.norm_eps), cache


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def initialise(config: ModelConfig, key: jax.Array, mesh: Mesh | None = None) -> Any:
    """Random float32 parameters (normal 0.02, norms 1, biases 0), born in their shards."""
    dummy = jnp.zeros((1, 1), jnp.int32)
    params = Transformer(config, attention="xla").init(key, dummy, dummy)["params"]
    if mesh is None:
        return params
    return jax.lax.with_sharding_constraint(params, shardings(params, mesh))
