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


class Store:
    """`names` are the published names of all weights."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._files = weight_files(self.folder)
        self._opened: dict[Path, safetensors.safe_open] = {}
        self.names = self._files.keys()

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """UserError where the weight has another shape or holds no floats."""
        piece = self._slice(name)
        if tuple(piece.get_shape()) != shape:
            found = tuple(piece.get_shape())
            raise UserError(f"{self.folder}: {name} has shape {found}, config.json says {shape}")
        if piece.get_dtype() not in DTYPES:
            found = piece.get_dtype()
            raise UserError(f"{self.folder}: {name} is {found}; expected {', '.join(DTYPES)}")

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A piece of the weight in the file's own dtype."""
        piece = self._slice(name)
        try:
            return piece[index]
        except safetensors.SafetensorError as error:
            raise self._damage(name, error) from None

    def _slice(self, name: str):
        path = self._files[name]
        try:
            if path not in self._opened:
                self._opened[path] = safetensors.safe_open(path, framework="numpy")
            return self._opened[path].get_slice(name)
        except safetensors.SafetensorError as error:
            raise self._damage(name, error) from None

    def _damage(self, name: str, error: Exception) -> UserError:
        return UserError(f"{self._files[name]} cannot be read at {name} ({error})")


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
    held = [(name, file) for file in sorted(set(where.values())) for name in _names(folder / file)]
    wrong = sorted(set(held) ^ set(where.items()))
    if wrong:
        name, file = wrong[0]
        found, says = ("has", "not so") if wrong[0] in held else ("lacks", "otherwise")
        raise UserError(f"{folder / file} {found} weight {name}; {INDEX} says {says}")
    return {name: folder / file for name, file in held}


def _read_index(path: Path) -> dict[str, str]:
    try:
        where = json.loads(path.read_text())["weight_map"]
        return {str(name): str(file) for name, file in where.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is no index of weights ({type(error).__name__}: {error}); fetch it again"
        ) from None


def _names(path: Path) -> list[str]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}); the file is damaged") from None
