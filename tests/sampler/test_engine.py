"""The engine's relations: however it is driven, a row samples the same tokens."""

import itertools

import jax
import numpy as np
import pytest

from torl_jax.compilation import Counter
from torl_jax.model import heads
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.parallel import mesh
from torl_jax.parallel.sharding import shardings
from torl_jax.sampler.engine import Engine
from torl_jax.sampler.sampling import Settings
from torl_jax.stops import DONE

V = 60
SHAPE = ModelConfig(
    vocab_size=64, d_model=32, layers=2, heads=4, kv_heads=2, head_dim=8, d_mlp=64,
    rope_theta=1e4, tied=True,
)  # fmt: skip
MODEL = Transformer(SHAPE)


@pytest.fixture(scope="module")
def params():
    tree = initialise(SHAPE, jax.random.key(3))
    # Larger weights than at birth, so that contexts matter and errors show.
    return jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, tree)


def make(
    params,
    *,
    slots=4,
    segment=5,
    end=(),
    stop=(),
    capacity=64,
    ladder=(4, 16),
    over=None,
    compact=True,
) -> Engine:
    end_V, stop_SV = np.zeros(64, bool), np.zeros((2, 64), np.uint16)
    end_V[list(end)] = True
    if stop:  # these tokens one after the other, at most two
        *first, last = stop
        stop_SV[:, first] = 1
        stop_SV[len(first), last] = DONE
    engine = Engine(
        MODEL.clone(mesh=over), slots=slots, capacity=capacity, segment=segment, extend_rows=3,
        end_V=end_V, stop_SV=stop_SV, vocab=V, ladder=ladder, compact=compact,
    )  # fmt: skip
    if over is not None:
        params = jax.device_put(params, shardings(params, over))
    engine.load(params, jax.random.key(7), Settings.of())
    return engine


def run(engine: Engine, requests, budget=20):
    """Samples all (prompt, problem, sample) requests to their budget; tokens and logps."""
    waiting, owner, out = list(enumerate(requests)), {}, {}
    while waiting or owner:
        while waiting and engine.free:
            i, (prompt, problem, sample) = waiting.pop(0)
            slot = engine.admit(prompt, problem=problem, sample=sample, budget=budget, watch=False)
            owner[slot.index] = i
            out[i] = ([], [])
        for chunk in engine.decode():
            i = owner[chunk.slot.index]
            out[i][0].extend(chunk.tokens)
            out[i][1].extend(chunk.logps)
            if chunk.slot.remaining <= 0:
                engine.release(chunk.slot)
                del owner[chunk.slot.index]
    return [out[i] for i in range(len(requests))]


PROMPTS = [tuple(range(n, 2 * n)) for n in (6, 11, 3)]
REQUESTS = [(p, problem, g) for problem, p in enumerate(PROMPTS) for g in range(4)]


@pytest.fixture(scope="module")
def reference(params):
    return run(make(params), REQUESTS)


def same(got, wanted):
    assert [tokens for tokens, _ in got] == [tokens for tokens, _ in wanted]
    for (_, a), (_, b) in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("segment", [1, 3, 20])
def test_segmented_is_one_shot(params, reference, segment):
    same(run(make(params, segment=segment), REQUESTS), reference)


@pytest.mark.parametrize("slots", [1, 2, 12])
def test_any_number_of_slots(params, reference, slots):
    same(run(make(params, slots=slots), REQUESTS), reference)


def test_order_of_arrival_changes_nothing(params, reference):
    order = np.random.default_rng(0).permutation(len(REQUESTS))
    got = run(make(params), [REQUESTS[i] for i in order])
    same(got, [reference[i] for i in order])


def test_samples_of_a_group_differ(reference):
    for problem in range(len(PROMPTS)):
        group = [tuple(tokens) for tokens, _ in reference[problem * 4 : problem * 4 + 4]]
        assert len(set(group)) == 4


def test_keys_depend_on_problem_seed_and_place(params):
    prompt = PROMPTS[0]
    a, b = run(make(params), [(prompt, 0, 0), (prompt, 1, 0)])
    assert a[0] != b[0]
    other = make(params)
    other.load(params, jax.random.key(8), Settings.of())
    assert run(other, [(prompt, 0, 0)])[0][0] != a[0]


