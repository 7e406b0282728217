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
from torl_jax.rl import loss as rl_loss
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


def credit(
    batch: TrainBatch,
    scores_E: jax.Array,
    *,
    gamma: float,
    lam: float,
    kl_coef: float,
    estimator: str,
) -> tuple[jax.Array, jax.Array, gae.Moments]:
    """(advantages, returns, the advantages' moments) of a batch with `values`; [M, B, T].

    An episode's score [E] is the reward of its last policy token; each token pays
    kl_coef * KL(old || reference), where that is not 0 (old_logp and ref_logp are there then).
    """
    rewards = jnp.where(gae.last(batch.mask, batch.segments), scores_E[batch.episode], 0.0)
    if kl_coef:
        own = batch.mask > 0
        logp, ref_logp = (jnp.where(own, x, 0.0) for x in (batch.old_logp, batch.ref_logp))
        rewards -= kl_coef * rl_loss.KL[estimator](logp, ref_logp)
    advantage = gae.gae(rewards, batch.values, batch.mask, batch.segments, gamma, lam)
    returns = jnp.where(batch.mask > 0, advantage + batch.values, 0.0)
    return advantage, returns, gae.moments(advantage, batch.mask)


def fit(batch: TrainBatch) -> tuple[gae.Moments, gae.Moments]:
    """Moments of the returns, and of what the values before the step leave unexplained."""
    return (
        gae.moments(batch.returns, batch.mask),
        gae.moments(batch.returns - batch.values, batch.mask),
    )
