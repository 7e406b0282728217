"""The training mesh: axes data x fsdp x tp over the devices there are."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from torl_jax.errors import UserError

AXES = ("data", "fsdp", "tp")


def make(data: int = -1, fsdp: int = 1, tp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `devices` (default: all); one size may be -1, "what is left"."""
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tp]
    known = int(np.prod([size for size in sizes if size > 0]))
    if sizes.count(-1) == 1 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"mesh data={data} fsdp={fsdp} tp={tp} does not cover {len(devices)} devices; "
            "the sizes' product must be the device count (one may be -1)"
        )
    return Mesh(np.asarray(devices).reshape(sizes), AXES)
