"""Every implementation of attention against the portable one (`test_portable.py`).

The kernels run interpreted, mostly by the plain interpreter; the TPU's own (whose fresh
memory is NaN and whose reads out of bounds are errors) is slower and runs no kernel that
stands in a vmap (splash attention) or, with newer releases, in flax's scan.
"""

import dataclasses
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from torl_jax.errors import UserError
from torl_jax.model.attention import cudnn, live, portable, seam, splash
from torl_jax.model.cache import Cache, Window
from torl_jax.model.transformer import Transformer
from torl_jax.parallel import mesh
from torl_jax.parallel.sharding import shardings

RNG = np.random.default_rng(0)
NAN = float("nan")


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.fixture
def interpreted(monkeypatch):
    """Pallas kernels on CPU, those under vmap too."""
    compiled = pl.pallas_call
    monkeypatch.setattr(
        pl, "pallas_call", lambda *args, **kwargs: compiled(*args, **kwargs | {"interpret": True})
    )


# Training: packed rows.


def pack(lengths, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and segments [1, T] of sequences in one row; 0 where nothing is."""
    positions, segments = (np.zeros((1, width), np.int32) for _ in range(2))
    start = 0
    for i, length in enumerate(lengths, start=1):
        positions[0, start : start + length] = np.arange(length)
        segments[0, start : start + length] = i
        start += length
    return positions, segments


@given(st.lists(st.integers(1, 6), max_size=5))
def test_in_packed_rows_the_order_of_places_is_the_order_of_positions(lengths):
    """So the kernels' mask, by place, is `causal_mask`, by position."""
    positions, segments = pack(lengths, 32)
    by_position = np.asarray(portable.causal_mask(positions, segments))
    by_place = np.tril(np.ones((32, 32), bool)) & (segments[:, :, None] == segments[:, None, :])
    real = segments[0] > 0
    np.testing.assert_array_equal(by_position[:, real], by_place[:, real])


# Three blocks, the last one not full; both rows leave places empty.
WIDTH, LENGTHS = 300, [(70, 130, 1, 40), (20, 250)]


def packed_inputs(N: int, K: int, H: int, dtype):
    """q, k, v, positions, segments of two packed rows."""
    rows = [pack(lengths, WIDTH) for lengths in LENGTHS]
    positions, segments = (np.concatenate(x) for x in zip(*rows, strict=True))
    q, k, v = normal(2, WIDTH, N, H), normal(2, WIDTH, K, H), normal(2, WIDTH, K, H)
    return *(jnp.asarray(x, dtype) for x in (q, k, v)), positions, segments


def results(attend, q, k, v, segments):
    """What is attended to at real tokens, and the gradients of a random sum of it."""
    real_BT11 = jnp.asarray(segments > 0)[:, :, None, None]
    direction = np.random.default_rng(5).normal(size=q.shape)

    def total(q, k, v):
        out = jnp.where(real_BT11, attend(q, k, v), 0).astype(jnp.float32)
        return jnp.sum(out * direction), out

    (_, out), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return out, gradients


def close(got, wanted, dtype):
    """Within rounding of `dtype`, relative to the largest number."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        limit = {jnp.float32: 1e-5, jnp.bfloat16: 2e-2}[dtype]
        np.testing.assert_allclose(a, b, atol=limit * np.abs(b).max())


def both(name, inputs, cube=None):
    """(results of the implementation `name`, of the portable one)."""
    q, k, v, positions, segments = inputs

    def by(name, cube):
        def attend(q, k, v):
            return seam.packed(q, k, v, positions, segments, name=name, mesh=cube)

        return attend

    found = results(by(name, cube), q, k, v, segments)
    return found, results(by("xla", None), q, k, v, segments)


@pytest.mark.parametrize("width", [90, 128, 300, 1100])
@pytest.mark.parametrize("packs", [True, False])
def test_blocks_of_queries_are_the_whole_square(width, packs):
    """One block, whole ones, a last one that is shorter, and blocks twice as wide."""
    lengths = [(width // 2, 1, width // 3), (width - 40,)]
    positions, segments = (
        np.concatenate(x) for x in zip(*(pack(each, width) for each in lengths), strict=True)
    )
    if not packs:
        positions = np.arange(width)[None].repeat(2, 0)
    q, k, v = normal(2, width, 4, 8), normal(2, width, 2, 8), normal(2, width, 2, 8)
    given_segments = segments if packs else None

    def whole(q, k, v):
        mask = portable.causal_mask(positions, given_segments)
        return portable.attend(q, jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), mask)

    def blocks(q, k, v):
        return portable.causal(q, k, v, positions, given_segments)

    close(results(blocks, q, k, v, segments), results(whole, q, k, v, segments), jnp.float32)


@pytest.mark.parametrize(
    ("N", "K", "H", "dtype"),
    [(6, 2, 128, jnp.bfloat16), (4, 4, 64, jnp.float32), (3, 1, 128, jnp.float32)],
)
def test_splash_is_portable(interpreted, N, K, H, dtype):
    found, wanted = both("tpu", packed_inputs(N, K, H, dtype))
    assert found[0].shape == (2, WIDTH, N, H)
    close(found, wanted, dtype)


def test_splash_without_segments(interpreted):
    q, k, v, _, _ = packed_inputs(4, 2, 64, jnp.float32)
    positions = np.arange(WIDTH)[None].repeat(2, 0)
    got, wanted = (
        seam.packed(q, k, v, positions, None, name=name, mesh=None) for name in ("tpu", "xla")
    )
    close(got, wanted, jnp.float32)


def test_splash_goes_back_in_one_kernel():
    """Two would both make the scores anew; `planning/kernels.py` counts the one."""
    q, k, v, _, segments = packed_inputs(4, 2, 64, jnp.float32)
    gradient = jax.grad(lambda *x: splash.attend(*x, segments).sum(), argnums=(0, 1, 2))
    names = re.findall(r"name=(splash_mha_\w+?)_", str(jax.make_jaxpr(gradient)(q, k, v)))
    assert {*names} == {f"splash_mha_{part}" for part in ("fwd", "dkv")}


def test_splash_on_a_mesh(interpreted):
    """Rows over data, heads over tp."""
    cube = mesh.make(2, 1, 2, devices=jax.devices()[:4])
    found, wanted = both("tpu", packed_inputs(4, 2, 64, jnp.float32), cube)
    close(found, wanted, jnp.float32)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_splash_in_the_scanned_decoder(interpreted, params, shape, remat):
    positions, segments = pack((30, 50, 10), 100)
    tokens = RNG.integers(0, shape.vocab_size, (1, 100))

    def total(params, name):
        model = Transformer(shape, remat=remat, attention=name)
        hidden, _ = model.apply({"params": params}, tokens, positions, segments)
        return jnp.sum(jnp.sin(hidden) * (segments > 0)[..., None])

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    close(gradient(params, "tpu"), gradient(params, "xla"), jnp.float32)


@pytest.mark.parametrize("segmented", [True, False])
def test_cudnn_is_called_as_jax_has_it(segmented):
    """The call with jax's own implementation; and that the real one is asked for."""
    q, k, v, positions, segments = packed_inputs(4, 2, 64, jnp.float32)
    if not segmented:
        positions, segments = np.arange(WIDTH)[None].repeat(2, 0), np.ones_like(segments)
    given_segments = segments if segmented else None
    found = results(lambda q, k, v: cudnn.attend(q, k, v, given_segments, "xla"), q, k, v, segments)
    wanted = results(
        lambda q, k, v: seam.packed(q, k, v, positions, given_segments, name="xla", mesh=None),
        q, k, v, segments,
    )  # fmt: skip
    close(found, wanted, jnp.float32)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    if jax.default_backend() == "cpu":
        with pytest.raises(RuntimeError, match="cuDNN is not detected"):
            seam.packed(*half, positions, given_segments, name="gpu", mesh=None)


# Decoding: what is live of the cache.


def test_a_row_without_a_token_is_no_work():
    last_B = jnp.asarray([0, 127, 384, 383, 500])
    assert live.lengths(last_B, 384).tolist() == [1, 128, 0, 384, 0]


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 50), min_size=4, max_size=4),
    st.sampled_from([1, 7, 16, 50]),
)
def test_the_plan_is_the_live_blocks_and_no_other(lengths, block):
    work = live.plan(jnp.asarray(lengths), 50, block)
    visited = list(zip(work.row_I.tolist(), work.block_I.tolist(), strict=True))[: int(work.count)]
    wanted = [(b, j) for b, n in enumerate(lengths) for j in range(-(-n // block))]
    assert visited == wanted


@pytest.mark.parametrize(
    ("kv_heads", "wanted"), [(1, 1024), (2, 512), (3, 256), (8, 128), (32, 128)]
)
def test_a_block_is_half_a_mebibyte_or_the_smallest(kv_heads, wanted):
    bytes_of_a_position = 2 * kv_heads * 128 * 2
    assert live.block_size(bytes_of_a_position, 4096, live.STEP_BYTES) == wanted
    assert live.block_size(bytes_of_a_position, 128, live.STEP_BYTES) == 128


def decode_inputs(K, G, H, dtype, lengths, capacity):
    """Queries and a cache of three layers, with NaN wherever no row has got to."""
    L, B = 3, len(lengths)
    k, v = normal(L, B, K, capacity, H), normal(L, B, K, capacity, H)
    for b, length in enumerate(lengths):
        k[:, b, :, length:] = v[:, b, :, length:] = NAN
    return tuple(jnp.asarray(x, dtype) for x in (normal(B, K * G, H), k, v))


def portable_decode(q_BNH, k_LBKSH, v_LBKSH, layer, lengths):
    """The same, one row at a time, from the live part alone."""
    rows = []
    for b, n in enumerate(lengths):
        if n == 0:
            rows.append(jnp.zeros_like(q_BNH[b]))
            continue
        k, v = (x[layer, b : b + 1, :, :n] for x in (k_LBKSH, v_LBKSH))
        rows.append(portable.attend(q_BNH[b : b + 1, None], k, v, np.ones((1, 1, n), bool))[0, 0])
    return jnp.stack(rows)


# One token; a block's last, its successor; a full row; nobody.
EDGES = (1, 128, 0, 384, 129, 255, 256, 257)


ANY = tuple(RNG.integers(0, 385, 5).tolist())


@pytest.mark.parametrize(
    ("K", "G", "H", "dtype", "lengths", "tiles"),
    [
        (2, 3, 128, jnp.float32, EDGES, 1),
        (2, 3, 128, jnp.bfloat16, EDGES, 2),
        (1, 6, 128, jnp.float32, (0, 0, 5), 1),
        (3, 1, 128, jnp.float32, ANY, 1),
        (2, 4, 256, jnp.bfloat16, (77, 384), 1),
    ],
)
def test_the_kernel_reads_live_positions_of_its_layer(interpreted, K, G, H, dtype, lengths, tiles):
    """With two tiles a block the capacity of three is no multiple of it."""
    q, k, v = decode_inputs(K, G, H, dtype, lengths, 384)
    step_bytes = tiles * 128 * 2 * K * H * jnp.dtype(dtype).itemsize
    run = jax.jit(lambda *x: live.attend(*x, step_bytes=step_bytes))
    got = run(q, k, v, jnp.int32(1), jnp.asarray(lengths, jnp.int32))
    assert got.dtype == dtype
    close(got, portable_decode(q, k, v, 1, lengths), dtype)


def test_the_kernel_reads_the_slots_of_its_rows(interpreted):
    lengths, slots = (0, 129, 384, 70, 255), jnp.asarray([3, 1, 9, 4])  # 9: nobody's
    q, k, v = decode_inputs(2, 3, 128, jnp.float32, lengths, 384)
    wanted = portable_decode(q, k, v, 1, lengths)
    length_B = jnp.asarray([70, 129, 0, 255], jnp.int32)
    rows = jnp.asarray([3, 1, 0, 4])
    got = jax.jit(live.attend)(q[rows], k, v, jnp.int32(1), length_B, slots)
    close(got, wanted[rows], jnp.float32)


def test_the_kernel_leaves_its_bounds_and_its_fresh_memory_alone():
    lengths = (0, 129, 384)
    q, k, v = decode_inputs(2, 3, 128, jnp.float32, lengths, 384)
    with pltpu.force_tpu_interpret_mode():
        got = jax.jit(live.attend)(q, k, v, jnp.int32(2), jnp.asarray(lengths, jnp.int32))
    close(got, portable_decode(q, k, v, 2, lengths), jnp.float32)


@pytest.mark.parametrize("sizes", [None, (2, 1, 2)])
def test_decoding_in_the_decoder(interpreted, make_params, shape, sizes):
    """A step of every slot, some of them nobody's, written and read on its own device."""
    wide = dataclasses.replace(shape, heads=4, head_dim=128)
    params = make_params(wide)
    tokens, lengths = RNG.integers(0, 48, (4, 1)), np.asarray([0, 127, 384, 200])
    contents = [normal(3, 4, 2, 384, 128) for _ in range(2)]

    def step(name, at):
        cache = Cache.zeros(wide, 4, 384, jnp.float32, at)
        weights = params if at is None else jax.device_put(params, shardings(params, at))
        cache = jax.tree.unflatten(
            jax.tree.structure(cache),
            [
                jax.device_put(x, old.sharding)
                for x, old in zip(contents, jax.tree.leaves(cache), strict=True)
            ],
        )
        positions = lengths[:, None]  # 384 is the capacity: no token
        model = Transformer(wide, mesh=at, attention=name)
        run = jax.jit(
            lambda params, cache: model.apply(
                {"params": params}, tokens, positions, cache=cache, window=Window(None, positions)
            )
        )
        hidden, cache = run(weights, cache)
        assert np.isfinite(hidden).all()
        return hidden[lengths < 384], cache

    cube = None if sizes is None else mesh.make(*sizes, devices=jax.devices()[:4])
    close(step("tpu", cube), step("xla", None), jnp.float32)


# The choice.


def test_auto_is_the_platform_and_falls_back_aloud_once(monkeypatch):
    seam._say.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seam.choose("auto", None, "decoding", {"tpu": ""}) == "tpu"
    with pytest.warns(UserWarning, match="decoding uses portable .* tpu: its own kernel is odd"):
        assert seam.choose("auto", None, "decoding", {"tpu": "kernel is odd"}) == "xla"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seam.choose("auto", None, "decoding", {"tpu": "kernel is odd"}) == "xla"
    with pytest.warns(UserWarning, match="head_dim .* not 64"):
        q = jnp.zeros((1, 1, 2, 64))
        assert seam.choose("auto", None, "decoding", {"tpu": live.misfit(q)}) == "xla"


def test_the_meshs_devices_decide(monkeypatch):
    """A program for a TPU may be compiled on a machine without one, and the reverse."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert seam.choose("auto", mesh.make(), "training", {}) == "xla"
    assert seam.choose("auto", None, "training", {}) == "tpu"


def test_what_is_asked_for_and_does_not_fit_is_an_error(shape, params):
    tokens = positions = np.zeros((1, 4), np.int32)
    odd = Transformer(shape, dtype=jnp.float16, attention="tpu")
    with pytest.raises(UserError, match=r'attention is "tpu", whose training kernel .* float16'):
        odd.apply({"params": params}, tokens, positions)
    with pytest.raises(UserError, match=r'attention is "gpu", whose training kernel .* float32'):
        Transformer(shape, attention="gpu").apply({"params": params}, tokens, positions)
    narrow = Transformer(shape, attention="tpu")
    cache = Cache.zeros(shape, 1, 4, jnp.float32)
    window = Window(rows_R=None, positions_RT=positions[:, :1])
    with pytest.raises(UserError, match=r"decoding kernel takes a head_dim .* not 10"):
        narrow.apply(
            {"params": params}, tokens[:, :1], positions[:, :1], cache=cache, window=window
        )
    with pytest.raises(UserError, match="attention is 'flash'; expected one of auto, xla"):
        Transformer(shape, attention="flash").apply({"params": params}, tokens, positions)


@pytest.mark.parametrize(
    ("T", "H", "dtype", "wanted"),
    [
        (8, 128, jnp.bfloat16, ""),
        (8, 64, jnp.float16, ""),
        (7, 64, jnp.bfloat16, "even length, not 7"),
        (8, 60, jnp.bfloat16, "not 60"),
        (8, 256, jnp.bfloat16, "not 256"),
        (8, 64, jnp.float32, "not float32"),
    ],
)
def test_what_cudnn_takes(T, H, dtype, wanted):
    found = cudnn.misfit(jnp.zeros((1, T, 2, H), dtype))
    assert found.endswith(wanted) and bool(found) == bool(wanted)


def test_what_splash_takes():
    assert not splash.misfit(jnp.zeros((1, 7, 2, 60), jnp.bfloat16))
    assert splash.misfit(jnp.zeros((1, 8, 2, 64), jnp.float16))
