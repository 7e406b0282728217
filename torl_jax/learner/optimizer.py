"""AdamW with global-norm clipping and a constant rate after a linear warm-up (optax)."""

import optax

from torl_jax import config


def make(cfg: config.Optimizer) -> optax.GradientTransformation:
    """Gradient clipping, then AdamW; weight decay is decoupled (Loshchilov & Hutter 2019).

    `moments` is of the first moment alone. The second moves by 1 - b2, a thousandth of
    itself, a step; bfloat16 rounds at four thousandths and would stand still.
    """
    rate = cfg.lr
    if cfg.warmup:
        rate = optax.schedules.warmup_constant_schedule(0.0, cfg.lr, cfg.warmup)
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        optax.adamw(
            rate,
            b1=cfg.b1,
            b2=cfg.b2,
            eps=cfg.eps,
            weight_decay=cfg.weight_decay,
            mu_dtype=cfg.moments,
        ),
    )
