"""One pure update: microbatches -> gradient of the global token mean -> AdamW.

    state, stats = update(state, batch, objective=..., optimizer=...)

Gradients of the microbatches' shares are summed in float32 and applied once, so
the result does not depend on the microbatching. The loop runs over the filled
microbatches only; its trip count is data, and the program is compiled once.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from torl_jax.learner.state import TrainState
from torl_jax.model import heads
from torl_jax.model.transformer import Transformer
from torl_jax.rl import loss as rl_loss
from torl_jax.rl.batch import TrainBatch

STATS = (
    "loss",
    "policy_loss",
    "entropy",
    "kl",
    "clip_fraction",
    "dual_clip_fraction",
    "approx_kl",
    "agreement_mean",
    "agreement_max",
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss as data: see `config.Rl` for the coefficients; `kl_coef` is the loss's own."""

    model: Transformer
    vocab: int
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    head_chunk: int = 1024


def scores(params, batch: TrainBatch, objective: Objective) -> tuple[jax.Array, jax.Array]:
    """(log-prob of the targets, entropy), [B, T], of one microbatch at the sampling temperature.

    Top-k and top-p are the sampler's alone: with either on, its log-probs are those of the
    truncated distribution, and the agreement statistics measure that difference too.
    """
    hidden_BTD, _ = objective.model.apply(
        {"params": params}, batch.tokens, batch.positions, batch.segments
    )
    return heads.token_scores(
        params,
        hidden_BTD,
        batch.targets,
        temperature=objective.temperature,
        chunk=objective.head_chunk,
        vocab=objective.vocab,
        mesh=objective.model.mesh,
    )


def microbatch(batch: TrainBatch, m: jax.Array) -> TrainBatch:
    """The m-th microbatch, arrays [B, T]."""
    pick = functools.partial(jax.lax.dynamic_index_in_dim, index=m, axis=0, keepdims=False)
    return jax.tree.map(lambda x: pick(x) if x.ndim else x, batch)


def loss(params, batch: TrainBatch, total: jax.Array, objective: Objective):
    """A microbatch's share of the global loss, and of its statistics."""
    logp_BT, entropy_BT = scores(params, batch, objective)
    fixed_BT = jax.lax.stop_gradient(logp_BT)
    # Strictly on-policy batches need no second forward pass: their ratio is one.
    old_logp_BT = fixed_BT if batch.old_logp is None else batch.old_logp
    policy, stats = rl_loss.policy_loss(
        logp_BT,
        old_logp_BT,
        batch.advantage,
        batch.mask,
        clip_low=objective.clip_low,
        clip_high=objective.clip_high,
        dual_clip=objective.dual_clip,
        total=total,
    )
    entropy = rl_loss.token_mean(entropy_BT, batch.mask, total)
    kl = jnp.float32(0)
    if batch.ref_logp is not None:
        # As in policy_loss: an untrained place must not overflow into a nan gradient.
        ref_logp_BT = jnp.where(batch.mask > 0, batch.ref_logp, fixed_BT)
        kl_BT = rl_loss.KL[objective.kl_estimator](logp_BT, ref_logp_BT)
        kl = rl_loss.token_mean(kl_BT, batch.mask, total)
    value = policy + objective.kl_coef * kl - objective.entropy_coef * entropy
    gap_BT = jnp.where(batch.mask > 0, jnp.abs(batch.sampler_logp - old_logp_BT), 0.0)
    stats |= {
        "loss": value,
        "policy_loss": policy,
        "entropy": entropy,
        "kl": kl,
        "agreement_mean": rl_loss.token_mean(gap_BT, batch.mask, total),
        "agreement_max": jnp.max(gap_BT),
    }
    return value, stats


def update(
    state: TrainState,
    batch: TrainBatch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step on batch [M, B, T]. Statistics are global means; *_max are maxima."""
    total = jnp.sum(batch.mask)

    def body(m, carry):
        grads, stats = carry
        grad, share = jax.grad(loss, has_aux=True)(
            state.params, microbatch(batch, m), total, objective
        )
        stats = {
            name: jnp.maximum(x, share[name]) if name.endswith("_max") else x + share[name]
            for name, x in stats.items()
        }
        return jax.tree.map(jnp.add, grads, grad), stats

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    start = (zeros, {name: jnp.float32(0) for name in STATS})
    grads, stats = jax.lax.fori_loop(0, batch.count, body, start)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    stats |= {"grad_norm": optax.tree.norm(grads), "trained_tokens": total}
    return TrainState(params=params, opt_state=opt_state, step=state.step + 1), stats


def annotate(params, batch: TrainBatch, *, objective: Objective) -> jax.Array:
    """Log-probs [M, B, T] of the targets under `params`; zeros in unfilled microbatches."""

    def body(m, out_MBT):
        logp_BT, _ = scores(params, microbatch(batch, m), objective)
        return jax.lax.dynamic_update_index_in_dim(out_MBT, logp_BT, m, 0)

    start = jnp.zeros(batch.tokens.shape, jnp.float32)
    return jax.lax.fori_loop(0, batch.count, body, start)


def divergence(batch: TrainBatch, *, estimator: str, count: int) -> jax.Array:
    """[count] float32: each episode's estimate of KL(old || reference), summed over its tokens."""
    # Where nothing is trained both are 0, and equal log-probs have no divergence.
    logp = jnp.where(batch.mask > 0, batch.old_logp, 0.0)
    ref_logp = jnp.where(batch.mask > 0, batch.ref_logp, 0.0)
    tokens = rl_loss.KL[estimator](logp, ref_logp)
    return jnp.zeros(count, jnp.float32).at[batch.episode].add(tokens)
