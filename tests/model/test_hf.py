"""Hugging Face folders: the round trip is the identity, and import is strict both ways."""

import dataclasses
import json
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from torl_jax.errors import UserError
from torl_jax.model import hf
from torl_jax.model.config import ModelConfig
from torl_jax.model.shards import Store
from torl_jax.parallel import mesh, sharding

SHARD = 5_000  # bytes; the tiny model then needs several files
# Every axis divides by eight or, the kv heads, by two.
EVEN = ModelConfig(
    vocab_size=32, d_model=16, layers=3, heads=4, kv_heads=2, head_dim=6, d_mlp=24, tied=False
)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module", params=["tied", "untied"])
def model(request, shape, make_params):
    shape = dataclasses.replace(shape, tied=request.param == "tied", eos_ids=(3,))
    return shape, make_params(shape)


def refused(folder) -> str:
    """The one line that `load` refuses the folder with."""
    with pytest.raises(UserError) as error:
        hf.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def rewrite(path, change) -> None:
    """Changes the tensors of a file in place."""
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("shard_bytes", [10**9, SHARD, 1])
def test_round_trip(tmp_path, model, shard_bytes):
    shape, params = model
    hf.save(tmp_path, shape, params, shard_bytes=shard_bytes)
    files = list(tmp_path.glob("*.safetensors"))
    assert (len(files) == 1) is (shard_bytes == 10**9)
    config, loaded = hf.load(tmp_path)
    assert config == shape
    equal(loaded, params)


def test_shards_add_up_and_keep_their_size(sharded, params):
    index = json.loads((sharded / hf.INDEX).read_text())
    total = 4 * sum(x.size for x in jax.tree.leaves(params))
    assert index["metadata"]["total_size"] == total
    for path in sharded.glob("*.safetensors"):
        tensors = safetensors.numpy.load_file(path)
        assert sum(x.nbytes for x in tensors.values()) <= SHARD or len(tensors) == 1
        assert {name for name, file in index["weight_map"].items() if file == path.name} == set(
            tensors
        )


def test_the_published_layout(single, params):
    """Two weights spelled out by hand: linear layers are published as [out, in]."""
    tensors = safetensors.numpy.load_file(single / hf.SINGLE)
    q_DNH = params["blocks"]["attention"]["q_DNH"][1]
    np.testing.assert_array_equal(
        tensors["model.layers.1.self_attn.q_proj.weight"], q_DNH.reshape(24, 60).T
    )
    o_NHD = params["blocks"]["attention"]["o_NHD"][2]
    np.testing.assert_array_equal(
        tensors["model.layers.2.self_attn.o_proj.weight"], o_NHD.reshape(60, 24).T
    )


def test_bfloat16(tmp_path, shape, params):
    hf.save(tmp_path, shape, params, dtype="bfloat16")
    _, loaded = hf.load(tmp_path)
    equal(loaded, jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), params))
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_float16_is_read(single, params):
    def halve(tensors):
        tensors.update({name: x.astype(np.float16) for name, x in tensors.items()})

    rewrite(single / hf.SINGLE, halve)
    equal(hf.load(single)[1], jax.tree.map(lambda x: x.astype(np.float16), params))


def test_whole_numbers_are_not_weights(single):
    name = "model.norm.weight"
    rewrite(single / hf.SINGLE, lambda t: t.update({name: np.ones(24, np.int8)}))
    assert name in refused(single) and "is I8; expected F16" in refused(single)


def test_missing_weight(single):
    rewrite(single / hf.SINGLE, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    assert "lacks weight model.layers.1.mlp.up_proj.weight" in refused(single)


def test_unknown_weight(single):
    rewrite(single / hf.SINGLE, lambda t: t.update({"model.extra": np.ones(2, np.float32)}))
    assert "unknown weight model.extra" in refused(single)


def test_a_layer_too_many_is_unknown(single):
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    assert "unknown weight model.layers.2." in refused(single)


def test_misshapen_weight(single):
    name = "model.layers.0.self_attn.k_proj.weight"
    # As many numbers in another shape: a reshape would take it.
    rewrite(single / hf.SINGLE, lambda t: t.update({name: np.ascontiguousarray(t[name].T)}))
    message = refused(single)
    assert name in message and "(24, 20)" in message and "(20, 24)" in message


def test_buffers_of_old_exports_are_ignored(single, params):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(single / hf.SINGLE, lambda t: t.update({name: np.ones(5, np.float32)}))
    equal(hf.load(single)[1], params)


def test_a_tied_file_may_repeat_its_head_but_not_change_it(tmp_path, shape, make_params):
    shape = dataclasses.replace(shape, tied=True)
    params = make_params(shape)
    hf.save(tmp_path, shape, params)
    head = {"lm_head.weight": params["embed_VD"]}
    rewrite(tmp_path / hf.SINGLE, lambda t: t.update(head))
    equal(hf.load(tmp_path)[1], params)
    rewrite(tmp_path / hf.SINGLE, lambda t: t.update({"lm_head.weight": params["embed_VD"] + 1}))
    assert "lm_head.weight" in refused(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, 20_000])
