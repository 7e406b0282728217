"""The reader of HLO text: types, layouts, operands and attributes."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.planning import hlo

TEXT = "\n".join(
    [
        "HloModule m, entry_computation_layout={(f32[4]{0})->f32[4]{0}}",
        "",
        "%add (a: f32[], b: f32[]) -> f32[] {",
        "  %a = f32[]{:T(128)} parameter(0)",
        "  %b = f32[]{:T(128)} parameter(1)",
        "  ROOT %sum = f32[]{:T(128)} add(%a, %b)",
        "}",
        "",
        "ENTRY %main (p: f32[4,100]) -> (f32[4], bf16[3,5]) {",
        '  %p = f32[4,100]{1,0:T(8,128)} parameter(0), metadata={op_name="a,b=\\"c"}',
        "  %zero = f32[]{:T(128)} constant(0), frontend_attributes={notes={",
        '"block": "512"',
        "}}, k=v",
        "  %r = f32[4]{0:T(128)S(1)} reduce(%p, %zero), dimensions={1}, "
        'to_apply=%add, metadata={op_name="jit(f)/reduce(x)"}',
        "  ROOT %t = (f32[4]{0:T(128)S(1)}, (bf16[3,5]{1,0:T(8,128)(2,1)}, /*index=1*/"
        'u32[]{:S(2)})) custom-call(%r), custom_call_target="x", backend_config={"k":"}, z=1"}',
        "}",
    ]
)


def test_a_program_is_read():
    module = hlo.parse(TEXT)
    entry = module.entry
    assert list(module.computations) == ["add", "main"] and entry.name == "main"
    assert entry.root.name == "t" and entry.root.operands == ("r",)
    assert entry.root.nested == (1, 2)
    assert entry.root.attribute("custom_call_target") == '"x"'
    assert entry.root.attribute("backend_config") == '{"k":"}, z=1"}'
    assert entry.root.attribute("z") == ""
    reduce = entry.instructions["r"]
    assert reduce.operands == ("p", "zero") and reduce.called("to_apply") == ("add",)
    assert reduce.op_name == "jit(f)/reduce(x)"
    assert entry.instructions["zero"].attribute("k") == "v"
    assert [i.name for i in entry.users["p"]] == ["r"]
    assert [i.name for i in module.computations["add"].parameters] == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "size", "moved"),
    [
        ("f32[4,100]{1,0:T(8,128)}", 1600, 8 * 128 * 4),  # padded to a tile
        ("f32[4,100]{0,1:T(8,128)}", 1600, 104 * 128 * 4),  # the other axis is minor
        ("bf16[2,3,5]{2,1,0:T(8,128)(2,1)}", 60, 2 * 8 * 128 * 2),
        ("f32[4,100]{1,0}", 1600, 1600),  # no tiles on a CPU
        ("f32[4,100]{1,0:T(8,128)S(1)}", 1600, 0),  # not in HBM
        ("s32[]", 4, 4),
        ("s4[8]{0}", 4, 4),
        ("f8e4m3fn[8]{0}", 8, 8),
    ],
)
def test_bytes_of_an_array(kind, size, moved):
    (array,) = hlo.arrays(kind)
    assert (array.bytes, array.moved) == (size, moved)


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule m\n")


@given(st.recursive(st.sampled_from(["f32[2]{0}", "s32[]", "bf16[3,4]{1,0:T(8,128)(2,1)}"]),
                    lambda kinds: st.lists(kinds, min_size=1, max_size=4)))  # fmt: skip
def test_elements_of_a_tuple_type(kind):
    def write(kind) -> str:
        return kind if isinstance(kind, str) else "(" + ", ".join(map(write, kind)) + ")"

    top = [kind] if isinstance(kind, str) else kind
    assert [part.strip() for part in hlo.elements(write(kind))] == [write(part) for part in top]


def test_every_operand_of_a_compiled_program_is_there():
    program = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y @ y), x))
    module = hlo.of(program.lower(jnp.ones((8, 8))).compile())
    for computation in module.computations.values():
        for instruction in computation.instructions.values():
            assert set(instruction.operands) <= set(computation.instructions)
