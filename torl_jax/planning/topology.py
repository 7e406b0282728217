"""The devices to plan for: "v5p:2x2x4" by the TPU compiler of libtpu, "cpu:8" by this machine.

A topology is a description; no chip is touched. `prepare` must run before jax looks for
devices.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from torl_jax.errors import UserError
from torl_jax.planning.chips import CHIPS, Chip

FLAGS = "XLA_FLAGS"
# Slices that the vendor offers and that recipes may name; others of a known chip also work.
KNOWN = (
    "v4:2x2x1", "v4:2x2x2", "v4:2x2x4", "v4:2x4x4", "v4:4x4x4",
    "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16",
    "v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4", "v5p:2x4x4", "v5p:4x4x4", "v5p:4x4x8", "v5p:4x8x8",
    "v6e:2x2", "v6e:2x4", "v6e:4x4", "v6e:4x8", "v6e:8x8", "v6e:8x16", "v6e:16x16",
    "tpu7x:2x2x1", "tpu7x:2x2x2", "tpu7x:2x2x4", "tpu7x:2x4x4", "tpu7x:4x4x4",
    "cpu:1", "cpu:2", "cpu:4", "cpu:8",
)  # fmt: skip
# The compiler alone is used, no chip: it must not look for a metadata server, write logs, or
# want to be the only process that has libtpu.
COMPILER = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "4",
    "TPU_STDERR_LOG_LEVEL": "4",
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A parsed topology: `shape` in chips."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """Devices as jax counts them."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Processes that jax has there; this machine's CPUs are one."""
        return 1 if self.chip.name == "cpu" else self.chips // math.prod(self.chip.host)

    @property
    def host(self) -> "Slice":
        """The part that one host has, as a slice of its own."""
        if self.hosts == 1:
            return self
        name = f"{self.chip.name}:{'x'.join(map(str, self.chip.host))}"
        return Slice(name, self.chip, self.chip.host)


def parse(name: str) -> Slice:
    """The slice that `name` describes; UserError with the list of known ones."""
    found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+){0,2})", name, re.ASCII)
    chip = CHIPS.get(found[1]) if found else None
    if found and chip:
        shape = tuple(int(size) for size in found[2].split("x"))
        if min(shape) > 0 and (len(shape) == 1) == (chip.name == "cpu"):
            return Slice(name, chip, shape)
    raise UserError(f"unknown topology {name!r}; known: {', '.join(KNOWN)}")


def prepare(target: Slice) -> None:
    """Sets this process up for `target`; to be called before jax looks for devices.

    UserError where the TPU compiler is not installed.
    """
    jax.config.update("jax_platforms", "cpu")
    if target.chip.name == "cpu":
        others = re.sub(
            r"--xla_force_host_platform_device_count=\d+", "", os.environ.get(FLAGS, "")
        )
        flag = f"--xla_force_host_platform_device_count={target.chips}"
        os.environ[FLAGS] = f"{others} {flag}".strip()
        return
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"planning for {target.name} needs the TPU compiler, which is not installed: "
            "pip install -c constraints.txt -e '.[plan]' (or libtpu); --topology=cpu:8 does without"
        )
    for key, value in COMPILER.items():
        os.environ.setdefault(key, value)


def devices(target: Slice) -> list[Any]:
    """The slice's devices, to compile for; UserError where there is no such slice."""
    if target.chip.name == "cpu":
        found = jax.devices("cpu")
        if len(found) != target.chips:
            raise RuntimeError(f"{len(found)} CPU devices; `prepare` came too late")
        return list(found)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=target.name).devices)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no topology {target.name!r} ({reason}); known: {', '.join(KNOWN)}"
        ) from error