def test_truncated_file(single, keep):
    path = single / hf.SINGLE
    path.write_bytes(path.read_bytes()[:keep])
    assert hf.SINGLE in refused(single)


def test_truncated_shard(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-8])
    assert path.name in refused(sharded)


def test_absent_shard(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    path.unlink()
    assert path.name in refused(sharded)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_damaged_index(sharded, text):
    (sharded / hf.INDEX).write_text(text)
    assert hf.INDEX in refused(sharded)


def test_an_index_must_say_what_the_shards_hold(sharded):
    """Neither a weight in another shard than it says, nor one that it leaves out."""
    index = json.loads((sharded / hf.INDEX).read_text())
    where = index["weight_map"]
    files = sorted(set(where.values()))
    name = "model.norm.weight"
    other = next(file for file in files if file != where[name])
    (sharded / hf.INDEX).write_text(json.dumps(index | {"weight_map": where | {name: other}}))
    assert name in refused(sharded)
    (sharded / hf.INDEX).write_text(json.dumps(index))
    rewrite(sharded / other, lambda t: t.update({"model.extra": np.ones(2, np.float32)}))
    assert "model.extra" in refused(sharded)
    # The same weight in two shards: which of them counts?
    rewrite(
        sharded / other, lambda t: (t.pop("model.extra"), t.update({name: np.ones(24, np.float32)}))
    )
    assert name in refused(sharded)


def test_no_folder_no_config_no_weights(tmp_path, single):
    assert "no config.json" in refused(tmp_path / "nowhere")
    (single / hf.SINGLE).unlink()
    assert hf.SINGLE in refused(single) and hf.INDEX in refused(single)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "{}"])
def test_damaged_config(single, text):
    (single / "config.json").write_text(text)
    assert "config.json" in refused(single)


def test_a_model_folder_is_known_by_its_config(single, tmp_path):
    assert hf.is_model(single)
    assert not hf.is_model(tmp_path)
    (tmp_path / "config.json").write_text('{"run": {"seed": 0}}')
    assert not hf.is_model(tmp_path)


def test_sharded_arrays_are_saved_as_numpy_ones_are(tmp_path, make_params):
    params = make_params(EVEN)
    cube = mesh.make(2, 2, 2)
    placed = jax.device_put(params, sharding.shardings(params, cube))
    for name, saved in (("numpy", params), ("sharded", placed)):
        hf.save(tmp_path / name, EVEN, saved, dtype="bfloat16", shard_bytes=3000)
    files = sorted(path.name for path in (tmp_path / "numpy").iterdir())
    assert len(files) > 5
    for name in files:
        assert (tmp_path / "sharded" / name).read_bytes() == (
            tmp_path / "numpy" / name
        ).read_bytes()


def test_saving_takes_about_one_file_of_memory(tmp_path):
    shape = dataclasses.replace(EVEN, layers=40, d_mlp=960)
    params = {}
    for row in hf.table(shape):
        size = (shape.layers, *row.shape) if row.path[0] == "blocks" else row.shape
        branch = params
        for key in row.path[:-1]:
            branch = branch.setdefault(key, {})
        branch[row.path[-1]] = np.ones(size, np.float32)
    shard = 400_000
    tracemalloc.start()
    hf.save(tmp_path, shape, params, shard_bytes=shard)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(list(tmp_path.glob("*.safetensors"))) > 15
    assert peak < 1.5 * shard


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (8, 1, 1)])
def test_shards_are_read_where_they_go_and_no_more(tmp_path, monkeypatch, make_params, sizes):
    """On eight devices: the same parameters, each piece read is one device's shard of a layer."""
    shape = dataclasses.replace(EVEN, qk_norm=True, qkv_bias=False)
    params = make_params(shape)
    hf.save(tmp_path, shape, params, shard_bytes=3000)
    read, pieces = Store.read, []

    def counting(store, name, index):
        piece = read(store, name, index)
        pieces.append((name, piece.size))
        return piece

    monkeypatch.setattr(Store, "read", counting)
    cube = mesh.make(*sizes)
    _, placed = hf.load(tmp_path, cube)
    equal(jax.device_get(placed), params)
    shards = sharding.shardings(params, cube)
    jax.tree.map(lambda x, wanted: x.sharding == wanted or pytest.fail(str(wanted)), placed, shards)
    whole = {
        name: x.size
        for path in tmp_path.glob("*.safetensors")
        for name, x in safetensors.numpy.load_file(path).items()
    }
    ways = sizes[1] * sizes[2]
    assert all(size * ways == whole[name] or "norm" in name for name, size in pieces)
    # Devices that hold the same piece share one reading of it.
    for name, size in whole.items():
        assert sum(found for piece, found in pieces if piece == name) == size, name
