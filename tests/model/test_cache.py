"""The cache on one device and in its shards: same contents, and nothing travels."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torl_jax.errors import UserError
from torl_jax.model.cache import BLOCK, Cache, Window
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.parallel import mesh
from torl_jax.parallel.sharding import shardings

# Everything divides by two: the mesh data=2, fsdp=2, tp=2 splits each axis that it can.
SHAPE = ModelConfig(
    vocab_size=32, d_model=16, layers=3, heads=4, kv_heads=2, head_dim=6, d_mlp=20,
    rope_theta=100.0, tied=True,
)  # fmt: skip
ROWS, T = 8, 5
SIZES = [(4, 1, 2), (2, 2, 2), (2, 1, 2)]


def make(sizes: tuple[int, int, int]):
    return mesh.make(*sizes, devices=jax.devices()[: math.prod(sizes)])


@pytest.fixture(scope="module")
def params():
    # Larger weights than at birth, so that contexts matter and errors show.
    return jax.tree.map(lambda x: 5 * x, initialise(SHAPE, jax.random.key(0)))


def test_the_capacity_is_whole_blocks():
    for asked, wanted in ((1, BLOCK), (BLOCK, BLOCK), (BLOCK + 1, 2 * BLOCK)):
        cache = Cache.zeros(SHAPE, 2, asked, jnp.float32)
        assert cache.capacity == wanted
        assert cache.k_LBKSH.shape == cache.v_LBKSH.shape == (3, 2, 2, wanted, 6)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_cache_is_born_in_its_shards(sizes):
    cache = Cache.zeros(SHAPE, ROWS, 10, jnp.bfloat16, make(sizes))
    data, fsdp, tp = sizes
    for x in jax.tree.leaves(cache):
        wanted = (3, ROWS // (data * fsdp), 2 // tp, BLOCK, 6)
        assert x.sharding.shard_shape(x.shape) == wanted
        assert x.dtype == jnp.bfloat16


def test_rows_and_heads_must_divide():
    with pytest.raises(UserError, match="the cache: axis B of 6 does not divide"):
        Cache.zeros(SHAPE, 6, 10, jnp.float32, make((4, 1, 2)))
    odd = dataclasses.replace(SHAPE, heads=3, kv_heads=3)
    with pytest.raises(UserError, match="the cache: axis K of 3 does not divide"):
        Cache.zeros(odd, ROWS, 10, jnp.float32, make((4, 1, 2)))


def run(model: Transformer):
    """(params, cache, tokens_RT, window) -> (hidden, cache), compiled, the cache given away."""

    def apply(params, cache, tokens_RT, window):
        return model.apply(
            {"params": params}, tokens_RT, window.positions_RT, cache=cache, window=window
        )

    return jax.jit(apply, donate_argnums=1)


def filled(cache: Cache) -> Cache:
    """What an earlier owner left behind, the same on every mesh."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding), cache
    )


def place(slots: list[int], ways: int) -> np.ndarray:
    """Numbers of slots in the whole cache, way by way -> numbers within each way."""
    per_way, rows_per_way = ROWS // ways, len(slots) // ways
    way_R = np.arange(len(slots)) // rows_per_way
    return np.where(np.asarray(slots) < ROWS, slots - way_R * per_way, per_way).astype(np.int32)


# Two rows of each of four ways, in odd order; ROWS is nobody's.
SLOTS = [1, 0, ROWS, 2, 5, ROWS, 7, 6]


@pytest.mark.parametrize("sizes", SIZES)
def test_extend_and_decode_in_shards_are_those_of_one_device(params, sizes):
    """On a mesh the rows of a window are numbered within their way."""
    rng = np.random.default_rng(1)
    tokens_RT = rng.integers(0, 32, (len(SLOTS), T))
    count_R = rng.integers(1, T + 1, len(SLOTS))
    real_RT = np.arange(T) < count_R[:, None]
    cube = make(sizes)
    ways = sizes[0] * sizes[1]
    len_B = np.zeros(ROWS + 1, np.int32)
    len_B[SLOTS] = count_R
    live_B = (len_B > 0)[:ROWS]
    token_B1 = rng.integers(0, 32, (ROWS, 1))
    results = []
    for at, n in ((None, 1), (cube, ways)):
        cache = filled(Cache.zeros(SHAPE, ROWS, 20, jnp.float32, at))
        weights = params if at is None else jax.device_put(params, shardings(params, at))
        positions_RT = np.where(real_RT, np.arange(T), cache.capacity)
        step = run(Transformer(SHAPE, mesh=at))
        window = Window(rows_R=place(SLOTS, n), positions_RT=positions_RT)
        read, cache = step(weights, cache, tokens_RT, window)
        positions_B1 = np.where(live_B, len_B[:ROWS], cache.capacity)[:, None]
        window = Window(rows_R=None, positions_RT=positions_B1)
        out, cache = step(weights, cache, token_B1, window)
        owned = np.asarray(SLOTS) < ROWS
        results.append((np.asarray(read)[real_RT & owned[:, None]], np.asarray(out)[live_B], cache))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *results)


def moved(text: str) -> list[int]:
    """Elements of each result of the collectives in a compiled program."""
    names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    lines = re.findall(rf"= (.*?) (?:{names})(?:-start)?\(", text)
    shapes = [shape for line in lines for shape in re.findall(r"\w\[([\d,]*)\]", line)]
    return [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]


@pytest.mark.parametrize("sizes", [(2, 1, 2), (4, 1, 2)])
@pytest.mark.parametrize("decode", [True, False])
def test_nothing_of_the_cache_travels_or_is_copied(sizes, decode):
    """Only activations are summed over tp; the cache's bytes stay where they are."""
    cube, deep = make(sizes), dataclasses.replace(SHAPE, layers=12)
    cache = Cache.zeros(deep, ROWS, 1024, jnp.float32, cube)
    params = jax.eval_shape(lambda: initialise(deep, jax.random.key(0)))
    weights = jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
        params,
        shardings(params, cube),
    )
    R, new = (ROWS, 1) if decode else (len(SLOTS), T)
    rows_R = None if decode else place(SLOTS, sizes[0] * sizes[1])
    window = Window(rows_R=rows_R, positions_RT=np.zeros((R, new), np.int32))
    step = run(Transformer(deep, mesh=cube))
    compiled = step.lower(weights, cache, np.zeros((R, new), np.int32), window).compile()
    travels = moved(compiled.as_text())
    assert travels, "the sum over tp is a collective; none is found, so the pattern has aged"
    assert max(travels) <= ROWS * new * deep.d_model
    keys = cache.k_LBKSH.addressable_shards[0].data.nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < keys
