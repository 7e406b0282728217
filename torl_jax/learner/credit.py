"""From what an episode is worth to what each of its tokens is. Pure functions of a batch.

    rewards_t = worth of the episode at its last policy token - kl_coef KL_t
    A_t = GAE of (rewards, values)

Without a critic the values are 0 and lambda is 1: A_t is the discounted sum of the rewards
from t on, the worth itself where gamma is 1 and no KL is paid.
"""

import jax
import jax.numpy as jnp

from torl_jax.rl import gae
from torl_jax.rl import loss as rl_loss
from torl_jax.rl.batch import TrainBatch


def credit(
    batch: TrainBatch,
    worth_E: jax.Array,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    kl_coef: float = 0.0,
    estimator: str = "k1",
) -> tuple[jax.Array, jax.Array | None, gae.Moments]:
    """(advantages, returns, the advantages' moments) [M, B, T]; no returns without `values`.

    `lam` is of use with values only. With kl_coef, old_logp and ref_logp must be there.
    """
    rewards = jnp.where(gae.last(batch.mask, batch.segments), worth_E[batch.episode], 0.0)
    own = batch.mask > 0
    if kl_coef:
        logp, ref_logp = (jnp.where(own, x, 0.0) for x in (batch.old_logp, batch.ref_logp))
        rewards -= kl_coef * rl_loss.KL[estimator](logp, ref_logp)
    alone = batch.values is None
    values = jnp.zeros_like(rewards) if alone else batch.values
    lam = 1.0 if alone else lam
    advantage = gae.gae(rewards, values, batch.mask, batch.segments, gamma, lam)
    returns = None if alone else jnp.where(own, advantage + values, 0.0)
    return advantage, returns, gae.moments(advantage, batch.mask)
