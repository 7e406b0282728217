"""Checkpoints: whole or not there, the last and the best, and only for their own run."""

import dataclasses

import jax
import numpy as np
import pytest

from torl_jax import config
from torl_jax.checkpoint import Checkpoints, Meta, check_fits
from torl_jax.errors import UserError
from torl_jax.learner import optimizer, state
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import initialise
from torl_jax.parallel import mesh

CFG = config.Config()


@pytest.fixture(scope="module")
def trained():
    params = {"embed_VD": np.arange(32, dtype=np.float32).reshape(8, 4)}
    return state.create(params, optimizer.make(CFG.optimizer), mesh.make(devices=jax.devices()[:1]))


def at(trained, step):
    params = jax.tree.map(lambda x: x + step, trained.params)
    return dataclasses.replace(trained, params=params, step=trained.step + step)


def test_round_trip_of_everything(trained, tmp_path):
    saved = Checkpoints(tmp_path, keep=2)
    saved.save(3, at(trained, 3), Meta(cursor=48, config=CFG), {})
    saved.close()
    again = Checkpoints(tmp_path, keep=2)
    assert again.latest() == 3
    assert again.meta(3) == Meta(cursor=48, config=CFG)
    restored = again.restore(3, trained)
    jax.tree.map(np.testing.assert_array_equal, restored, at(trained, 3))
    jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail(), restored, trained)
    alone = again.params(3, {"embed_VD": jax.ShapeDtypeStruct((8, 4), np.float32)})
    np.testing.assert_array_equal(alone["embed_VD"], trained.params["embed_VD"] + 3)
    again.close()


@pytest.mark.parametrize("sizes", [(1, 4, 1), (2, 1, 2), (1, 1, 1)])
def test_what_eight_devices_saved_is_restored_on_fewer(tmp_path, sizes):
    """Straight into other shards, from shapes alone; scalars and moments too."""
    shape = ModelConfig(
        vocab_size=32, d_model=16, layers=2, heads=4, kv_heads=2, head_dim=6, d_mlp=20
    )
    eight, fewer = mesh.make(1, 4, 2), mesh.make(*sizes, devices=jax.devices()[: np.prod(sizes)])
    maker = optimizer.make(CFG.optimizer)
    whole = state.create(initialise(shape, jax.random.key(0), eight), maker, eight)
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(5, whole, Meta(0, CFG), {})
    saved.close()
    tree = state.abstract(shape, maker)
    like = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        tree,
        state.shardings(tree, fewer),
    )
    again = Checkpoints(tmp_path, keep=1)
    restored = again.restore(5, like)
    again.close()
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (restored, whole)))
    for x, wanted in zip(*map(jax.tree.leaves, (restored, like)), strict=True):
        assert x.sharding == wanted.sharding and len(x.devices()) == np.prod(sizes)


def test_the_last_k_and_the_best_stay(trained, tmp_path):
    saved = Checkpoints(tmp_path, keep=2)
    for step, accuracy in enumerate([0.1, 0.9, 0.3, None, 0.5], start=1):
        metrics = {} if accuracy is None else {"eval/accuracy": accuracy}
        saved.save(step, at(trained, step), Meta(step, CFG), metrics)
    saved.close()
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [2, 4, 5]


def test_the_best_by_greedy_accuracy_where_nothing_was_sampled(trained, tmp_path):
    saved = Checkpoints(tmp_path, keep=1)
    for step, accuracy in enumerate([0.1, 0.9, 0.3], start=1):
        saved.save(step, at(trained, step), Meta(step, CFG), {"eval/greedy_accuracy": accuracy})
    saved.close()
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [2, 3]


def test_a_half_written_checkpoint_is_not_the_latest(trained, tmp_path):
    saved = Checkpoints(tmp_path, keep=2)
    saved.save(1, at(trained, 1), Meta(1, CFG), {})
    saved.close()
    # What a process killed in the middle of saving step 2 leaves behind.
    (half,) = (tmp_path / "checkpoints").glob("1")
    torn = half.with_name("2.orbax-checkpoint-tmp-0")
    (torn / "state").mkdir(parents=True)
    (torn / "state" / "d").write_bytes(b"half")
    again = Checkpoints(tmp_path, keep=2)
    assert again.latest() == 1
    again.save(2, at(trained, 2), Meta(2, CFG), {})
    again.close()
    assert Checkpoints(tmp_path, keep=2, read_only=True).latest() == 2


def test_what_may_change_between_runs_and_what_may_not():
    longer = dataclasses.replace(CFG, run=dataclasses.replace(CFG.run, steps=5))
    assert check_fits(CFG, longer, "w") == ["run.steps"]
    slower = dataclasses.replace(CFG, optimizer=dataclasses.replace(CFG.optimizer, lr=1e-7))
    assert check_fits(CFG, slower, "w") == ["optimizer.lr"]
    for section, key, value in [
        ("rl", "group_size", 4), ("run", "seed", 1), ("model", "path", "x"),
        ("protocol", "calls", 2), ("data", "path", "y"), ("sampler", "max_prompt", 9),
        ("optimizer", "warmup", 5),
    ]:  # fmt: skip
        changed = dataclasses.replace(getattr(CFG, section), **{key: value})
        other = dataclasses.replace(CFG, **{section: changed})
        with pytest.raises(UserError, match=rf"config\.{section}\.{key}=.*--workdir"):
            check_fits(CFG, other, "w")


@pytest.mark.parametrize("part", ["state", "meta"])
def test_a_damaged_checkpoint_is_one_clear_line(trained, tmp_path, part):
    saved = Checkpoints(tmp_path, keep=2)
    saved.save(1, at(trained, 1), Meta(1, CFG), {})
    saved.close()
    for path in (tmp_path / "checkpoints" / "1" / part).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    again = Checkpoints(tmp_path, keep=2, read_only=True)
    with pytest.raises(UserError, match=r"cannot be read .* move that folder away"):
        again.restore(1, trained) if part == "state" else again.meta(1)
