"""The safetensors files of a model folder as one store: any piece of any weight.

Only what is asked for is read, so a host that holds a part of a model's shards never
holds the whole; every damage is a UserError that names the file.
"""

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from torl_jax.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# As the files name them. numpy knows bfloat16 once ml_dtypes is loaded.
DTYPES = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64}


# What stands in a repository in place of a large file that was not fetched.
POINTER = b"version https://git-lfs"


class Store:
    """`names` are the published names of all weights; `listing` is the file that tells them."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        folder = Path(folder)
        self.listing = folder / (INDEX if (folder / INDEX).is_file() else SINGLE)
        self._files = weight_files(folder)
        self._opened: dict[Path, safetensors.safe_open] = {}
        self.names = self._files.keys()

    def path(self, name: str) -> Path:
        """The file that holds the weight."""
        return self._files[name]

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """UserError where the weight has another shape or holds no floats."""
        path, piece = self.path(name), self._slice(name)
        found, dtype = tuple(piece.get_shape()), piece.get_dtype()
        if found != shape:
            raise UserError(f"{path}: {name} has shape {found}, config.json says {shape}")
        if dtype not in DTYPES:
            raise UserError(f"{path}: {name} is {dtype}; expected {', '.join(DTYPES)}")

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A piece of the weight in the file's own dtype."""
        piece = self._slice(name)
        try:
            return piece[index]
        except safetensors.SafetensorError as error:
            raise _damaged(self.path(name), error) from None

    def _slice(self, name: str):
        path = self.path(name)
        if path not in self._opened:
            self._opened[path] = _open(path)
        return self._opened[path].get_slice(name)


def weight_files(folder: Path) -> dict[str, Path]:
    """Published name -> file that holds it, as the files themselves say.

    With an index, each weight must lie in the file that the index names, and nowhere else.
    """
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise UserError(f"no {SINGLE} and no {INDEX} in {folder}: the weights are missing")
        return dict.fromkeys(_names(folder / SINGLE), folder / SINGLE)
    where = _read_index(folder / INDEX)
    absent = sorted({file for file in where.values() if not (folder / file).is_file()})
    if absent:
        raise UserError(f"{folder / INDEX} names {absent[0]}, which is not in the folder")
    files = sorted(set(where.values()))
    held = [(name, file) for file in files for name in _names(folder / file)]
    wrong = sorted(set(held) ^ set(where.items()))
    if wrong:
        name, file = wrong[0]
        found, says = ("has", "not so") if wrong[0] in held else ("lacks", "otherwise")
        raise UserError(f"{folder / file} {found} weight {name}; {INDEX} says {says}")
    return {name: folder / file for name, file in held}


def _read_index(path: Path) -> dict[str, str]:
    try:
        where = json.loads(path.read_bytes())["weight_map"]
        return {str(name): str(file) for name, file in where.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is no index of weights ({type(error).__name__}: {error}); fetch it again"
        ) from None


def _open(path: Path) -> safetensors.safe_open:
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(
                f"{path} is a git-lfs pointer, expected the weights themselves: run `git lfs "
                "pull` where the folder was cloned"
            )
    try:
        return safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from None


def _names(path: Path) -> list[str]:
    return list(_open(path).keys())


def _damaged(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    size = path.stat().st_size
    return UserError(f"{path} of {size} bytes is damaged or cut short ({reason}); fetch it again")
