"""AdamW with global-norm clipping; a linear warm-up, then a constant rate or a cosine (optax)."""

import optax

from torl_jax import config


def make(cfg: config.Optimizer) -> optax.GradientTransformation:
    """Gradient clipping, then AdamW; weight decay is decoupled (Loshchilov & Hutter 2019).

    `moments` is of the first moment alone. The second moves by 1 - b2, a thousandth of
    itself, a step; bfloat16 rounds at four thousandths and would stand still.
    """
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        optax.adamw(
            rate(cfg),
            b1=cfg.b1,
            b2=cfg.b2,
            eps=cfg.eps,
            weight_decay=cfg.weight_decay,
            mu_dtype=cfg.moments,
        ),
    )


def rate(cfg: config.Optimizer) -> float | optax.Schedule:
    """The learning rate, by the number of steps taken where it changes.

    It rises from 0 in `warmup` steps and falls to 0 as a cosine in `decay` more (Loshchilov &
    Hutter 2017, arXiv 1608.03983, eq. 5, one period), where it stays; decay 0: it stays high.
    """
    if cfg.decay:
        whole = cfg.warmup + cfg.decay
        return optax.schedules.warmup_cosine_decay_schedule(0.0, cfg.lr, cfg.warmup, whole)
    if cfg.warmup:
        return optax.schedules.warmup_constant_schedule(0.0, cfg.lr, cfg.warmup)
    return cfg.lr
