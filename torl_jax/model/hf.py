"""Hugging Face folders in and out: `config.json` + safetensors, one or many files.

One table says, for every weight of ours, its published name and how its axes
turn (published linear layers are [out, in]; ours are [in, heads, head dim]).
Reading and writing walk the same table, so a round trip is the identity, and
import is strict: an unknown, missing or misshapen weight is an error.
"""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding

from torl_jax.errors import UserError
from torl_jax.model.config import ModelConfig
from torl_jax.model.shards import INDEX, SINGLE, Store
from torl_jax.parallel.sharding import spec

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CHECKED_ROWS = 4096  # of two tables at a time
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
        Weight(("embed_VD",), EMBEDDING, (V, D), (V, D), False),
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


def load(folder: str | os.PathLike[str], mesh: Mesh | None = None) -> tuple[ModelConfig, dict]:
    """(config, params): a tree of float32 arrays in the shapes of `Transformer`.

    numpy arrays, or, with a mesh, jax arrays made directly in their shards: a host reads
    and holds no more than its own, one weight at a time beyond that.
    """
    config, store = read_config(folder), Store(folder)
    rows = table(config)
    _check_names(config, store, rows)
    params: dict = {}
    for row in rows:
        for name in _published(row, config.layers):
            store.check(name, row.published)
        stack = (config.layers,) if row.path[0] == "blocks" else ()
        shape = (*stack, *row.shape)
        read = functools.partial(_read, store, row, shape)
        if mesh is None:
            value = read(None)
        else:
            where = NamedSharding(mesh, spec(row.path, shape, mesh))
            value = jax.make_array_from_callback(shape, where, read)
        _put(params, row.path, value)
    return config, params


def _check_names(config: ModelConfig, store: Store, rows: list[Weight]) -> None:
    expected = {name for row in rows for name in _published(row, config.layers)}
    extra = sorted(n for n in store.names if n not in expected and not n.endswith(IGNORED))
    # A tied model's file may repeat the embedding under the head's name.
    if config.tied and HEAD in extra:
        extra.remove(HEAD)
        _check_repeated(store, config.vocab_size)
    missing = sorted(expected - store.names)
    if missing or extra:
        kind, names = ("lacks", missing) if missing else ("has an unknown", extra)
        raise UserError(
            f"{store.folder} {kind} weight {names[0]} ({len(names)} such); config.json says "
            f"{config.layers} layers, tied={config.tied}"
        )


def _check_repeated(store: Store, vocab: int) -> None:
    for start in range(0, vocab, CHECKED_ROWS):
        index = (slice(start, min(start + CHECKED_ROWS, vocab)), slice(None))
        head, embed = (store.read(name, index) for name in (HEAD, EMBEDDING))
        if not np.array_equal(head.astype(np.float32), embed.astype(np.float32)):
            raise UserError(
                f"{store.folder}: {HEAD} differs from the embedding, config.json says tied; "
                "set tie_word_embeddings to false there"
            )


def _read(
    store: Store, row: Weight, shape: tuple[int, ...], index: tuple[slice, ...] | None
) -> np.ndarray:
    """A piece of one of our weights: `index` has a slice for each axis, None is all of it."""
    index = index or (slice(None),) * len(shape)
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
    sizes = [end - start for start, end in bounds]
    if row.path[0] != "blocks":
        return _turn(row, store.read(row.name, _cut(row, bounds)), sizes)
    out = np.empty(sizes, np.float32)
    for place, layer in enumerate(range(*bounds[0])):
        piece = store.read(row.name.format(layer), _cut(row, bounds[1:]))
        out[place] = _turn(row, piece, sizes[1:])
    return out


def _cut(row: Weight, bounds: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    """The same piece of the published array, whose axes are runs of ours, maybe turned round."""
    sizes, ends = list(row.shape), list(bounds)
    slices = []
    for total in reversed(row.published) if row.transpose else row.published:
        (start, end), inner = ends.pop(0), sizes.pop(0)
        while inner < total:
            (low, high), size = ends.pop(0), sizes.pop(0)
            if (low, high) != (0, size):
                raise ValueError(f"{row.path}: axis of {size} cannot be cut in a published file")
            start, end, inner = start * size, end * size, inner * size
        slices.append(slice(start, end))
    return tuple(reversed(slices)) if row.transpose else tuple(slices)


def _turn(row: Weight, array: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    array = array.T if row.transpose else array
    return np.ascontiguousarray(array, dtype=np.float32).reshape(sizes)


def _published(row: Weight, layers: int) -> list[str]:
    if row.path[0] != "blocks":
        return [row.name]
    return [row.name.format(layer) for layer in range(layers)]


def _put(tree: dict, path: tuple[str, ...], value: Any) -> None:
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
