"""What learning changes: parameters, optimiser state, and the number of steps taken."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import initialise
from torl_jax.parallel import sharding


@flax.struct.dataclass
class TrainState:
    """params: float32 master weights; step: optimiser steps taken (a rollout may have several)."""

    params: Any
    opt_state: optax.OptState
    step: Any


def create(params: dict, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A state for `params` (numpy or jax), every leaf made directly in its shards."""
    params = jax.device_put(params, sharding.shardings(params, mesh))
    abstract = jax.eval_shape(optimizer.init, params)
    init = jax.jit(optimizer.init, out_shardings=sharding.shardings(abstract, mesh))
    step = jax.device_put(jnp.int32(0), sharding.replicated(mesh))
    return TrainState(params=params, opt_state=init(params), step=step)


def abstract(config: ModelConfig, optimizer: optax.GradientTransformation) -> TrainState:
    """The state's tree with shapes for leaves; nothing is allocated."""
    params = jax.eval_shape(lambda: initialise(config, jax.random.key(0)))
    opt_state = jax.eval_shape(optimizer.init, params)
    return TrainState(params=params, opt_state=opt_state, step=jax.ShapeDtypeStruct((), jnp.int32))


def shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """The state's tree (arrays or shapes) with NamedShardings for leaves."""
    return TrainState(
        params=sharding.shardings(state.params, mesh),
        opt_state=sharding.shardings(state.opt_state, mesh),
        step=sharding.replicated(mesh),
    )