def test_logps_are_those_of_the_whole_sequence(params, reference):
    for i in (0, 5, 11):
        prompt, (tokens, logps) = REQUESTS[i][0], reference[i]
        sequence = np.asarray([*prompt, *tokens])[None]
        hidden, _ = MODEL.apply({"params": params}, sequence, np.arange(sequence.size)[None])
        targets = np.roll(sequence, -1, axis=1)
        wanted, _ = heads.token_scores(params, hidden, targets, vocab=V)
        np.testing.assert_allclose(logps, wanted[0, len(prompt) - 1 : -1], atol=1e-5)


def test_padding_rows_of_the_head_are_never_sampled(reference):
    assert max(t for tokens, _ in reference for t in tokens) < V


@pytest.mark.parametrize("slots", [1, 3, 12])
def test_a_prompt_is_read_once_a_group(params, slots):
    engine = make(params, slots=slots)
    run(engine, REQUESTS)
    # The last token of a prompt is fed by the decoder.
    assert engine.tally.read_tokens == sum(len(prompt) - 1 for prompt in PROMPTS)


def test_new_weights_void_what_was_read(params, reference):
    engine = make(params)
    other = jax.tree.map(lambda x: x * 0.5, params)
    engine.load(other, jax.random.key(7), Settings.of())
    run(engine, REQUESTS)
    engine.load(params, jax.random.key(7), Settings.of())
    same(run(engine, REQUESTS), reference)


def test_weights_are_not_swapped_under_a_row(params):
    engine = make(params)
    engine.admit(PROMPTS[0], problem=0, sample=0, budget=5, watch=False)
    with pytest.raises(RuntimeError, match="between rollouts"):
        engine.load(params, jax.random.key(0), Settings.of())


def continue_with(engine, slot, tokens):
    """Feeds `tokens` and samples to the budget; the continuation."""
    engine.feed(slot, tokens)
    slot.live = True
    out = []
    while slot.remaining > 0:
        (chunk,) = engine.decode()
        out += zip(chunk.tokens, chunk.logps, strict=True)
    return out


def test_feed_after_rewind_is_as_if_never_overshot(params):
    fed = [9, 8, 7, 6, 5, 4]
    outs = []
    for overshoot in (0, 1, 4):
        engine = make(params, segment=4 + overshoot)
        slot = engine.admit(PROMPTS[1], problem=5, sample=0, budget=30, watch=False)
        (chunk,) = engine.decode()
        assert len(chunk.tokens) == 4 + overshoot
        engine.rewind(slot, overshoot)
        outs.append((chunk.tokens[:4], continue_with(engine, slot, fed)))
    for tokens, out in outs[1:]:
        assert tokens == outs[0][0]
        assert [t for t, _ in out] == [t for t, _ in outs[0][1]]
        np.testing.assert_allclose([x for _, x in out], [x for _, x in outs[0][1]], atol=1e-5)


@pytest.mark.parametrize("count", [1, 4, 5, 17])
def test_fed_tokens_of_any_length_equal_a_longer_prompt(params, count):
    fed = [10 + i % 40 for i in range(count)]
    engine = make(params)
    slot = engine.admit(PROMPTS[1], problem=5, sample=0, budget=40, watch=False)
    slot.live = False
    out = continue_with(engine, slot, fed)
    sequence = np.asarray(slot.tokens)[None]
    hidden, _ = MODEL.apply({"params": params}, sequence, np.arange(sequence.size)[None])
    wanted, _ = heads.token_scores(params, hidden, np.roll(sequence, -1, axis=1), vocab=V)
    start = len(PROMPTS[1]) + count - 1
    np.testing.assert_allclose([x for _, x in out], wanted[0, start:-1], atol=1e-5)


def test_a_paused_row_costs_no_step_and_loses_nothing(params, reference):
    engine = make(params, segment=20)
    a = engine.admit(PROMPTS[0], problem=0, sample=0, budget=20, watch=False)
    b = engine.admit(PROMPTS[0], problem=0, sample=1, budget=20, watch=False)
    a.live = False
    (chunk,) = engine.decode()
    assert chunk.slot is b and chunk.tokens == tuple(reference[1][0])
    b.live, a.live = False, True
    (chunk,) = engine.decode()
    assert chunk.slot is a and chunk.tokens == tuple(reference[0][0])


