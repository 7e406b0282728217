"""Training weights -> sampling weights: cast and reshard on the device."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("dtype",))
def _cast(params, dtype: jnp.dtype):
    return jax.tree.map(lambda x: x.astype(dtype), params)


def handoff(params, dtype: jnp.dtype, sharding: jax.sharding.Sharding):
    """The parameters in `dtype` under `sharding`; the originals stay as they are."""
    return jax.device_put(_cast(params, dtype), sharding)
