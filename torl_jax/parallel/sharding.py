"""Sharding by the alphabet: the last letters of a parameter's name are its axes.

    q_DNH in a scanned block        ->  axes L D N H  ->  P(None, "fsdp", "tp", None)
    shard(x_BTF, "BTF", mesh)       ->  P(("data", "fsdp"), None, "tp")

One table for weights, one for activations. An axis that does not divide, or two axes
of an array on the same mesh axis, is an error that says so; nothing is silently left
whole but scales and counters, which are small.
"""

import math
from collections.abc import Mapping

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from torl_jax.errors import UserError
from torl_jax.model.config import ModelConfig

Table = Mapping[str, tuple[str, ...]]

WEIGHTS: Table = {
    "D": ("fsdp",), "V": ("tp",), "N": ("tp",), "K": ("tp",), "F": ("tp",), "H": (), "L": (),
}  # fmt: skip
ACTIVATIONS: Table = {
    "B": ("data", "fsdp"), "N": ("tp",), "K": ("tp",), "F": ("tp",), "V": ("tp",),
    "M": (), "L": (), "T": (), "S": (), "D": (), "H": (),
}  # fmt: skip


def partition(
    what: str, letters: str, shape: tuple[int, ...], table: Table, mesh: Mesh
) -> PartitionSpec:
    """Where the axes `letters` of an array go. UserError where they cannot, naming `what`."""
    taken: dict[str, str] = {}
    parts: list[tuple[str, ...] | str | None] = []
    for letter, size in zip(letters, shape, strict=True):
        axes = table[letter]
        for axis in axes:
            if axis in taken:
                raise UserError(
                    f"{what}: axes {taken[axis]} and {letter} both go to mesh axis {axis}; "
                    "give one of them another in the tables of parallel/sharding.py"
                )
            taken[axis] = letter
        ways = math.prod(mesh.shape[axis] for axis in axes)
        if size % ways:
            name = " x ".join(axes)
            raise UserError(
                f"{what}: axis {letter} of {size} does not divide over mesh axis {name} of "
                f"{ways}; choose a {name} size that divides {size}"
            )
        parts.append(axes[0] if len(axes) == 1 else axes or None)
    return PartitionSpec(*parts)


def spec(path: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of the parameter at `path`, checked against its shape."""
    letters = path[-1].rsplit("_", 1)[1]
    letters = "L" * (len(shape) - len(letters)) + letters
    # One-dimensional scales and counters are small; splitting them gains nothing.
    if len(letters.replace("L", "")) == 1:
        return PartitionSpec()
    return partition(".".join(path), letters, shape, WEIGHTS, mesh)


def shardings(tree, mesh: Mesh):
    """NamedShardings for a tree of parameters (arrays or shapes).

    Also for trees that hold parameters deeper down (optimiser states): a leaf
    whose last key is no parameter's name (a step counter) is replicated.
    """

    def of(path, leaf) -> NamedSharding:
        names = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        known = names and "_" in names[-1]
        return NamedSharding(mesh, spec(names, leaf.shape, mesh) if known else PartitionSpec())

    return jax.tree_util.tree_map_with_path(of, tree)


def shard(x: jax.Array, letters: str, mesh: Mesh | None) -> jax.Array:
    """An activation, placed by its letters. Where there is no mesh there is one device."""
    if mesh is None:
        return x
    where = partition(f"an activation {letters}", letters, x.shape, ACTIVATIONS, mesh)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, where))


def check(config: ModelConfig, mesh: Mesh, what: str = "the mesh") -> None:
    """UserError where the model's heads cannot be split as the mesh asks."""
    tp, heads = mesh.shape["tp"], config.kv_heads
    if heads % tp:
        fitting = [size for size in range(heads, 0, -1) if heads % size == 0]
        raise UserError(
            f"{what} has tp={tp}, the model {heads} kv heads, which are split and never copied: "
            f"use tp of {', '.join(map(str, fitting))} and give the other devices to fsdp"
        )


def rows(mesh: Mesh) -> NamedSharding:
    """For batches [M, B, T]: rows over all data axes."""
    return NamedSharding(mesh, PartitionSpec(None, ACTIVATIONS["B"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())
