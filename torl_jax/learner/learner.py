"""The learner: the compiled programs of one run on one mesh.

    state = learner.create(params)
    state, stats = learner.update(state, batches)

`batches` are the minibatches of one rollout, one optimiser step each. With more
than one, the later steps are off-policy by the earlier ones, so the log-probs of
the policy that sampled ("old") are computed for all of them before the first.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from torl_jax import config
from torl_jax.errors import UserError
from torl_jax.learner import optimizer as optimizers
from torl_jax.learner import state as states
from torl_jax.learner.state import TrainState
from torl_jax.learner.step import Objective, annotate, update
from torl_jax.model.transformer import Transformer
from torl_jax.parallel import sharding
from torl_jax.rl.batch import TrainBatch

# How a statistic of several optimiser steps becomes one of the rollout; else the mean.
OVER_STEPS = {"agreement_max": np.max, "trained_tokens": np.sum}


class Learner:
    """Holds no parameters but the reference policy's, and those only if KL is on."""

    def __init__(self, cfg: config.Config, model: Transformer, vocab: int, mesh: Mesh) -> None:
        sharding.check(model.config, mesh)
        self.mesh = mesh
        model = model.clone(mesh=mesh)
        self.optimizer = optimizers.make(cfg.optimizer)
        self.objective = Objective(
            model=model,
            vocab=vocab,
            temperature=cfg.sampler.temperature,
            clip_low=cfg.rl.clip_low,
            clip_high=cfg.rl.clip_high,
            kl_coef=cfg.rl.kl_coef,
            kl_estimator=cfg.rl.kl_estimator,
            entropy_coef=cfg.rl.entropy_coef,
            head_chunk=cfg.learner.head_chunk,
        )
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        if cfg.learner.microbatch_rows % ways:
            raise UserError(
                f"config.learner.microbatch_rows is {cfg.learner.microbatch_rows}; the mesh "
                f"splits rows {ways} ways: set a multiple of {ways}"
            )
        self.reference = None
        # Left to the compiler, the new state's shardings differ from the old one's, and the
        # second update would compile again.
        layout = states.shardings(states.abstract(model.config, self.optimizer), mesh)
        self._update = jax.jit(
            update,
            static_argnames=("objective", "optimizer"),
            donate_argnames=("state",),
            out_shardings=(layout, sharding.replicated(mesh)),
        )
        self._annotate = jax.jit(annotate, static_argnames=("objective",))

    def create(self, params: dict) -> TrainState:
        """A fresh state in its shards; `params` also become the reference policy if KL is on."""
        state = states.create(params, self.optimizer, self.mesh)
        if self.objective.kl_coef:
            # A copy: the state's own buffers are donated to the first update.
            self.reference = jax.tree.map(lambda x: x.copy(), state.params)
        return state

    def place(self, batch: TrainBatch) -> TrainBatch:
        """The batch on the mesh, rows split over the data axes."""
        rows, whole = sharding.rows(self.mesh), sharding.replicated(self.mesh)
        return jax.tree.map(lambda x: jax.device_put(x, rows if np.ndim(x) == 3 else whole), batch)

    def update(
        self, state: TrainState, batches: Sequence[TrainBatch]
    ) -> tuple[TrainState, dict[str, float]]:
        """One optimiser step a minibatch; statistics are averaged over the steps."""
        placed = [self.place(batch) for batch in batches]
        if len(placed) > 1:
            placed = [dataclasses.replace(b, old_logp=self._logp(state.params, b)) for b in placed]
        if self.reference is not None:
            placed = [
                dataclasses.replace(b, ref_logp=self._logp(self.reference, b)) for b in placed
            ]
        collected = []
        for batch in placed:
            state, stats = self._update(
                state, batch, objective=self.objective, optimizer=self.optimizer
            )
            collected.append(stats)
        collected = jax.device_get(collected)
        return state, {
            name: float(OVER_STEPS.get(name, np.mean)([stats[name] for stats in collected]))
            for name in collected[0]
        }

    def _logp(self, params: dict, batch: TrainBatch) -> jax.Array:
        return self._annotate(params, batch, objective=self.objective)
