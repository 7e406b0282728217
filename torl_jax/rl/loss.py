"""The policy-gradient loss and its pieces. Pure functions of arrays.

All means run over trained tokens (written by the policy, episode kept). Each
takes `total`, the number of such tokens in the *global* batch: a microbatch then
returns its share, and shares add up to exactly the mean over the whole.
"""

import jax
import jax.numpy as jnp


def token_mean(x_BT: jax.Array, mask_BT: jax.Array, total: jax.Array | None = None) -> jax.Array:
    """sum(x * mask) / total; `total` defaults to this array's own number of tokens."""
    weight = jnp.maximum(jnp.sum(mask_BT) if total is None else total, 1)
    return jnp.sum(jnp.where(mask_BT > 0, x_BT, 0.0)) / weight


def policy_loss(
    logp_BT: jax.Array,
    old_logp_BT: jax.Array,
    advantage_BT: jax.Array,
    mask_BT: jax.Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
    total: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """PPO's clipped surrogate as a token mean (Schulman et al. 2017, eq. 7).

        rho = exp(logp - old_logp)
        J = min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)
        loss = -mean_t (max(J, dual_clip A) where A < 0, else J)

    The second bound (Ye et al. 2020, arXiv 1912.09729, eq. 5) keeps a token that has become
    many times likelier from being pushed down without limit; dual_clip 0 leaves it away.
    All arrays [B, T]; log-probs in nats. Returns the scalar loss and statistics
    (each a share of the global token mean): `clip_fraction`, tokens where the
    clipped term is the smaller; `dual_clip_fraction`, where the second bound holds;
    `approx_kl`, mean of (rho - 1) - log rho.
    """
    # Untrained places may hold anything; their ratio must not overflow into a nan gradient.
    log_ratio_BT = jnp.where(mask_BT > 0, logp_BT - old_logp_BT, 0.0)
    ratio_BT = jnp.exp(log_ratio_BT)
    free_BT = ratio_BT * advantage_BT
    clipped_BT = jnp.clip(ratio_BT, 1 - clip_low, 1 + clip_high) * advantage_BT
    gain_BT = jnp.minimum(free_BT, clipped_BT)
    bounded_BT = jnp.zeros_like(mask_BT, bool)
    if dual_clip:
        bound_BT = dual_clip * advantage_BT
        bounded_BT = (advantage_BT < 0) & (gain_BT < bound_BT)
        gain_BT = jnp.where(bounded_BT, bound_BT, gain_BT)
    loss = -token_mean(gain_BT, mask_BT, total)
    stats = {
        "clip_fraction": token_mean((clipped_BT < free_BT).astype(jnp.float32), mask_BT, total),
        "dual_clip_fraction": token_mean(bounded_BT.astype(jnp.float32), mask_BT, total),
        "approx_kl": token_mean(ratio_BT - 1 - log_ratio_BT, mask_BT, total),
    }
    return loss, stats


def value_loss(
    value_BT: jax.Array,
    old_value_BT: jax.Array,
    return_BT: jax.Array,
    mask_BT: jax.Array,
    *,
    clip: float = 0.5,
    total: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """PPO's squared error of the values, clipped about those before the step, as a token mean.

        loss = mean_t max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2

    All arrays [B, T]; clip 0 leaves the second term away. Returns the scalar loss and
    `vf_clip_fraction`, the tokens where the clipped error is the larger.
    """
    # Untrained places may hold anything; see policy_loss.
    own_BT = mask_BT > 0
    gap_BT = jnp.where(own_BT, value_BT - return_BT, 0.0)
    error_BT, clipped_BT = jnp.square(gap_BT), jnp.zeros_like(own_BT)
    if clip:
        bounded_BT = jnp.clip(value_BT, old_value_BT - clip, old_value_BT + clip)
        far_BT = jnp.square(jnp.where(own_BT, bounded_BT - return_BT, 0.0))
        clipped_BT = far_BT > error_BT
        error_BT = jnp.maximum(error_BT, far_BT)
    fraction = token_mean(clipped_BT.astype(jnp.float32), mask_BT, total)
    return 0.5 * token_mean(error_BT, mask_BT, total), {"vf_clip_fraction": fraction}


def k1(logp: jax.Array, ref_logp: jax.Array) -> jax.Array:
    """log p - log q: unbiased, high variance (Schulman 2020, "Approximating KL divergence")."""
    return logp - ref_logp


def k2(logp: jax.Array, ref_logp: jax.Array) -> jax.Array:
    """(log p - log q)^2 / 2: biased, low variance; its gradient is the KL's (ibid.)."""
    return 0.5 * jnp.square(logp - ref_logp)


def k3(logp: jax.Array, ref_logp: jax.Array) -> jax.Array:
    """q/p - 1 - log(q/p): unbiased, never negative (ibid.)."""
    log_ratio = ref_logp - logp
    return jnp.exp(log_ratio) - 1 - log_ratio


KL = {"k1": k1, "k2": k2, "k3": k3}
