"""One tiny decoder, its parameters and compiled functions, for all tests of the model."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torl_jax.model import heads, hf
from torl_jax.model.cache import Window
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.sampler.engine import Engine
from torl_jax.sampler.sampling import Settings

# Every axis has its own size, so that a transposed one cannot pass unseen.
SHAPE = ModelConfig(
    vocab_size=48, d_model=24, layers=3, heads=6, kv_heads=2, head_dim=10, d_mlp=20,
    rope_theta=100.0, tied=False,
)  # fmt: skip
MODEL = Transformer(SHAPE)


@pytest.fixture(scope="session")
def shape() -> ModelConfig:
    return SHAPE


@pytest.fixture(scope="session")
def make_params():
    """Random parameters of any shape: nothing is zero or one, so no weight can be ignored."""

    def make(shape: ModelConfig, seed: int = 0) -> dict:
        rng = np.random.default_rng(seed)

        def draw(path, x):
            around = 1.0 if "norm" in path[-1].key else 0.0
            spread = 0.2 if len(x.shape) > 2 else 0.1
            return (around + spread * rng.normal(size=x.shape)).astype(np.float32)

        abstract = jax.eval_shape(lambda: initialise(shape, jax.random.key(seed)))
        return jax.tree_util.tree_map_with_path(draw, abstract)

    return make


@pytest.fixture(scope="session")
def params(make_params) -> dict:
    return make_params(SHAPE)


@functools.partial(jax.jit, static_argnames=("model",))
def _dense(params, tokens_BT, positions_BT, segments_BT, model):
    return model.apply({"params": params}, tokens_BT, positions_BT, segments_BT)[0]


@pytest.fixture(scope="session")
def hidden():
    """hidden(params, tokens_BT, positions_BT=None, segments_BT=None, model=...) -> [B, T, D]."""

    def run(params, tokens_BT, positions_BT=None, segments_BT=None, model=MODEL):
        tokens_BT = np.asarray(tokens_BT)
        if positions_BT is None:
            positions_BT = np.broadcast_to(np.arange(tokens_BT.shape[1]), tokens_BT.shape)
        return _dense(params, tokens_BT, positions_BT, segments_BT, model)

    return run


@pytest.fixture(scope="session")
def logits(hidden):
    """As `hidden`, through the head: float32 [B, T, V]."""

    def run(params, tokens_BT, **kwargs):
        return np.asarray(heads.logits(params, hidden(params, tokens_BT, **kwargs)))

    return run


@functools.partial(jax.jit, static_argnames=("model",))
def _extend(params, cache, rows_R, start_R, count_R, tokens_RT, model):
    offset_T = jnp.arange(tokens_RT.shape[1])
    positions_RT = jnp.where(
        offset_T < count_R[:, None], start_R[:, None] + offset_T, cache.capacity
    )
    window = Window(rows_R=rows_R, positions_RT=positions_RT)
    return model.apply({"params": params}, tokens_RT, positions_RT, cache=cache, window=window)


@pytest.fixture(scope="session")
def extend():
    """(params, cache, rows_R, start_R, count_R, tokens_RT) -> (hidden [R, T, D], cache)."""
    return functools.partial(_extend, model=MODEL)


@pytest.fixture(scope="session")
def greedy():
    """(shape, params, prompt, count) -> the greedy continuation, as the engine samples it."""

    def run(shape, params, prompt, count):
        no_marks = np.zeros(shape.vocab_size, bool)
        engine = Engine(
            Transformer(shape), slots=2, capacity=128, segment=20, extend_rows=2,
            end_V=no_marks, stop_SV=np.zeros((1, shape.vocab_size), np.uint16),
            vocab=shape.vocab_size, ladder=(4, 16),
        )  # fmt: skip
        engine.load(params, jax.random.key(0), Settings.of(temperature=0.0))
        slot = engine.admit(prompt, problem=0, sample=0, budget=count, watch=False)
        while slot.remaining:
            engine.decode()
        return slot.tokens[len(prompt) :]

    return run


@pytest.fixture(scope="session")
def saved(tmp_path_factory, shape, params):
    """Two folders with the untied model: in one file, and in several."""
    folder = tmp_path_factory.mktemp("models")
    hf.save(folder / "single", shape, params)
    hf.save(folder / "sharded", shape, params, shard_bytes=5_000)
    return folder


@pytest.fixture
def single(saved, tmp_path):
    """A copy of the first, to be damaged."""
    return shutil.copytree(saved / "single", tmp_path / "single")


@pytest.fixture
def sharded(saved, tmp_path):
    """A copy of the second."""
    return shutil.copytree(saved / "sharded", tmp_path / "sharded")