def test_ends_and_stops_stop_a_row_on_the_device(params, reference):
    tokens = reference[0][0]
    mark, pair = tokens[3], tokens[6:8]
    first = tokens.index(mark)
    both = next(i for i, two in enumerate(itertools.pairwise(tokens)) if list(two) == pair) + 1
    for marks, watch, count in (
        ({"end": [mark]}, False, first + 1),
        ({"stop": [mark]}, True, first + 1),
        ({"stop": [mark]}, False, 20),
        ({"stop": pair}, True, both + 1),
        ({"stop": pair[::-1]}, True, 20),
    ):
        engine = make(params, segment=20, **marks)
        engine.admit(PROMPTS[0], problem=0, sample=0, budget=20, watch=watch)
        (chunk,) = engine.decode()
        assert len(chunk.tokens) == count
        assert engine.tally.slot_steps == count * 4


UNEVEN = [4, 30, 9, 9, 17, 2, 12, 5, 26, 8, 21, 6]


def uneven(engine: Engine, waits: bool = False):
    """REQUESTS with budgets of their own; with `waits` every third row waits for two segments."""
    slots, out, parked = [], [([], []) for _ in REQUESTS], {}
    for i, ((prompt, problem, sample), budget) in enumerate(zip(REQUESTS, UNEVEN, strict=True)):
        slot = engine.admit(prompt, problem=problem, sample=sample, budget=budget, watch=False)
        slots.append(slot)
        if waits and i % 3 == 0:
            slot.live, parked[i] = False, 2
    while any(slot.taken for slot in slots):
        for chunk in engine.decode():
            i = slots.index(chunk.slot)
            out[i][0].extend(chunk.tokens)
            out[i][1].extend(chunk.logps)
            if chunk.slot.remaining <= 0:
                engine.release(chunk.slot)
        for i in [i for i, left in parked.items() if left == 0]:
            slots[i].live = True
            del parked[i]
        parked = {i: left - 1 for i, left in parked.items()}
    return out


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("sizes", [None, (2, 1, 2), (4, 1, 1)])
def test_few_live_rows_are_decoded_among_themselves(params, sizes, waits):
    """The same tokens as with all slots in every step, in fewer rows."""
    over = None if sizes is None else mesh.make(*sizes, devices=jax.devices()[:4])
    engine, whole = make(params, slots=64, over=over), make(params, slots=64, compact=False)
    same(uneven(engine, waits), uneven(whole, waits))
    assert whole.tally.slot_steps >= 64 * max(UNEVEN)
    # On a mesh all of them are one way's here, and the others' rows go idle beside them.
    assert engine.tally.slot_steps < whole.tally.slot_steps * 0.6
    assert engine.tally.decoded_tokens == whole.tally.decoded_tokens == sum(UNEVEN)


def test_rows_of_all_lengths_are_decoded_as_far_as_each_has_read(params):
    def run(compact):
        engine = make(params, slots=32, capacity=1024, ladder=(64,), compact=compact)
        for i in range(29):
            prompt = [4 + (i + t) % (V - 4) for t in range(1 + 97 * i % 700)]
            engine.admit(prompt, problem=i, sample=0, budget=20, watch=False)
        chunks = [chunk for _ in range(2) for chunk in engine.decode()]
        return engine.decoder.by_length, [c.tokens for c in chunks], [c.logps for c in chunks]

    (by_length, tokens, logps), (plainly, wanted, wanted_logps) = run(True), run(False)
    assert by_length and not plainly and not make(params, slots=16).decoder.by_length
    assert len(tokens) == 58 and tokens == wanted
    np.testing.assert_allclose(logps, wanted_logps, atol=1e-4)


def test_nothing_compiles_after_warm_up_whatever_lives(params):
    engine = make(params, slots=64, over=mesh.make(2, 1, 2, devices=jax.devices()[:4]))
    engine.warm_up()
    counter = Counter()
    uneven(engine)
    assert counter.count == 0


