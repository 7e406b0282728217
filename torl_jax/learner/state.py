"""What learning changes: parameters, optimiser state, and the number of steps taken."""

from collections.abc import Callable
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
    """params: float32 master weights; step: optimiser steps taken (a rollout may have several).

    `critic`: the state of PPO's second network; None without, and in the critic's own.
    """

    params: Any
    opt_state: optax.OptState
    step: Any
    critic: "TrainState | None" = None


# Where an array lives: beside the device's arithmetic, or in its host's memory.
DEVICE, HOST = "device", "pinned_host"


def create(
    params: dict, optimizer: optax.GradientTransformation, mesh: Mesh, memory: str = DEVICE
) -> TrainState:
    """A state for `params` (numpy or jax), every leaf made directly in its shards.

    `memory`: where the optimiser's state lives between updates.
    """
    params = jax.device_put(params, sharding.shardings(params, mesh))
    abstract = jax.eval_shape(optimizer.init, params)
    init = jax.jit(optimizer.init, out_shardings=moments(abstract, mesh, memory))
    step = jax.jit(lambda: jnp.int32(0), out_shardings=sharding.replicated(mesh))()
    return TrainState(params=params, opt_state=init(params), step=step)


def abstract(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    begin: Callable[[dict], dict] = lambda params: params,
) -> TrainState:
    """The state's tree with shapes for leaves; nothing is allocated.

    `begin` makes the network's parameters of those of a model.
    """
    params = jax.eval_shape(lambda: begin(initialise(config, jax.random.key(0))))
    opt_state = jax.eval_shape(optimizer.init, params)
    return TrainState(params=params, opt_state=opt_state, step=jax.ShapeDtypeStruct((), jnp.int32))


def moments(opt_state: optax.OptState, mesh: Mesh, memory: str) -> optax.OptState:
    """The optimiser state's tree with NamedShardings for leaves; counters stay on the device."""
    return jax.tree.map(
        lambda x, where: where.with_memory_kind(memory if x.ndim else DEVICE),
        opt_state,
        sharding.shardings(opt_state, mesh),
    )


def shardings(state: TrainState, mesh: Mesh, memory: str = DEVICE) -> TrainState:
    """The state's tree (arrays or shapes) with NamedShardings for leaves."""
    return TrainState(
        params=sharding.shardings(state.params, mesh),
        opt_state=moments(state.opt_state, mesh, memory),
        step=sharding.replicated(mesh),
    )
