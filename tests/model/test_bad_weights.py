"""Damaged model folders: each is refused in one line that names the file, found and expected."""

import dataclasses
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden.make_model import published
from torl_jax.errors import UserError
from torl_jax.model import hf
from torl_jax.model.config import ModelConfig
from torl_jax.parallel import mesh

ROOT = Path(__file__).resolve().parents[2]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 3087467144\n" % 7
NORM = "model.norm.weight"
DOWN = "model.layers.2.mlp.down_proj.weight"


def refused(folder) -> str:
    """The one line that `load` refuses the folder with."""
    with pytest.raises(UserError) as error:
        hf.load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def rewrite(path, change) -> None:
    """Changes the tensors of a file in place."""
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def reconfigure(folder, **changes) -> None:
    """Changes keys of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def header(path) -> int:
    """Bytes before the first weight."""
    return 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]


# Weights: files.


def test_a_file_cut_anywhere(single):
    path = single / hf.SINGLE
    data, end = path.read_bytes(), header(path)
    around = [*range(12), *range(12, end, 97), *range(end - 3, end + 3)]
    for keep in [*around, *range(end + 3, len(data), 4099), len(data) - 1]:
        path.write_bytes(data[:keep])
        message = refused(single)
        assert hf.SINGLE in message and f"{keep} bytes" in message, keep


def test_a_file_with_something_after_it(single):
    with (single / hf.SINGLE).open("ab") as file:
        file.write(b"x")
    assert hf.SINGLE in refused(single)


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_in_the_header(saved, params, tmp_path_factory, data):
    """Another name, shape, type or offset never passes; another remark changes nothing."""
    source = saved / "single" / hf.SINGLE
    text = bytearray(source.read_bytes())
    text[data.draw(st.integers(0, header(source) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("changed")
    shutil.copyfile(saved / "single" / "config.json", folder / "config.json")
    (folder / hf.SINGLE).write_bytes(text)
    try:
        loaded = hf.load(folder)[1]
    except UserError as error:
        assert "\n" not in str(error) and hf.SINGLE in str(error)
    else:
        jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.parametrize(
    "content", [b"", LFS, b"<html>not found</html>", b"\x00" * 64, b"PK\x03\x04"]
)
def test_something_else_in_place_of_weights(single, sharded, content):
    (single / hf.SINGLE).write_bytes(content)
    assert hf.SINGLE in refused(single)
    path = sorted(sharded.glob("*.safetensors"))[1]
    path.write_bytes(content)
    assert path.name in refused(sharded)


def test_a_pointer_says_how_to_get_the_weights(single):
    (single / hf.SINGLE).write_bytes(LFS)
    assert "git lfs pull" in refused(single)


def test_a_folder_in_place_of_weights(single):
    (single / hf.SINGLE).unlink()
    (single / hf.SINGLE).mkdir()
    assert "weights are missing" in refused(single)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'{"weight_map": {}}', LFS])
def test_an_index_that_is_none(sharded, content):
    (sharded / hf.INDEX).write_bytes(content)
    assert hf.INDEX in refused(sharded)


# Weights: names, shapes, values.


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_what_is_missing_is_named_with_the_file_that_lists_it(request, kind):
    folder = request.getfixturevalue(kind)
    listing = folder / (hf.INDEX if kind == "sharded" else hf.SINGLE)
    reconfigure(folder, num_hidden_layers=4)
    message = refused(folder)
    assert str(listing) in message and "lacks weight model.layers.3." in message
    assert "config.json says 4 layers" in message


def test_an_absurd_number_of_layers(single):
    reconfigure(single, num_hidden_layers=10**12)
    assert "config.json says 1000000000000 layers" in refused(single)


def test_an_unknown_weight_is_named_with_its_file(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    index = json.loads((sharded / hf.INDEX).read_text())
    index["weight_map"]["model.extra"] = path.name
    (sharded / hf.INDEX).write_text(json.dumps(index))
    rewrite(path, lambda t: t.update({"model.extra": np.ones(2, np.float32)}))
    message = refused(sharded)
    assert str(path) in message and "unknown weight model.extra" in message


def test_a_wrong_shape_is_named_with_its_file(sharded):
    reconfigure(sharded, intermediate_size=40)
    message = refused(sharded)
    where = json.loads((sharded / hf.INDEX).read_text())["weight_map"]
    name = "model.layers.0.mlp.gate_proj.weight"
    assert str(sharded / where[name]) in message and name in message
    assert "(20, 24)" in message and "(40, 24)" in message


def test_a_head_that_a_tied_model_repeats_without_an_embedding(single):
    reconfigure(single, tie_word_embeddings=True)
    rewrite(single / hf.SINGLE, lambda t: t.pop("model.embed_tokens.weight"))
    assert "lacks weight model.embed_tokens.weight" in refused(single)


def test_a_repeated_head_of_another_shape(single):
    reconfigure(single, tie_word_embeddings=True)
    rewrite(single / hf.SINGLE, lambda t: t.update({hf.HEAD: t[hf.EMBEDDING][:-1].copy()}))
    message = refused(single)
    assert hf.HEAD in message and "(47, 24)" in message and "(48, 24)" in message


@pytest.mark.parametrize("name", [NORM, DOWN, hf.HEAD])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_not_finite(single, name, value):
    def damage(tensors):
        wide = tensors[name].astype(np.float64)
        wide.flat[-1] = value  # 1e300 is no float32
        tensors[name] = wide

    rewrite(single / hf.SINGLE, damage)
    message = refused(single)
    assert hf.SINGLE in message and name in message and "NaN or infinity" in message


def test_a_value_that_is_not_finite_is_found_in_its_shard(tmp_path, make_params):
    shape = ModelConfig(
        vocab_size=32, d_model=16, layers=3, heads=4, kv_heads=2, head_dim=6, d_mlp=24
    )
    hf.save(tmp_path, shape, make_params(shape))
    rewrite(tmp_path / hf.SINGLE, lambda t: t[DOWN].__setitem__((15, 23), np.nan))
    with pytest.raises(UserError, match=DOWN):
        hf.load(tmp_path, mesh.make(1, 4, 2))


def test_check_reads_headers_alone(single, shape, monkeypatch):
    def forbidden(*_):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(hf.Store, "read", forbidden)
    assert dataclasses.replace(hf.check(single), eos_ids=shape.eos_ids) == shape
    reconfigure(single, hidden_size=25, head_dim=10)
    with pytest.raises(UserError, match=hf.SINGLE):
        hf.check(single)


# config.json.


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 100_000, LFS, b"null", b'"x"', b""])
def test_a_config_that_is_none(single, content):
    (single / "config.json").write_bytes(content)
    assert "config.json" in refused(single)


def test_a_folder_in_place_of_a_config(single):
    (single / "config.json").unlink()
    (single / "config.json").mkdir()
    assert "no config.json" in refused(single) and not hf.is_model(single)


@pytest.mark.parametrize(
    "key",
    [
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "intermediate_size",
    ],
)  # fmt: skip
def test_a_config_without_a_key(single, key):
    raw = json.loads((single / "config.json").read_text())
    del raw[key]
    (single / "config.json").write_text(json.dumps(raw))
    assert f"lacks the key '{key}'" in refused(single)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", ["qwen2"]),
        ("tie_word_embeddings", "false"),
        ("max_position_embeddings", "4096"),
        ("eos_token_id", 151_936),
        ("eos_token_id", "</s>"),
        ("eos_token_id", [1, -2]),
        ("rope_theta", float("nan")),
        ("rope_theta", 10**400),
        ("rms_norm_eps", float("inf")),
        ("rope_scaling", [1]),
        ("rope_scaling", {"rope_type": "yarn"}),
        ("layer_types", 5),
    ],
)
def test_a_config_with_a_wrong_value(key, value):
    with pytest.raises(UserError) as error:
        ModelConfig.from_hf(published("qwen2.5-math-1.5b") | {key: value})
    named = "rope_type" if value == {"rope_type": "yarn"} else key
    assert named in str(error.value) and "\n" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(st.sampled_from(["qwen2.5-math-1.5b", "qwen3-0.6b", "llama-3.2-1b"]), st.data())
def test_any_value_of_a_key_is_read_or_refused(name, data):
    raw = published(name)
    keys = sorted([*raw, "layer_types", "rope_parameters", "attention_bias", "head_dim"])
    for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2)):
        raw[key] = data.draw(JSON)
    try:
        hash(ModelConfig.from_hf(raw))
    except UserError as error:
        assert "\n" not in str(error)


# Tokenizers.


@pytest.mark.parametrize(("ids", "eos"), [(48, (3,)), (40, ()), (4, (3,))])
def test_a_tokenizer_that_may_belong_to_the_model(shape, ids, eos):
    dataclasses.replace(shape, eos_ids=eos).check_tokenizer(ids, "folder")


@pytest.mark.parametrize(
    ("ids", "eos", "words"),
    [(49, (), "49 ids, the model's vocabulary 48 rows"), (40, (3, 44), "40 ids, the model ends")],
)
def test_a_tokenizer_of_another_model(shape, ids, eos, words):
    with pytest.raises(UserError) as error:
        dataclasses.replace(shape, eos_ids=eos).check_tokenizer(ids, "folder/x")
    assert words in str(error.value) and "folder/x" in str(error.value)


# Through the real entry point.


@pytest.fixture
def tiny(tmp_path):
    """A copy of the model of the quickstart."""
    return shutil.copytree(ROOT / "assets" / "tiny-base", tmp_path / "model")


def truncate(folder):
    path = folder / hf.SINGLE
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, [hf.SINGLE, "cut short"]),
        (lambda folder: (folder / "tokenizer.json").unlink(), ["tokenizer.json", "does not exist"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "is not JSON"]),
    ],
)
def test_training_does_not_begin(tiny, tmp_path, damage, words):
    damage(tiny)
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-m", "torl_jax.train",
            "--config=configs/quickstart.py", f"--config.model.path={tiny}",
            f"--workdir={tmp_path / 'run'}",
        ],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "run").exists()