def test_nothing_compiles_after_warm_up(params):
    jax.clear_caches()
    counter = Counter()
    engine = make(params)
    run(engine, REQUESTS)
    slot = engine.admit(PROMPTS[2], problem=5, sample=0, budget=40, watch=True)
    slot.live = False
    continue_with(engine, slot, [5] * 17)
    engine.release(slot)
    assert counter.count > 0
    other = jax.tree.map(lambda x: x * 0.9, params)
    counted = counter.count
    engine.load(other, jax.random.key(1), Settings.of(temperature=0.7, top_k=5, top_p=0.9))
    prompts = [tuple(range(4, 4 + n)) for n in (3, 9, 5, 8)]
    run(engine, [(p, i, g) for i, p in enumerate(prompts) for g in range(3)], budget=13)
    slot = engine.admit(prompts[0], problem=5, sample=0, budget=40, watch=True)
    slot.live = False
    continue_with(engine, slot, [5] * 11)
    assert counter.count == counted


OWN = [
    Settings.of(0.0), Settings.of(0.6, 4), Settings.of(1.5), None, Settings.of(1.0, 0, 0.5), None
]  # fmt: skip


def drive(engine, each):
    """One row of the first prompt for each of the settings; the tokens."""
    waiting, tokens = list(enumerate(each)), {}
    while waiting or any(slot.taken for slot in engine.table.slots):
        while waiting and engine.free:
            i, settings = waiting.pop(0)
            slot = engine.admit(
                PROMPTS[0], problem=9, sample=i, budget=12, watch=False, settings=settings
            )
            tokens[i] = slot.tokens
        for chunk in engine.decode():
            if chunk.slot.remaining <= 0:
                engine.release(chunk.slot)
    return [tokens[i] for i in range(len(each))]


def test_a_rows_own_settings_are_its_own(params):
    engine = make(params)
    engine.warm_up()
    counter = Counter()
    mixed = drive(engine, OWN)
    assert counter.count == 0
    for settings in {id(own): own for own in OWN}.values():
        other = make(params)
        other.load(params, jax.random.key(7), settings or Settings.of())
        alone = drive(other, [None] * len(OWN))
        for i, own in enumerate(OWN):
            if own is settings:
                assert mixed[i] == alone[i]


def test_only_the_very_prompt_is_taken_for_read(params):
    """What a longer row read of its beginning was read in other steps."""
    engine = make(params, slots=2)
    run(engine, [(PROMPTS[1], 0, 0)])
    before = engine.tally.read_tokens
    run(engine, [(PROMPTS[1][:5], 1, 0)])
    assert engine.tally.read_tokens - before == 4
    run(engine, [(PROMPTS[1][:5], 1, 1)])
    assert engine.tally.read_tokens - before == 4


@pytest.mark.parametrize("sizes", [(2, 1, 2), (4, 1, 1), (1, 2, 2), (8, 1, 1)])
def test_any_mesh_samples_the_same(params, reference, sizes):
    over = mesh.make(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    engine = make(params, slots=8, over=over)
    same(run(engine, REQUESTS), reference)
    assert engine.cache.k_LBKSH.sharding.shard_shape(engine.cache.k_LBKSH.shape)[1:3] == (
        8 // (sizes[0] * sizes[1]), 2 // sizes[2]
    )  # fmt: skip


def test_on_a_mesh_nothing_compiles_after_warm_up(params):
    engine = make(params, slots=8, over=mesh.make(2, 1, 2, devices=jax.devices()[:4]))
    engine.warm_up()
    counter = Counter()
    run(engine, REQUESTS)
    assert counter.count == 0


def test_each_way_reads_its_own_rows_in_few_calls(params):
    """Eight slots on four ways, three rows a call asked for: one row of each way a call."""
    engine = make(params, slots=8, over=mesh.make(4, 1, 1, devices=jax.devices()[:4]))
    assert engine.extend_rows == 4
    slots = [
        engine.admit((i, *PROMPTS[2]), problem=i, sample=0, budget=5, watch=False) for i in range(8)
    ]
    groups = engine._groups(slots)
    assert [[(row, slot.index) for row, slot in group] for group in groups] == [
        [(0, 0), (1, 2), (2, 4), (3, 6)], [(0, 1), (1, 3), (2, 5), (3, 7)]
    ]  # fmt: skip


def test_capacity_is_checked(params):
    with pytest.raises(ValueError, match="capacity 64"):
        make(params).admit(tuple(range(60)), problem=0, sample=0, budget=5, watch=False)
