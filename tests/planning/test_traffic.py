"""HBM traffic and trips as the TPU compiler writes its programs, on small texts of its kind."""

import pytest

from torl_jax.planning import cost, hlo
from torl_jax.planning.trips import UnknownTrips, trips

ROW = 64 * 4  # bytes of f32[64]


def entry(*lines: str, before: str = "") -> hlo.Module:
    body = "\n".join(f"  {line}" for line in lines)
    return hlo.parse(f"{before}\nENTRY %main (p: f32[100,64]) -> f32[64] {{\n{body}\n}}\n")


def fused(name: str, *lines: str) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"%{name} (a: f32[100,64]) -> f32[64] {{\n{body}\n}}\n"


TABLE = "%p = f32[100,64]{1,0} parameter(0)"
PLACE = "%i = s32[] constant(3)"


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        # A slice is read and written, whatever it is cut from.
        ("%r = f32[1,64]{1,0} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,64}", 2 * ROW),
        ("%r = f32[100,64]{1,0} add(%p, %p)", 2 * 100 * ROW),
        ("%r = f32[100,64]{1,0:S(1)} copy(%p)", 100 * ROW),
        ("%r = (f32[100,64]{1,0:S(1)}, f32[100,64]{1,0}, u32[]{:S(2)}) copy-start(%p)", 100 * ROW),
        ("%r = f32[64,100]{0,1} bitcast(%p)", 0),
        ('%r = f32[100,64]{1,0} custom-call(%p), custom_call_target="AllocateBuffer"', 0),
        ('%r = f32[100,64]{1,0} custom-call(%p), custom_call_target="mine"', 2 * 100 * ROW),
    ],
)
def test_one_instruction(line, moved):
    assert cost.count(entry(TABLE, PLACE, f"ROOT {line}")).bytes == moved


def test_a_kernel_is_counted_by_its_rule_or_its_own_estimate():
    call = 'ROOT %r = f32[100,64]{1,0} custom-call(%p), custom_call_target="tpu_custom_call"'
    named = f'{call}, metadata={{op_name="jit(f)/mine/pallas_call"}}'
    rules = {"mine": lambda operands, results: (operands[0].size, results[0].bytes)}
    found = cost.count(entry(TABLE, named), cost.Facts(kernels=rules))
    assert (found.flops, found.bytes) == (6400, 100 * ROW)
    notes = '{"cost_estimate":{"flops":"7","transcendentals":"0","bytes_accessed":"9"}}'
    found = cost.count(entry(TABLE, f"{call}, backend_config={notes}"))
    assert (found.flops, found.bytes) == (7, 9)


def test_a_view_made_in_a_fusion_of_its_own_is_still_read():
    view = fused("view", "%a = f32[100,64]{1,0} parameter(0)",
                 "ROOT %b = f32[6400]{0} bitcast(%a)")  # fmt: skip
    outer = fused(
        "outer", "%a = f32[100,64]{1,0} parameter(0)",
        "%v = f32[6400]{0} fusion(%a), kind=kLoop, calls=%view",
        "ROOT %n = f32[6400]{0:S(1)} negate(%v)",
    )  # fmt: skip
    module = entry(
        TABLE, "ROOT %r = f32[6400]{0:S(1)} fusion(%p), kind=kLoop, calls=%outer",
        before=view + outer,
    )  # fmt: skip
    assert cost.count(module).bytes == 100 * ROW


def test_an_update_in_place_writes_the_update():
    inner = fused(
        "put", "%a = f32[100,64]{1,0} parameter(0)", "%i = s32[] constant(3)",
        "%row = f32[1,64]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,64}",
        "%twice = f32[1,64]{1,0} add(%row, %row)",
        "ROOT %u = f32[100,64]{1,0} dynamic-update-slice(%a, %twice, %i, %i)",
    )  # fmt: skip
    module = entry(
        TABLE, "ROOT %r = f32[100,64]{1,0} fusion(%p), kind=kLoop, calls=%put", before=inner
    )
    assert cost.count(module).bytes == 2 * ROW


