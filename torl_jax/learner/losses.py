"""What is made small, as data: the policy's loss, the critic's, and that of supervised text.

    share, stats = loss(params, batch, total)      a microbatch's share of the global loss
    x_BT = loss.tokens(params, batch)              what the network itself says of each target

`batch` holds arrays [B, T]; `total` is the number of trained tokens of the whole batch.
Statistics are shares of global means too, but those named *_max, which are maxima. A loss is
frozen and hashable: one program (`step.update`) is compiled for each.
"""

import dataclasses
import functools
from typing import Any
from typing import Protocol as Interface

import jax
import jax.numpy as jnp

from torl_jax.learner import critic
from torl_jax.model import heads
from torl_jax.model.transformer import Transformer
from torl_jax.rl import loss as rl_loss
from torl_jax.rl.batch import TrainBatch

Stats = dict[str, jax.Array]

# Where none is set, how many would be above this is told all the same.
USUAL_CAP = 2.0


class Loss(Interface):
    """What `step.update` needs of a loss."""

    def __call__(self, params: Any, batch: TrainBatch, total: jax.Array) -> tuple[jax.Array, Stats]:
        """A microbatch's share of the global loss, and of its statistics."""
        ...

    def tokens(self, params: Any, batch: TrainBatch) -> jax.Array:
        """float32 [B, T]: the log-prob of each target, or the value where it is chosen."""
        ...


@dataclasses.dataclass(frozen=True)
class Text:
    """Cross entropy of the trained targets, nats a token."""

    model: Transformer
    vocab: int
    temperature: float = 1.0
    head_chunk: int = 1024

    def scores(self, params: Any, batch: TrainBatch) -> tuple[jax.Array, jax.Array]:
        """(log-prob of the targets, entropy), [B, T], at the temperature.

        Top-k and top-p are the sampler's alone: with either on, its log-probs are those of the
        truncated distribution, and the agreement statistics measure that difference too.
        """
        hidden_BTD, _ = self.model.apply(
            {"params": params}, batch.tokens, batch.positions, batch.segments
        )
        return heads.token_scores(
            params,
            hidden_BTD,
            batch.targets,
            temperature=self.temperature,
            chunk=self.head_chunk,
            vocab=self.vocab,
            mesh=self.model.mesh,
            keep=self.model.remat == "none",
        )

    def tokens(self, params: Any, batch: TrainBatch) -> jax.Array:
        """Log-probs [B, T]."""
        return self.scores(params, batch)[0]

    def __call__(self, params: Any, batch: TrainBatch, total: jax.Array) -> tuple[jax.Array, Stats]:
        """As `Loss`."""
        logp_BT, entropy_BT = self.scores(params, batch)
        value = -rl_loss.token_mean(logp_BT, batch.mask, total)
        return value, {
            "loss": value,
            "entropy": rl_loss.token_mean(entropy_BT, batch.mask, total),
        }


@dataclasses.dataclass(frozen=True)
class Policy(Text):
    """A surrogate with KL and entropy, each token by its weight: see `config.Rl` for the keys.

    `kl_coef` is the loss's own: 0 where the KL is in the reward.
    """

    ratio: str = "token"
    surrogate: str = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    importance_cap: float = 0.0

    def __call__(self, params: Any, batch: TrainBatch, total: jax.Array) -> tuple[jax.Array, Stats]:
        """As `Loss`."""
        logp_BT, entropy_BT = self.scores(params, batch)
        fixed_BT = jax.lax.stop_gradient(logp_BT)
        # Strictly on-policy batches need no second forward pass: their ratio is one.
        old_logp_BT = fixed_BT if batch.old_logp is None else batch.old_logp
        free_BT = rl_loss.importance(old_logp_BT, batch.sampler_logp, batch.mask)
        trust_BT = jnp.minimum(free_BT, self.importance_cap) if self.importance_cap else 1.0
        policy, stats = rl_loss.policy_loss(
            logp_BT,
            old_logp_BT,
            batch.advantage,
            batch.mask,
            batch.segments,
            batch.weight * trust_BT,
            ratio=self.ratio,
            surrogate=self.surrogate,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
            total=total,
        )
        mean = functools.partial(rl_loss.token_mean, mask_BT=batch.mask, total=total)
        kl_BT = jnp.zeros_like(logp_BT)
        if batch.ref_logp is not None:
            # As in policy_loss: an untrained place must not overflow into a nan gradient.
            ref_logp_BT = jnp.where(batch.mask > 0, batch.ref_logp, fixed_BT)
            kl_BT = rl_loss.KL[self.kl_estimator](logp_BT, ref_logp_BT)
        extra_BT = self.kl_coef * kl_BT - self.entropy_coef * entropy_BT
        value = policy + mean(batch.weight * extra_BT)
        gap_BT = jnp.where(batch.mask > 0, jnp.abs(batch.sampler_logp - old_logp_BT), 0.0)
        capped_BT = free_BT > (self.importance_cap or USUAL_CAP)
        stats |= {
            "loss": value,
            "policy_loss": policy,
            "entropy": mean(entropy_BT),
            "kl": mean(kl_BT),
            "agreement_mean": mean(gap_BT),
            "agreement_max": jnp.max(gap_BT),
            "importance_mean": mean(free_BT),
            "importance_max": jnp.max(jnp.where(batch.mask > 0, free_BT, 0.0)),
            "importance_capped": mean(capped_BT.astype(jnp.float32)),
        }
        return value, stats


@dataclasses.dataclass(frozen=True)
class Value:
    """PPO's clipped squared error of the critic; `model` is the critic's own (`critic.shape`)."""

    model: Transformer
    clip: float = 0.5

    def tokens(self, params: Any, batch: TrainBatch) -> jax.Array:
        """Values [B, T]: of the state in which each target is chosen."""
        hidden_BTD, _ = self.model.apply(
            {"params": params}, batch.tokens, batch.positions, batch.segments
        )
        return critic.values(params, hidden_BTD)

    def __call__(self, params: Any, batch: TrainBatch, total: jax.Array) -> tuple[jax.Array, Stats]:
        """As `Loss`; `batch.values` are those before the step."""
        value_BT = self.tokens(params, batch)
        loss, stats = rl_loss.value_loss(
            value_BT, batch.values, batch.returns, batch.mask, clip=self.clip, total=total
        )
        mean = rl_loss.token_mean(value_BT, batch.mask, total)
        return loss, stats | {"vf_loss": loss, "value_mean": mean}
