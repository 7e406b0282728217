"""The count of work against unrolled programs, XLA's own analysis, and arithmetic."""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from torl_jax.planning import cost, hlo, topology
from torl_jax.planning.trips import UnknownTrips


def counted(program, *args, facts=None):
    compiled = jax.jit(program).lower(*args).compile()
    xla: Any = compiled.cost_analysis()
    return cost.count(hlo.of(compiled), facts), xla


def shape(*dims, dtype=jnp.float32, sharding=None):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


def layer(x, w):
    return jax.nn.gelu(x @ w) + x


def scanned(x, w):
    return jax.lax.scan(lambda x, w: (layer(x, w), None), x, w)[0].sum()


def unrolled(x, ws):
    for w in ws:
        x = layer(x, w)
    return x.sum()


@pytest.mark.parametrize("grad", [False, True])
def test_a_scan_counts_as_its_unrolled_form_does_for_xla(grad):
    x, w, ws = shape(64, 512), shape(7, 512, 512), [shape(512, 512)] * 7
    a, b = (jax.grad(f, argnums=(0, 1)) if grad else f for f in (scanned, unrolled))
    ours, _ = counted(a, x, w)
    mine, xla = counted(b, x, ws)
    assert mine.flops == pytest.approx(xla["flops"], rel=0.01)
    assert ours.flops == pytest.approx(xla["flops"], rel=0.01)
    # A loop's bytes differ from those of the unrolled program: it slices and stacks.
    assert mine.bytes == pytest.approx(xla["bytes accessed"], rel=0.1)


@pytest.mark.parametrize("times", [1, 9])
def test_the_bytes_of_a_loop_are_those_that_xla_counts_once(times):
    def program(n, x, w):
        def body(i, carry):
            x, out = carry
            x = layer(x, jax.lax.dynamic_index_in_dim(w, i % 7, 0, keepdims=False))
            return x, jax.lax.dynamic_update_index_in_dim(out, x, i % 7, 0)

        return jax.lax.fori_loop(0, n, body, (x, jnp.zeros((7, *x.shape))))

    args = shape(dtype=jnp.int32), shape(64, 512), shape(7, 512, 512)
    ours, xla = counted(program, *args, facts=cost.Facts(trips={"while": times}))
    none, _ = counted(program, *args, facts=cost.Facts(trips={"while": 0}))
    body = (ours.bytes - none.bytes) / times
    assert none.bytes + body == pytest.approx(xla["bytes accessed"], rel=0.05)
    assert (ours.flops - none.flops) / times == pytest.approx(2 * 64 * 512**2, rel=0.02)


def test_trips_multiply_through_nested_loops():
    def program(x):
        def outer(_, x):
            return jax.lax.fori_loop(0, 5, lambda _, y: y @ y, x)

        return jax.lax.fori_loop(2, 9, outer, x)

    ours, _ = counted(program, shape(64, 64))
    assert ours.flops == pytest.approx(7 * 5 * 2 * 64**3, rel=0.01)


def test_trips_that_are_data_must_be_given():
    def program(x, n):
        return jax.lax.fori_loop(0, n, lambda _, y: y @ y, x)

    args = shape(64, 64), shape(dtype=jnp.int32)
    with pytest.raises(UnknownTrips, match="the loop 'while'"):
        counted(program, *args)
    facts = cost.Facts(trips={"while": 12})
    assert counted(program, *args, facts=facts)[0].flops == pytest.approx(12 * 2 * 64**3, rel=0.01)


def test_a_branch_is_the_costliest_or_the_known_one():
    def program(which, x):
        return jax.lax.cond(which, lambda x: x @ x @ x, lambda x: x @ x, x)

    args = shape(dtype=jnp.bool_), shape(64, 64)
    assert counted(program, *args)[0].flops == pytest.approx(4 * 64**3, rel=0.01)
    known = cost.Facts(branches={"cond": 0})
    assert counted(program, *args, facts=known)[0].flops == pytest.approx(2 * 64**3, rel=0.01)


