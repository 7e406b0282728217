"""Sharding by the alphabet: the last letters of a parameter's name are its axes.

    q_DNH in a scanned block  ->  axes L D N H  ->  P(None, "fsdp", "tp", None)

One table for weights, one for activations. An axis that does not divide is an
error that says so; nothing is silently left unsharded.
"""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from torl_jax.errors import UserError

WEIGHTS = {"D": "fsdp", "V": "tp", "N": "tp", "K": "tp", "F": "tp", "H": None, "L": None}
ROWS = PartitionSpec(None, ("data", "fsdp"))  # [M, B, ...]: rows over all data axes


def spec(path: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of the parameter at `path`, checked against its shape."""
    letters = path[-1].rsplit("_", 1)[1]
    letters = "L" * (len(shape) - len(letters)) + letters
    # One-dimensional scales and counters are small; splitting them gains nothing.
    if len(letters.replace("L", "")) == 1:
        return PartitionSpec()
    axes = [WEIGHTS[letter] for letter in letters]
    for letter, size, axis in zip(letters, shape, axes, strict=True):
        if axis and size % mesh.shape[axis]:
            raise UserError(
                f"{'.'.join(path)}: axis {letter} of {size} does not divide over mesh axis "
                f"{axis} of {mesh.shape[axis]}; choose a {axis} size that divides {size}"
            )
    return PartitionSpec(*axes)


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


def rows(mesh: Mesh) -> NamedSharding:
    """For batches [M, B, T]."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())
