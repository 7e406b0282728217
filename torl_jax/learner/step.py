"""One pure update: microbatches -> gradient of the global token mean -> AdamW.

    state, stats = update(state, batch, loss=..., optimizer=...)

The loss is given as data (`losses.py`), the rest is the same for all. Gradients of the
microbatches' shares are summed in float32 and applied once, so the result does not depend
on the microbatching. The loop runs over the filled microbatches only; its trip count is
data, and the program is compiled once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from torl_jax.learner.losses import Loss, Stats
from torl_jax.learner.state import TrainState
from torl_jax.rl.batch import TrainBatch


def microbatch(batch: TrainBatch, m: jax.Array) -> TrainBatch:
    """The m-th microbatch, arrays [B, T]."""
    pick = functools.partial(jax.lax.dynamic_index_in_dim, index=m, axis=0, keepdims=False)
    return jax.tree.map(lambda x: pick(x) if x.ndim else x, batch)


def on_rung(run: Callable[[TrainBatch], Any], batch: TrainBatch, m: jax.Array) -> Any:
    """`run` of the m-th microbatch, its rows cut to the length of its rung.

    Each length is a branch of the one program.
    """
    whole = microbatch(batch, m)
    if batch.rung is None:
        return run(whole)

    def cut(width: int, whole: TrainBatch) -> Any:
        return run(jax.tree.map(lambda x: x[:, :width] if x.ndim else x, whole))

    branches = [functools.partial(cut, width) for width in batch.widths]
    return jax.lax.switch(whole.rung, branches, whole)


def summed(share: Callable[[jax.Array], tuple[Any, Stats]], count: jax.Array) -> tuple[Any, Stats]:
    """share(0) + .. + share(count - 1); of statistics named *_max the largest."""

    def body(m, carry):
        tree, stats = carry
        more, found = share(m)
        stats = {
            name: jnp.maximum(x, found[name]) if name.endswith("_max") else x + found[name]
            for name, x in stats.items()
        }
        return jax.tree.map(jnp.add, tree, more), stats

    shapes = jax.eval_shape(share, jnp.int32(0))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, count, body, start)


def update(
    state: TrainState, batch: TrainBatch, *, loss: Loss, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Stats]:
    """One optimiser step on batch [M, B, T]. Statistics are global means; *_max are maxima."""
    total = jnp.sum(batch.mask)

    def share(part):
        return jax.grad(loss, has_aux=True)(state.params, part, total)

    grads, stats = summed(lambda m: on_rung(share, batch, m), batch.count)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    stats |= {"grad_norm": optax.tree.norm(grads), "trained_tokens": total}
    return TrainState(params=params, opt_state=opt_state, step=state.step + 1), stats


def measure(params: Any, batch: TrainBatch, *, loss: Loss) -> Stats:
    """The statistics of `update`'s loss, without a step."""
    total = jnp.sum(batch.mask)
    share = functools.partial(loss, params, total=total)
    _, stats = summed(lambda m: on_rung(share, batch, m), batch.count)
    return stats | {"trained_tokens": total}


def annotate(params: Any, batch: TrainBatch, *, loss: Loss) -> jax.Array:
    """loss.tokens [M, B, T] under `params`; zeros in unfilled microbatches."""
    T = batch.tokens.shape[-1]

    def tokens(part):
        found_BT = loss.tokens(params, part)
        return jnp.pad(found_BT, ((0, 0), (0, T - found_BT.shape[1])))

    def body(m, out_MBT):
        found_BT = on_rung(tokens, batch, m)
        return jax.lax.dynamic_update_index_in_dim(out_MBT, found_BT, m, 0)

    start = jnp.zeros(batch.tokens.shape, jnp.float32)
    return jax.lax.fori_loop(0, batch.count, body, start)
