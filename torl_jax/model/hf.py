"""Hugging Face folders in and out: `config.json` + safetensors, one or many files.

One table says, for every weight of ours, its published name and how its axes
turn (published linear layers are [out, in]; ours are [in, heads, head dim]).
Reading and writing walk the same table, so a round trip is the identity, and
import is strict: an unknown, missing or misshapen weight is an error.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from torl_jax.errors import UserError
from torl_jax.model.config import ModelConfig

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEAD = "lm_head.weight"
DTYPES = ("float16", "bfloat16", "float32", "float64")
# Buffers that old exports carry along; they hold no information.
IGNORED = (".rotary_emb.inv_freq",)


class Weight(NamedTuple):
    """`name` has {} for the layer where `path` is under blocks; shapes exclude L."""

    path: tuple[str, ...]
    name: str
    shape: tuple[int, ...]
    published: tuple[int, ...]
    transpose: bool


def table(c: ModelConfig) -> list[Weight]:
    """Every weight of the model, ours and published."""
    D, N, K, H, F, V = c.d_model, c.heads, c.kv_heads, c.head_dim, c.d_mlp, c.vocab_size
    rows = [
        Weight(("embed_VD",), "model.embed_tokens.weight", (V, D), (V, D), False),
        Weight(("final_norm_D",), "model.norm.weight", (D,), (D,), False),
    ]
    if not c.tied:
        rows.append(Weight(("head_DV",), HEAD, (D, V), (V, D), True))

    def block(path: tuple[str, ...], name: str, shape, published, transpose: bool) -> None:
        rows.append(
            Weight(("blocks", *path), f"model.layers.{{}}.{name}", shape, published, transpose)
        )

    for letter, count, axes in (("q", N, "NH"), ("k", K, "KH"), ("v", K, "KH")):
        name = f"self_attn.{letter}_proj"
        weight = ("attention", f"{letter}_D{axes}")
        block(weight, f"{name}.weight", (D, count, H), (count * H, D), True)
        if c.qkv_bias:
            bias = ("attention", f"{letter}_bias_{axes}")
            block(bias, f"{name}.bias", (count, H), (count * H,), False)
        if c.qk_norm and letter != "v":
            norm = ("attention", f"{letter}_norm_H")
            block(norm, f"self_attn.{letter}_norm.weight", (H,), (H,), False)
    block(("attention", "o_NHD"), "self_attn.o_proj.weight", (N, H, D), (D, N * H), True)
    block(("mlp", "gate_DF"), "mlp.gate_proj.weight", (D, F), (F, D), True)
    block(("mlp", "up_DF"), "mlp.up_proj.weight", (D, F), (F, D), True)
    block(("mlp", "down_FD"), "mlp.down_proj.weight", (F, D), (D, F), True)
    block(("attention_norm_D",), "input_layernorm.weight", (D,), (D,), False)
    block(("mlp_norm_D",), "post_attention_layernorm.weight", (D,), (D,), False)
    return rows


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """The model's shape; UserError where there is no such folder or file."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"no config.json in {folder}: expected a Hugging Face model folder")
    try:
        return ModelConfig.from_hf(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); fetch the file again") from None


def is_model(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` has a `config.json` that names a model type (a run's own has none)."""
    path = Path(folder) / "config.json"
    return path.is_file() and '"model_type"' in path.read_text()


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


def load(folder: str | os.PathLike[str]) -> tuple[ModelConfig, dict]:
    """(config, params): a tree of float32 numpy arrays in the shapes of `Transformer`."""
    folder = Path(folder)
    config = read_config(folder)
    files = weight_files(folder)
    rows = table(config)
    expected = {name for row in rows for name in _published(row, config.layers)}
    extra = sorted(n for n in files if n not in expected and not n.endswith(IGNORED))
    # A tied model's file may repeat the embedding under the head's name.
    repeated = config.tied and HEAD in files
    extra = [n for n in extra if not (repeated and n == HEAD)]
    missing = sorted(expected - files.keys())
    if missing or extra:
        kind, names = ("lacks", missing) if missing else ("has an unknown", extra)
        raise UserError(
            f"{folder} {kind} weight {names[0]} ({len(names)} such); config.json says "
            f"{config.layers} layers, tied={config.tied}"
        )
    opened: dict[Path, safetensors.safe_open] = {}

    def fetch(name: str) -> np.ndarray:
        path = files[name]
        try:
            if path not in opened:
                opened[path] = safetensors.safe_open(path, framework="numpy")
            return opened[path].get_tensor(name)
        except safetensors.SafetensorError as error:
            raise UserError(f"{path} cannot be read at {name} ({error})") from None

    params: dict = {}
    for row in rows:
        layers = [_ours(row, fetch(name), name, folder) for name in _published(row, config.layers)]
        _put(params, row.path, np.stack(layers) if row.path[0] == "blocks" else layers[0])
    if repeated and not np.array_equal(fetch(HEAD).astype(np.float32), params["embed_VD"]):
        raise UserError(
            f"{folder}: {HEAD} differs from the embedding, config.json says tied; "
            "set tie_word_embeddings to false there"
        )
    return config, params


def _published(row: Weight, layers: int) -> list[str]:
    if row.path[0] != "blocks":
        return [row.name]
    return [row.name.format(layer) for layer in range(layers)]


def _ours(row: Weight, array: np.ndarray, name: str, folder: Path) -> np.ndarray:
    if array.shape != row.published:
        raise UserError(
            f"{folder}: {name} has shape {array.shape}, config.json says {row.published}"
        )
    if array.dtype.name not in DTYPES:
        raise UserError(f"{folder}: {name} is {array.dtype.name}; expected {', '.join(DTYPES)}")
    array = array.T if row.transpose else array
    return np.ascontiguousarray(array, dtype=np.float32).reshape(row.shape)


def _put(tree: dict, path: tuple[str, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def publish(config: ModelConfig, params: Mapping, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Our parameters under their published names and layouts."""
    numpy_dtype = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
    tensors = {}
    for row in table(config):
        value = params
        for key in row.path:
            value = value[key]
        value = np.asarray(value)
        layers = value if row.path[0] == "blocks" else [value]
        for name, array in zip(_published(row, config.layers), layers, strict=True):
            published = row.published[::-1] if row.transpose else row.published
            array = array.reshape(published)
            array = array.T if row.transpose else array
            tensors[name] = np.ascontiguousarray(array, dtype=numpy_dtype)
    return tensors


def save(
    folder: str | os.PathLike[str],
    config: ModelConfig,
    params: Mapping,
    dtype: str = "float32",
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes config.json and safetensors (several files and an index above `shard_bytes`)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = publish(config, params, dtype)
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, array in tensors.items():
        if shards[-1] and size + array.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = array
        size += array.nbytes
    (folder / "config.json").write_text(
        json.dumps(config.to_hf() | {"torch_dtype": dtype}, indent=2) + "\n"
    )
    if len(shards) == 1:
        _write(folder / SINGLE, shards[0])
        return
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        _write(folder / file, shard)
    where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    total = sum(array.nbytes for array in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write(path: Path, shard: dict[str, np.ndarray]) -> None:
    # transformers refuses a file whose metadata does not say who wrote it.
    safetensors.numpy.save_file(shard, path, metadata={"format": "pt"})