def test_a_slice_moves_the_slice_and_an_update_in_place_the_update():
    def program(table, row, i):
        piece = jax.lax.dynamic_index_in_dim(table, i, 0, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(table, piece * 2 + row, i, 0)

    args = shape(1000, 64, 64), shape(64, 64), shape(dtype=jnp.int32)
    compiled = jax.jit(program, donate_argnums=0).lower(*args).compile()
    ours = cost.count(hlo.of(compiled))
    one = 64 * 64 * 4
    assert 3 * one <= ours.bytes < 8 * one


def test_convolutions_count_real_places_only():
    def program(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (2,), [(2, 1)], lhs_dilation=(2,), rhs_dilation=(2,),
            dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2,
        )  # fmt: skip

    ours, xla = counted(program, shape(4, 16, 8), shape(5, 4, 6))
    assert ours.flops == pytest.approx(xla["flops"], rel=1e-6)


def test_a_product_written_as_a_convolution_with_holes_counts_as_the_product():
    """As the TPU compiler writes [2, 2, 512, 128] by [2, 2, 512, 128] over the last axis."""
    module = hlo.parse(
        "ENTRY %f (q: f32[512,2,128,1], k: f32[512,2,2,128]) -> f32[2,512,512,2] {\n"
        "  %q = f32[512,2,128,1]{3,2,1,0} parameter(0)\n"
        "  %k = f32[512,2,2,128]{3,2,1,0} parameter(1)\n"
        "  ROOT %r = f32[2,512,512,2]{3,2,1,0} convolution(%q, %k), window={size=2x2 "
        "pad=0_0x1_1 lhs_dilate=2x1 rhs_reversal=0x1}, dim_labels=b0f1_o01i->0bf1\n}\n"
    )
    assert cost.count(module).flops == 2 * 2 * 2 * 512 * 512 * 128


def test_collectives_by_kind_bytes_and_count():
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(2, 4), ("a", "b"))
    n, part = 4, 16 * 64 * 4  # devices in a group, bytes of a device's part

    def one(_, x):
        x = jax.lax.all_gather(jnp.sin(x), "b", axis=0, tiled=True)
        x = jax.lax.psum_scatter(jnp.cos(x), "b", scatter_dimension=0, tiled=True)
        x = jax.lax.all_to_all(jnp.sin(x), "b", 1, 0, tiled=True).reshape(x.shape)
        x = jax.lax.ppermute(jnp.cos(x), "b", [(i, (i + 1) % n) for i in range(n)])
        return x + jax.lax.psum(jnp.sin(x), "b")

    @jax.shard_map(
        mesh=mesh, in_specs=PartitionSpec("b"), out_specs=PartitionSpec("b"), check_vma=False
    )
    def program(x):
        return jax.lax.fori_loop(0, 3, one, x)

    ours, _ = counted(program, shape(64, 64, sharding=NamedSharding(mesh, PartitionSpec("b"))))
    expected = {
        "all-gather": (n - 1) * part,
        "reduce-scatter": (n - 1) * part,
        "all-to-all": (n - 1) / n * part,
        "collective-permute": part,
        "all-reduce": 2 * (n - 1) / n * part,
    }
    found = {kind: (c.count, c.bytes) for kind, c in ours.collectives.items()}
    assert found == {kind: (3, 3 * size) for kind, size in expected.items()}
    assert ours.sent == pytest.approx(3 * sum(expected.values()))


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2},{3,4,5}}", 3),
        ("[2,8]<=[16]", 8),
        ("[4,4]<=[4,4]T(1,0)", 4),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", 4),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", 8),
    ],
)
def test_group_sizes(groups, size):
    program = "ENTRY %f (x: f32[8]) -> f32[8] {\n  ROOT %r = f32[8]{0} all-reduce(), a=1, "
    module = hlo.parse(program + f"replica_groups={groups}, to_apply=%add\n}}\n")
    assert cost.group_size(module.entry.root) == size


@pytest.mark.libtpu
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_scan_counts_as_its_unrolled_form_on_a_tpu(monkeypatch):
    """There products are convolutions, and what lies in on-chip memory moves nothing."""
    for key, value in topology.COMPILER.items():
        monkeypatch.setenv(key, value)
    target = topology.parse("v5e:2x2")
    topology.prepare(target)
    one = Mesh(np.asarray(topology.devices(target)[:1]), ("x",))
    whole = NamedSharding(one, PartitionSpec())
    size, layers = 2048, 6
    x = shape(256, size, dtype=jnp.bfloat16, sharding=whole)
    w = shape(layers, size, size, dtype=jnp.bfloat16, sharding=whole)
    ws = [shape(size, size, dtype=jnp.bfloat16, sharding=whole)] * layers
    ours, _ = counted(jax.grad(scanned, argnums=(0, 1)), x, w)
    _, xla = counted(jax.grad(unrolled, argnums=(0, 1)), x, ws)
    assert ours.flops == pytest.approx(xla["flops"], rel=0.01)
    # Forward, backward: each reads the weights; the gradients are written. 48 MiB a time
    # cannot stay on the chip.
    assert 1.0 < ours.bytes / (3 * layers * size * size * 2) < 1.5
