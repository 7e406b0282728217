"""The learner: the compiled programs of one run on one mesh.

    learner.refer(params)
    state = learner.create(params)
    batches = learner.annotate(state, batches)
    batches = learner.credit(batches, advantages)
    state, stats = learner.update(state, batches)

`batches` are the minibatches of one rollout, one optimiser step each and an epoch. With
more than one step, the later ones are off-policy by the earlier, so the log-probs of
the policy that sampled ("old") are computed for all of them before the first.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from torl_jax import config
from torl_jax.errors import UserError
from torl_jax.learner import optimizer as optimizers
from torl_jax.learner import state as states
from torl_jax.learner.state import TrainState
from torl_jax.learner.step import Objective, annotate, divergence, update
from torl_jax.model.transformer import Transformer
from torl_jax.parallel import mesh as meshes
from torl_jax.parallel import sharding
from torl_jax.rl.batch import TrainBatch, credit

# How a statistic of several optimiser steps becomes one of the rollout; else the mean.
OVER_STEPS = {"agreement_max": np.max, "trained_tokens": np.sum}


def fetching(state: TrainState, batch: TrainBatch, *, near: Any, **how: Any):
    """`update`, with the optimiser's state brought to the devices first, to `near`."""
    opt_state = jax.device_put(state.opt_state, near)
    return update(dataclasses.replace(state, opt_state=opt_state), batch, **how)


class Learner:
    """Holds no parameters but the reference policy's, and those only if KL is on."""

    def __init__(self, cfg: config.Config, model: Transformer, vocab: int, mesh: Mesh) -> None:
        sharding.check(model.config, mesh)
        self.mesh = mesh
        model = model.clone(mesh=mesh)
        self.model, self.optimizer = model, optimizers.make(cfg.optimizer)
        self.objective = Objective(
            model=model,
            vocab=vocab,
            temperature=cfg.sampler.temperature,
            clip_low=cfg.rl.clip_low,
            clip_high=cfg.rl.clip_high,
            dual_clip=cfg.rl.dual_clip,
            kl_coef=cfg.rl.kl_coef if cfg.rl.kl_in == "loss" else 0.0,
            kl_estimator=cfg.rl.kl_estimator,
            entropy_coef=cfg.rl.entropy_coef,
            head_chunk=cfg.learner.head_chunk * meshes.ways(mesh),
        )
        ways = meshes.ways(mesh)
        if cfg.learner.microbatch_rows % ways:
            raise UserError(
                f"config.learner.microbatch_rows is {cfg.learner.microbatch_rows}; the mesh "
                f"splits rows {ways} ways: set a multiple of {ways}"
            )
        self.rl = cfg.rl
        self.reference = None
        self.memory = states.HOST if cfg.optimizer.offload else states.DEVICE
        # Left to the compiler, the new state's shardings differ from the old one's, and the
        # second update would compile again.
        tree = states.abstract(model.config, self.optimizer)
        self.update_program = jax.jit(
            functools.partial(fetching, near=states.moments(tree.opt_state, mesh, states.DEVICE)),
            static_argnames=("objective", "optimizer"),
            donate_argnames=("state",),
            out_shardings=(states.shardings(tree, mesh, self.memory), sharding.replicated(mesh)),
        )
        self.annotate_program = jax.jit(
            annotate, static_argnames=("objective",), out_shardings=sharding.rows(mesh)
        )
        self.divergence_program = jax.jit(
            divergence,
            static_argnames=("estimator", "count"),
            out_shardings=sharding.replicated(mesh),
        )
        self.credit_program = jax.jit(
            lambda batch, values_E: credit(batch, values_E).advantage,
            out_shardings=sharding.rows(mesh),
        )

    @property
    def needs_reference(self) -> bool:
        """Whether the policy that training began with is needed all along."""
        return self.rl.kl_coef > 0

    @property
    def needs_old(self) -> bool:
        """Whether the sampling policy's log-probs are needed before an update."""
        several = self.rl.minibatches * self.rl.epochs > 1
        return several or (self.needs_reference and self.rl.kl_in == "reward")

    def abstract(self) -> TrainState:
        """The state's tree with shapes and shardings for leaves; nothing is allocated."""
        tree = states.abstract(self.model.config, self.optimizer)
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            tree,
            states.shardings(tree, self.mesh, self.memory),
        )

    def refer(self, params: dict) -> None:
        """Keeps a copy of `params` as the reference policy, if KL is on."""
        if self.needs_reference:
            placed = jax.device_put(params, sharding.shardings(params, self.mesh))
            self.reference = jax.tree.map(lambda x: x.copy(), placed)

    def create(self, params: dict) -> TrainState:
        """A fresh state in its shards. It may take over the buffers of `params`."""
        return states.create(params, self.optimizer, self.mesh, self.memory)

    def place(self, batch: TrainBatch) -> TrainBatch:
        """The batch on the mesh, rows split over the data axes.

        Every host has the whole batch, and gives its own rows.
        """
        split, whole = sharding.rows(self.mesh), sharding.replicated(self.mesh)

        def put(x: np.ndarray) -> jax.Array:
            if np.ndim(x) < 3:
                return jax.make_array_from_process_local_data(whole, np.asarray(x), np.shape(x))
            own = split.addressable_devices_indices_map(x.shape).values()
            rows = sorted({index[1].indices(x.shape[1])[:2] for index in own if index})
            local = np.concatenate([x[:, start:end] for start, end in rows], axis=1)
            return jax.make_array_from_process_local_data(split, local, x.shape)

        return jax.tree.map(put, batch)

    def annotate(self, state: TrainState, batches: Sequence[TrainBatch]) -> list[TrainBatch]:
        """The batches on the mesh, with the log-probs that the algorithm needs."""
        placed = [self.place(batch) for batch in batches]
        for name, params, needed in (
            ("old_logp", state.params, self.needs_old),
            ("ref_logp", self.reference, self.needs_reference),
        ):
            if needed:
                placed = [dataclasses.replace(b, **{name: self._logp(params, b)}) for b in placed]
        return placed

    def divergence(self, batches: Sequence[TrainBatch], count: int) -> np.ndarray:
        """[batches, count] float32: the KL to the reference of each batch's `count` episodes.

        Pre: `annotate` has filled old_logp and ref_logp.
        """
        estimator = self.rl.kl_estimator
        found = [
            self.divergence_program(batch, estimator=estimator, count=count) for batch in batches
        ]
        return np.stack(jax.device_get(found))

    def credit(
        self, batches: Sequence[TrainBatch], advantages: Sequence[np.ndarray]
    ) -> list[TrainBatch]:
        """The placed batches with their episodes' advantages, [E] float32 for each."""
        return [
            dataclasses.replace(batch, advantage=self.credit_program(batch, values_E))
            for batch, values_E in zip(batches, advantages, strict=True)
        ]

    def update(
        self, state: TrainState, batches: Sequence[TrainBatch]
    ) -> tuple[TrainState, dict[str, float]]:
        """One optimiser step a minibatch and epoch; statistics are averaged over the steps."""
        collected = []
        for batch in [*batches] * self.rl.epochs:
            state, stats = self.update_program(
                state, batch, objective=self.objective, optimizer=self.optimizer
            )
            collected.append(stats)
        collected = jax.device_get(collected)
        return state, {
            name: float(OVER_STEPS.get(name, np.mean)([stats[name] for stats in collected]))
            for name in collected[0]
        }

    def _logp(self, params: Any, batch: TrainBatch) -> jax.Array:
        return self.annotate_program(params, batch, objective=self.objective)
