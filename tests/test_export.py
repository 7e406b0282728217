"""export: a checkpoint of a run becomes a Hugging Face folder with the same weights."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from torl_jax import config, parts, policy
from torl_jax.checkpoint import Checkpoints, Meta
from torl_jax.errors import UserError
from torl_jax.learner import optimizer, state
from torl_jax.model import hf
from torl_jax.model.transformer import initialise
from torl_jax.parallel import mesh
from torl_jax.publish import publish as export

OVERRIDES = {
    "vocab_size": 24, "d_model": 8, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 4,
    "d_mlp": 12, "tied": False, "eos_ids": (3,),
}  # fmt: skip
TOKENIZER = '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}}}'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(working directory with checkpoints 2 and 5, its config, the parameters of each)."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text(TOKENIZER)
    cfg = config.Config(
        model=config.Model(random=True, overrides=OVERRIDES, tokenizer=str(folder / "tokenizer")),
        protocol=config.Protocol(prompt="Q: {question}\n"),
    )
    shape = parts.model_config(cfg.model)
    params = jax.device_get(initialise(shape, jax.random.key(0)))
    saved, checkpoints = {}, Checkpoints(folder / "work", keep=2)
    for step in (2, 5):
        saved[step] = jax.tree.map(lambda x, s=step: x + np.float32(s), params)
        made = state.create(saved[step], optimizer.make(cfg.optimizer), mesh.make())
        made = dataclasses.replace(made, step=jnp.int32(step))
        checkpoints.save(step, made, Meta(step, cfg), {})
    checkpoints.close()
    return folder / "work", cfg, saved


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_newest_checkpoint_becomes_a_model_folder(run, tmp_path):
    workdir, cfg, saved = run
    out = tmp_path / "new" / "model"
    export(str(workdir), out, "float32")
    shape, params = hf.load(out)
    assert shape == parts.model_config(cfg.model)
    equal(params, saved[5])
    assert (out / "tokenizer.json").read_text() == TOKENIZER
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_a_chosen_checkpoint_in_bfloat16(run, tmp_path):
    workdir, _, saved = run
    export(str(workdir / "checkpoints" / "2"), tmp_path / "out", "bfloat16")
    rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), saved[2])
    equal(hf.load(tmp_path / "out")[1], rounded)


def test_what_was_exported_is_a_policy_with_its_recipe(run, tmp_path):
    workdir, cfg, saved = run
    export(str(workdir), tmp_path / "out", "float32")
    found = policy.load(str(tmp_path / "out"))
    assert found.cfg.protocol == cfg.protocol
    assert found.cfg.model.path == str(tmp_path / "out") and not found.cfg.model.random
    equal(found.params, saved[5])
    # And may be exported again.
    export(str(tmp_path / "out"), tmp_path / "again", "float32")
    equal(hf.load(tmp_path / "again")[1], saved[5])


def refused(checkpoint, out) -> str:
    with pytest.raises(UserError) as error:
        export(str(checkpoint), out, "float32")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nothing_is_overwritten(run, tmp_path):
    workdir = run[0]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    assert "not empty" in refused(workdir, tmp_path / "full")
    assert (tmp_path / "full" / "precious").read_text() == "x"
    (tmp_path / "file").write_text("x")
    assert "choose another --out" in refused(workdir, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    export(str(workdir), tmp_path / "empty", "float32")
    assert hf.is_model(tmp_path / "empty")


def test_what_a_dead_export_left_is_not_taken_over(run, tmp_path):
    (tmp_path / "out.part").mkdir()
    assert "out.part" in refused(run[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_checkpoints_that_are_not_there(run, tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere", tmp_path / "out")
    assert "7" in refused(run[0] / "checkpoints" / "7", tmp_path / "out")
    (tmp_path / "fresh" / "checkpoints").mkdir(parents=True)
    assert "no whole checkpoint" in refused(tmp_path / "fresh", tmp_path / "out")
    moved = shutil.copytree(run[0], tmp_path / "moved")
    assert "moved" in refused(moved / "checkpoints" / "2" / "state", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_recipe_is_readable(run, tmp_path):
    export(str(run[0]), tmp_path / "out", "float32")
    recipe = json.loads((tmp_path / "out" / policy.RECIPE).read_text())
    assert config.parse(recipe) == run[1]