def test_an_asynchronous_collective_counts_once():
    """The fusions that it runs beside repeat it; they hand its buffers on."""
    gather = (
        "%g = f32[400,64]{1,0} all-gather(%a), channel_id=1, replica_groups=[1,4]<=[4], "
        'dimensions={0}, frontend_attributes={chain_id="0"}'
    )
    start = fused(
        "start", "%a = f32[100,64]{1,0} parameter(0)", gather,
        "ROOT %s = (f32[100,64]{1,0}, f32[400,64]{1,0}) custom-call(%g), "
        'custom_call_target="AsyncCollectiveStart"',
    )  # fmt: skip
    beside = fused(
        "beside", "%a = f32[100,64]{1,0} parameter(0)", "%b = f32[400,64]{1,0} parameter(1)",
        gather, "%c = f32[64]{0} parameter(2)", "%n = f32[64]{0} negate(%c)",
        "ROOT %t = (f32[64]{0}, f32[100,64]{1,0}, f32[400,64]{1,0}) tuple(%n, %a, %g)",
    )  # fmt: skip
    module = entry(
        TABLE, "%c = f32[64]{0} constant({...})",
        "%s = (f32[100,64]{1,0}, f32[400,64]{1,0}) fusion(%p), kind=kCustom, calls=%start",
        "%x = f32[100,64]{1,0} get-tuple-element(%s), index=0",
        "%y = f32[400,64]{1,0} get-tuple-element(%s), index=1",
        "ROOT %r = (f32[64]{0}, f32[100,64]{1,0}, f32[400,64]{1,0}) fusion(%x, %y, %c), "
        "kind=kOutput, calls=%beside",
        before=start + beside,
    )  # fmt: skip
    found = cost.count(module)
    assert found.collectives == {"all-gather": cost.Collective(1, 3 * 100 * ROW)}
    assert found.bytes == 2 * ROW  # what runs beside it


def loop(
    compare: str, step: str, initial: str = "0", bound: str = "11", then: str = "%n"
) -> hlo.Module:
    """A loop over (place, bound, array) as the TPU compiler leaves it: without a note."""
    state = "(s32[], s32[], f32[64])"
    condition = [
        f"%s = {state} parameter(0)",
        "%i = s32[] get-tuple-element(%s), index=0",
        "%n = s32[] get-tuple-element(%s), index=1",
        "%ten = s32[] constant(10)",
        f"ROOT %c = pred[] compare({compare}",
    ]
    body = [
        f"%s = {state} parameter(0)",
        "%i = s32[] get-tuple-element(%s), index=0",
        "%n = s32[] get-tuple-element(%s), index=1",
        "%x = f32[64]{0} get-tuple-element(%s), index=2",
        "%one = s32[] constant(1)",
        "%two = s32[] constant(2)",
        f"%j = s32[] {step}",
        "%y = f32[64]{0} negate(%x)",
        f"ROOT %t = {state} tuple(%j, {then}, %y)",
    ]
    return entry(
        "%p = f32[64]{0} parameter(0)",
        f"%z = s32[] constant({initial})",
        f"%b = s32[] {'parameter(1)' if bound == 'data' else f'constant({bound})'}",
        f"%t = {state} tuple(%z, %b, %p)",
        f"ROOT %w = {state} while(%t), condition=%test, body=%next, "
        'metadata={op_name="jit(f)/while"}',
        before=fused("test", *condition) + fused("next", *body),
    )


ONE = "add(%i, %one)"


@pytest.mark.parametrize(
    ("compare", "step", "initial", "expected"),
    [
        ("%i, %ten), direction=LT", ONE, "0", 10),
        ("%i, %ten), direction=LE", ONE, "0", 11),
        ("%ten, %i), direction=GT", ONE, "0", 10),
        ("%ten, %i), direction=GE", ONE, "4", 7),
        ("%i, %ten), direction=NE", ONE, "4", 6),
        ("%i, %n), direction=LT", ONE, "0", 11),
        ("%i, %ten), direction=LT", "add(%two, %i)", "1", 5),
        ("%i, %ten), direction=LT", ONE, "20", 0),
    ],
)
def test_trips_of_a_loop_by_its_condition(compare, step, initial, expected):
    module = loop(compare, step, initial)
    assert trips(module.entry.root, module.entry, module, {}) == expected
    assert cost.count(module).flops == expected * (64 + 1) + expected


@pytest.mark.parametrize(
    ("compare", "step", "bound", "then"),
    [
        ("%i, %n), direction=LT", ONE, "data", "%n"),
        ("%i, %n), direction=LT", ONE, "11", "%j"),  # the bound changes
        ("%i, %ten), direction=GT", ONE, "11", "%n"),
        ("%i, %ten), direction=LT", "multiply(%i, %two)", "11", "%n"),
        ("%i, %ten), direction=LT", "add(%i, %n)", "11", "%n"),
    ],
)
def test_trips_that_the_condition_does_not_tell_are_given_or_an_error(compare, step, bound, then):
    module = loop(compare, step, bound=bound, then=then)
    with pytest.raises(UnknownTrips, match="'while'"):
        trips(module.entry.root, module.entry, module, {"while/body/while": 3})
    assert trips(module.entry.root, module.entry, module, {"while": 3}) == 3
