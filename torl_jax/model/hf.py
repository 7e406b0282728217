"""Hugging Face folders in and out: `config.json` + safetensors, one or many files.

One table says, for every weight of ours, its published name and how its axes
turn (published linear layers are [out, in]; ours are [in, heads, head dim]).
Reading and writing walk the same table, so a round trip is the identity, and
import is strict: an unknown, missing or misshapen weight is an error.
"""

import functools
import gc
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
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
PIECE = 1 << 26  # bytes of a table that is written
# Buffers that old exports carry along; they hold no information.
IGNORED = (".rotary_emb.inv_freq",)

Index = tuple[slice, ...]


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
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); fetch the file again") from None
    try:
        return ModelConfig.from_hf(raw)
    except UserError as error:
        raise UserError(f"in {folder}, {error}") from None


def is_model(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` has a `config.json` that names a model type (a run's own has none)."""
    path = Path(folder) / "config.json"
    return path.is_file() and b'"model_type"' in path.read_bytes()


def check(folder: str | os.PathLike[str]) -> ModelConfig:
    """The model's shape, if every weight is there in its shape and no other: reads headers only.

    UserError otherwise, naming the file, what was found and what was expected.
    """
    return _open(folder)[0]


def _open(folder: str | os.PathLike[str]) -> tuple[ModelConfig, Store, list[Weight]]:
    config, store = read_config(folder), Store(folder)
    rows = table(config)
    _check_names(config, store, rows)
    for row in rows:
        for name in _published(row, config.layers):
            store.check(name, row.published)
    return config, store, rows


def load(folder: str | os.PathLike[str], mesh: Mesh | None = None) -> tuple[ModelConfig, dict]:
    """(config, params): a tree of float32 arrays in the shapes of `Transformer`.

    numpy arrays, or, with a mesh, jax arrays made directly in their shards: a host reads
    and holds no more than its own, one device's shard of one weight beyond that.
    """
    config, store, rows = _open(folder)
    if config.tied and HEAD in store.names:
        _check_repeated(store, config)
    params: dict = {}
    # The largest first: what making a weight takes beyond it then never tops all the others.
    for row in sorted(rows, key=functools.partial(_size, config), reverse=True):
        stack = (config.layers,) if row.path[0] == "blocks" else ()
        shape = (*stack, *row.shape)
        read = functools.partial(_read, store, row, shape)
        if mesh is None:
            value = read((slice(None),) * len(shape))
        else:
            value = _sharded(read, shape, NamedSharding(mesh, spec(row.path, shape, mesh)))
        _put(params, row.path, value)
    return config, params


def _size(config: ModelConfig, row: Weight) -> int:
    return len(_published(row, config.layers)) * math.prod(row.shape)


def _sharded(
    read: Callable[[Index], np.ndarray], shape: tuple[int, ...], where: NamedSharding
) -> jax.Array:
    """The array of what `read` gives, a shard at a time; equal ones are read once."""
    # jax.make_array_from_callback would hold all of this host's shards twice.
    made: list[tuple[Index, jax.Array]] = []
    for device, index in where.addressable_devices_indices_map(shape).items():
        assert index is not None
        twin = next((shard for known, shard in made if known == index), None)
        shard = jax.device_put(read(index) if twin is None else twin, device)
        made.append((index, shard.block_until_ready()))
        # Only then does jax let go of the numpy array that it has copied.
        gc.collect(0)
    return jax.make_array_from_single_device_arrays(shape, where, [shard for _, shard in made])


def _check_names(config: ModelConfig, store: Store, rows: list[Weight]) -> None:
    says = f"config.json says {config.layers} layers, tied={config.tied}"
    if config.layers > len(store.names):
        raise UserError(f"{store.listing} has {len(store.names)} weights; {says}")
    expected = {name for row in rows for name in _published(row, config.layers)}
    # A tied model's file may repeat the embedding under the head's name.
    known = expected | {HEAD} if config.tied else expected
    extra = sorted(n for n in store.names if n not in known and not n.endswith(IGNORED))
    missing = sorted(expected - store.names)
    if missing:
        raise UserError(f"{store.listing} lacks weight {missing[0]} ({len(missing)} such); {says}")
    if extra:
        path = store.path(extra[0])
        raise UserError(f"{path} has an unknown weight {extra[0]} ({len(extra)} such); {says}")


def _check_repeated(store: Store, config: ModelConfig) -> None:
    store.check(HEAD, (config.vocab_size, config.d_model))
    for start in range(0, config.vocab_size, CHECKED_ROWS):
        index = (slice(start, min(start + CHECKED_ROWS, config.vocab_size)), slice(None))
        head, embed = (store.read(name, index) for name in (HEAD, EMBEDDING))
        if not np.array_equal(head.astype(np.float32), embed.astype(np.float32)):
            raise UserError(
                f"{store.path(HEAD)}: {HEAD} differs from the embedding, config.json says tied; "
                "set tie_word_embeddings to false there"
            )


def _read(store: Store, row: Weight, shape: tuple[int, ...], index: Index) -> np.ndarray:
    """A piece of one of our weights, float32; UserError for a value that is not finite."""
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
    sizes = [end - start for start, end in bounds]
    if row.path[0] != "blocks":
        return _turn(store, row.name, row, bounds, sizes)
    out = np.empty(sizes, np.float32)
    for place, layer in enumerate(range(*bounds[0])):
        out[place] = _turn(store, row.name.format(layer), row, bounds[1:], sizes[1:])
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


def _turn(
    store: Store, name: str, row: Weight, bounds: Sequence[tuple[int, int]], sizes: Sequence[int]
) -> np.ndarray:
    array = store.read(name, _cut(row, bounds))
    array = array.T if row.transpose else array
    with np.errstate(over="ignore"):  # of a float64: infinity, which is refused
        array = np.ascontiguousarray(array, dtype=np.float32).reshape(sizes)
    if not np.isfinite(array).all():
        raise UserError(
            f"{store.path(name)}: {name} holds NaN or infinity, expected finite numbers; "
            "the model is damaged"
        )
    return array


def _published(row: Weight, layers: int) -> list[str]:
    if row.path[0] != "blocks":
        return [row.name]
    return [row.name.format(layer) for layer in range(layers)]


def _put(tree: dict, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def save(
    folder: str | os.PathLike[str],
    config: ModelConfig,
    params: Mapping,
    dtype: str = "float32",
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes config.json and safetensors (several files and an index above `shard_bytes`).

    `params` are numpy arrays or jax arrays, which one process must hold all of. Beyond
    them, one file's weights are in memory at a time.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numpy_dtype = np.dtype({"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype])
    shards: list[list[Part]] = [[]]
    size = total = 0
    for part in _parts(config):
        nbytes = math.prod(part.row.shape) * numpy_dtype.itemsize
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(part)
        size += nbytes
        total += nbytes
    (folder / "config.json").write_text(
        json.dumps(config.to_hf() | {"torch_dtype": dtype}, indent=2) + "\n"
    )
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    files = [SINGLE] if len(shards) == 1 else files
    for file, shard in zip(files, shards, strict=True):
        tensors = {part.name: _publish(part, params, numpy_dtype) for part in shard}
        # transformers refuses a file whose metadata does not say who wrote it.
        safetensors.numpy.save_file(tensors, folder / file, metadata={"format": "pt"})
        del tensors  # before the next file's are made
    if len(shards) > 1:
        where = {p.name: file for file, shard in zip(files, shards, strict=True) for p in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


class Part(NamedTuple):
    """One published tensor: a whole weight of ours, or one layer of it."""

    name: str
    row: Weight
    layer: int | None


def _parts(config: ModelConfig) -> list[Part]:
    """Every published tensor, layer by layer, as models are read."""
    rows = table(config)
    whole = [Part(row.name, row, None) for row in rows if row.path[0] != "blocks"]
    stacked = [row for row in rows if row.path[0] == "blocks"]
    layers = range(config.layers)
    return whole + [Part(row.name.format(i), row, i) for i in layers for row in stacked]


def _publish(part: Part, params: Mapping, dtype: np.dtype) -> np.ndarray:
    """One of our parameters in its published layout."""
    value: Any = params
    for key in part.row.path:
        value = value[key]
    array = _rows(value, dtype) if part.layer is None else np.asarray(value[part.layer])
    published = part.row.published
    array = array.reshape(published[::-1]).T if part.row.transpose else array.reshape(published)
    return np.ascontiguousarray(array, dtype=dtype)


def _rows(value: np.ndarray | jax.Array, dtype: np.dtype) -> np.ndarray:
    """The whole array, some rows at a time: jax keeps what it once showed to numpy."""
    out = np.empty(value.shape, dtype)
    step = max(1, PIECE // (value.nbytes // len(value)))
    for start in range(0, len(value), step):
        out[start : start + step] = value[start : start + step]
    return out
