"""The policy-gradient loss and its pieces, chosen by name. Pure functions of arrays.

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


def tokenwise(log_ratio_BT: jax.Array, mask_BT: jax.Array, segments_BT: jax.Array) -> jax.Array:
    """Each token's own ratio (PPO, Schulman et al. 2017)."""
    return jnp.exp(log_ratio_BT)


def sequencewise(log_ratio_BT: jax.Array, mask_BT: jax.Array, segments_BT: jax.Array) -> jax.Array:
    """The geometric mean of an episode's ratios, at all its tokens (GSPO, arXiv 2507.18071, eq. 7).

    s_i = exp(mean over the policy's tokens of log rho)
    """

    def row(log_ratio_T, mask_T, segments_T):
        places = len(segments_T) + 1  # at most so many segments, and padding
        count = jax.ops.segment_sum(mask_T, segments_T, places)
        total = jax.ops.segment_sum(log_ratio_T * mask_T, segments_T, places)
        return (total / jnp.maximum(count, 1))[segments_T]

    return jnp.exp(jax.vmap(row)(log_ratio_BT, mask_BT, segments_BT))


RATIOS = {"token": tokenwise, "sequence": sequencewise}


def clipped(
    ratio_BT: jax.Array, logp_BT: jax.Array, advantage_BT: jax.Array, low: float, high: float
) -> tuple[jax.Array, jax.Array]:
    """PPO's surrogate (Schulman et al. 2017, eq. 7), and where the clipped term is the smaller.

    J = min(rho A, clip(rho, 1 - low, 1 + high) A)
    """
    free_BT = ratio_BT * advantage_BT
    bound_BT = jnp.clip(ratio_BT, 1 - low, 1 + high) * advantage_BT
    return jnp.minimum(free_BT, bound_BT), bound_BT < free_BT


def cispo(
    ratio_BT: jax.Array, logp_BT: jax.Array, advantage_BT: jax.Array, low: float, high: float
) -> tuple[jax.Array, jax.Array]:
    """CISPO's (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5), and where its weight is clipped.

        J = sg(clip(rho, 1 - low, 1 + high)) A log p

    No token loses its gradient: the ratio is a bounded weight. The paper leaves `low` so large
    that it never holds.
    """
    weight_BT = jax.lax.stop_gradient(jnp.clip(ratio_BT, 1 - low, 1 + high))
    return weight_BT * advantage_BT * logp_BT, weight_BT != ratio_BT


SURROGATES = {"clip": clipped, "cispo": cispo}


def importance(
    old_logp_BT: jax.Array, sampler_logp_BT: jax.Array, mask_BT: jax.Array, cap: float = jnp.inf
) -> jax.Array:
    """min(p_old / p_sampler, cap), 1 where nothing is trained; no gradient goes through it.

    Truncated importance weights (Espeholt et al. 2018, arXiv 1802.01561, eq. 1) correct for
    tokens that were sampled by another policy, or by one of other rounding, than is trained.
    """
    gap_BT = jnp.where(mask_BT > 0, old_logp_BT - sampler_logp_BT, 0.0)
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(gap_BT), cap))


def policy_loss(
    logp_BT: jax.Array,
    old_logp_BT: jax.Array,
    advantage_BT: jax.Array,
    mask_BT: jax.Array,
    segments_BT: jax.Array | None = None,
    weight_BT: jax.Array | None = None,
    *,
    ratio: str = "token",
    surrogate: str = "clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
    total: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean over trained tokens of a surrogate of the ratio rho = p / p_old.

        loss = -mean_t w_t (max(J_t, dual_clip A_t) where A_t < 0, else J_t)

    `ratio` names one of RATIOS (sequence: with segments), `surrogate` J of SURROGATES; weights w
    are 1 where not given. The bound (Ye et al. 2020, arXiv 1912.09729, eq. 5) keeps a token
    that has become many times likelier from being pushed down without limit; dual_clip 0
    leaves it away. All arrays [B, T]; log-probs in nats. Returns the scalar loss and statistics
    (each a share of the global token mean): `clip_fraction`, tokens where the surrogate is
    clipped; `dual_clip_fraction`, where the bound holds; `approx_kl`, mean of
    (rho - 1) - log rho, token by token whatever the ratio.
    """
    segments_BT = jnp.ones_like(mask_BT, jnp.int32) if segments_BT is None else segments_BT
    # Untrained places may hold anything; their ratio must not overflow into a nan gradient.
    own_BT = mask_BT > 0
    log_ratio_BT = jnp.where(own_BT, logp_BT - old_logp_BT, 0.0)
    ratio_BT = RATIOS[ratio](log_ratio_BT, mask_BT, segments_BT)
    safe_BT = jnp.where(own_BT, logp_BT, 0.0)
    gain_BT, clipped_BT = SURROGATES[surrogate](
        ratio_BT, safe_BT, advantage_BT, clip_low, clip_high
    )
    bounded_BT = jnp.zeros_like(mask_BT, bool)
    if dual_clip:
        bound_BT = dual_clip * advantage_BT
        bounded_BT = (advantage_BT < 0) & (gain_BT < bound_BT)
        gain_BT = jnp.where(bounded_BT, bound_BT, gain_BT)
    gain_BT = gain_BT if weight_BT is None else weight_BT * gain_BT
    loss = -token_mean(gain_BT, mask_BT, total)
    apart_BT = jnp.exp(log_ratio_BT) - 1 - log_ratio_BT
    stats = {
        "clip_fraction": token_mean(clipped_BT.astype(jnp.float32), mask_BT, total),
        "dual_clip_fraction": token_mean(bounded_BT.astype(jnp.float32), mask_BT, total),
        "approx_kl": token_mean(apart_BT, mask_BT, total),
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
