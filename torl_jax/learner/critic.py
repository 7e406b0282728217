"""PPO's critic: a decoder of its own, with one number a token in place of the vocabulary.

    V_t = h_t . value_D         h_t: the last hidden state at t, where target t is chosen

It begins with the policy's weights but for the unembedding, which it has no use for. The
head begins at zero: before the first step every value is 0, so that the first advantages
are plain rewards-to-go, and the first gradient moves the head alone; random values would
be noise in both.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from torl_jax.model.config import ModelConfig
from torl_jax.rl import gae
from torl_jax.rl.batch import TrainBatch

HEAD = "value_D"


def shape(config: ModelConfig) -> ModelConfig:
    """The critic's architecture: the policy's, without an unembedding of its own."""
    return dataclasses.replace(config, tied=True)


def begin(params: dict) -> dict:
    """The critic's parameters at the start; what it shares with `params` is not copied."""
    own = {name: x for name, x in params.items() if name != "head_DV"}
    return own | {HEAD: np.zeros(params["embed_VD"].shape[1:], np.float32)}


def values(params: dict, hidden_BTD: jax.Array) -> jax.Array:
    """float32 [B, T]."""
    return jnp.einsum("BTD,D->BT", hidden_BTD.astype(jnp.float32), params[HEAD])


def fit(batch: TrainBatch) -> tuple[gae.Moments, gae.Moments]:
    """Moments of the returns, and of what the values before the step leave unexplained."""
    return (
        gae.moments(batch.returns, batch.mask),
        gae.moments(batch.returns - batch.values, batch.mask),
    )
