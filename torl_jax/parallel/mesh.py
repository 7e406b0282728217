"""Meshes: axes data x fsdp x tp over the devices there are.

Devices stand in the order of hosts, and tp is the innermost axis: so the sampling mesh
of a host is a run of the training mesh's devices, and heads are split over neighbours.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from torl_jax.errors import UserError

AXES = ("data", "fsdp", "tp")


def ordered(devices: Sequence[Any]) -> list[Any]:
    """Host by host, each host's by id."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def make(
    data: int = -1,
    fsdp: int = 1,
    tp: int = 1,
    devices: Sequence[Any] | None = None,
    what: str = "mesh",
) -> Mesh:
    """A mesh of `devices` (default: all); one size may be -1, "what is left"."""
    devices = ordered(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tp]
    known = int(np.prod([size for size in sizes if size > 0]))
    if sizes.count(-1) == 1 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"{what} data={data} fsdp={fsdp} tp={tp} does not cover {len(devices)} devices; "
            "the sizes' product must be the device count (one may be -1)"
        )
    return Mesh(np.asarray(devices).reshape(sizes), AXES)


def sampling(span: str, data: int, fsdp: int, tp: int, training: Mesh) -> Mesh:
    """The mesh that samples: of this host's devices (span "host"), or of all ("global")."""
    devices = list(training.devices.flat)
    if span == "host":
        here = jax.process_index()
        devices = [device for device in devices if device.process_index == here]
    return make(data, fsdp, tp, devices, what=f"the sampling mesh (of each {span})")


def everywhere(sampling: Mesh, training: Mesh) -> Mesh:
    """`sampling`, once for each host, over all of the training mesh's devices."""
    return Mesh(training.devices.reshape(-1, *sampling.devices.shape), ("host", *AXES))


def ways(mesh: Mesh) -> int:
    """How many ways rows are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
