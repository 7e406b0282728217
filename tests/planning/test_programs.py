"""The planner's counts of the real programs, on eight fake devices."""

import dataclasses
import functools
import json

import jax
import pytest

from torl_jax import config
from torl_jax.model.config import ModelConfig
from torl_jax.model.published import PUBLISHED
from torl_jax.planning import cost, estimate, hlo, programs, topology
from torl_jax.planning.measure import Measured
from torl_jax.planning.plan import Planner, changed, flags, halves
from torl_jax.planning.programs import ANNOTATE, DECODE, EXTEND, HANDOFF, NAMES, UPDATE

SHAPE = {
    "vocab_size": 512, "d_model": 128, "layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 32,
    "d_mlp": 256, "tied": True, "max_positions": 512,
}  # fmt: skip


def recipe(layers: int = 1, **sections) -> config.Config:
    parts = {
        "model": {"random": True, "overrides": SHAPE | {"layers": layers}},
        "mesh": {"data": 2, "fsdp": 2, "tp": 2},
        "sampler": {
            "slots": 8, "max_prompt": 32, "max_response": 96, "segment": 4, "ladder": (32,),
            "tp": 2,
        },
        "learner": {"row_tokens": 128, "microbatch_rows": 8, "head_chunk": 1024},
        "rl": {"problems_per_step": 4, "group_size": 4},
    }  # fmt: skip
    for section, values in sections.items():
        parts[section] = parts.get(section, {}) | values
    return config.parse(parts)


def run_of(cfg: config.Config) -> programs.Run:
    shape, vocab = programs.architecture(cfg.model)
    return programs.Run(cfg, shape, vocab, jax.devices(), jax.devices())


@functools.cache
def program(name: str, layers: int = 1, segment: int = 4):
    """(run, compiled program, its text read) of a recipe."""
    run = run_of(recipe(layers, sampler={"segment": segment}))
    made = run.lower(name).compile()
    return run, made, hlo.of(made)


def load(microbatches: int) -> programs.Load:
    return programs.Load(prompt=16, response=48, microbatches=microbatches)


def counted(name: str, microbatches: int = 1, **sizes) -> cost.Cost:
    run, _, module = program(name, **sizes)
    return cost.count(module, run.facts(name, load(microbatches)))


@pytest.mark.parametrize("name", [UPDATE, ANNOTATE])
def test_one_trip_is_what_xla_counts_and_more_are_as_much_more(name):
    """With a layer, a microbatch and a chunk of the head each loop runs once: XLA is right."""
    one, xla = counted(name), program(name)[1].cost_analysis()
    assert one.flops == pytest.approx(xla["flops"], rel=0.01)
    assert one.bytes == pytest.approx(xla["bytes accessed"], rel=0.15)
    none, three = counted(name, 0), counted(name, 3)
    assert three.flops - none.flops == pytest.approx(3 * (one.flops - none.flops), rel=1e-6)


def test_layers_count_each():
    one, two, five = (counted(ANNOTATE, layers=n).flops for n in (1, 2, 5))
    assert five - two == pytest.approx(3 * (two - one), rel=0.02)


def test_decode_counts_each_step():
    short, long = counted(DECODE), counted(DECODE, segment=8)
    assert 1.8 < long.flops / short.flops < 2.05


def test_the_update_is_near_the_arithmetic():
    run = program(UPDATE)[0]
    # Full remat goes forward twice, the portable attention looks at all pairs and not at half.
    assert 1.0 < counted(UPDATE, 2).flops / run.model_flops(load(2)) < 1.7


WIDE = {"vocab_size": 8192, "d_model": 512, "head_dim": 128, "d_mlp": 2048, "layers": 2}


@pytest.mark.parametrize(("remat", "most"), [("none", 1.05), ("dots", 1.15), ("full", 1.38)])
def test_little_is_computed_twice(remat, most):
    """Products are nearly all; rows are no multiple of the head's chunks."""
    sizes = {"row_tokens": 320, "microbatch_rows": 8, "head_chunk": 256, "remat": remat}
    cfg = recipe(model={"overrides": SHAPE | WIDE}, learner=sizes)
    run = run_of(cfg)
    module = hlo.of(run.lower(UPDATE).compile())
    ratio = cost.count(module, run.facts(UPDATE, load(1))).flops / run.model_flops(load(1))
    assert 1.0 < ratio < most


def test_short_rows_are_branches_of_the_update_and_whole_ones_are_planned_for():
    run = run_of(recipe(learner={"rungs": 2}))
    found = cost.count(hlo.of(run.lower(UPDATE).compile()), run.facts(UPDATE, load(3)))
    assert found.flops == pytest.approx(counted(UPDATE, 3).flops, rel=0.01)


def test_what_others_hold_is_what_is_no_argument():
    arguments = {name: program(name)[1].memory_analysis() for name in NAMES}
    arguments = {name: found.argument_size_in_bytes for name, found in arguments.items()}
    run = program(UPDATE)[0]
    everything = programs.device_bytes(run.state) + programs.device_bytes((run.weights, run.cache))
    # Beside so small a model the table of stops is no little.
    arguments[DECODE] -= 2 * programs.STATES * run.shape.vocab_size
    for name in (HANDOFF, EXTEND, DECODE):
        # Numbers, rows and marks of ends come on top.
        assert arguments[name] + run.held(name) == pytest.approx(everything, rel=0.02)
    # The update has a batch as well.
    assert arguments[UPDATE] + run.held(UPDATE) > everything


def test_a_filter_by_perplexity_holds_a_reference_and_runs_it_once():
    plain, odd = recipe(), recipe(filters={"samples": ("perplexity",)})
    bare, run = program(UPDATE)[0], run_of(odd)
    for name in NAMES:
        more = run.held(name) - bare.held(name)
        assert more == programs.device_bytes(run.state.params) > 0, name
    assert (estimate.annotations(plain), estimate.annotations(odd)) == (0, 1)
    pulled = recipe(rl={"kl_coef": 0.1}, filters={"samples": ("perplexity",)})
    assert estimate.annotations(pulled) == 1, "the KL's log-probs serve the filter"
    # No KL is paid: the update has nothing of the reference's.
    assert run._batch(annotated=True).ref_logp is None
    assert run_of(pulled)._batch(annotated=True).ref_logp is not None


def test_published_architectures_are_those_of_the_files(request):
    folder = request.config.rootpath / "tests" / "golden" / "published"
    for name in ("Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-32B"):
        file = folder / f"{name.split('/')[1].lower()}.json"
        assert PUBLISHED[name].config == ModelConfig.from_hf(json.loads(file.read_text()))


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-Math-7B", 7.62),
        ("Qwen/Qwen2.5-7B", 7.62),
        ("Qwen/Qwen2.5-32B", 32.76),
        ("Qwen/Qwen2.5-1.5B", 1.54),
    ],
)
def test_published_sizes(name, billions):
    assert PUBLISHED[name].config.parameter_count / 1e9 == pytest.approx(billions, abs=0.01)


def measured(**seconds: float) -> dict[str, Measured]:
    """Programs that take so long on a chip of one FLOP a second."""
    return {name: Measured(name, 0, 0.0, flops=seconds.get(name, 0.0)) for name in NAMES}


def test_a_step_is_the_sum_of_its_phases():
    chip = dataclasses.replace(
        topology.CHIPS["v5p"], flops=1.0, hbm_bandwidth=1.0, ici_bandwidth=1.0
    )
    cfg = recipe(rl={"minibatches": 2})
    load = estimate.expected(cfg, None, None)
    assert (load.prompt, load.response) == (16, 48)
    costs = measured(handoff=3.0, extend=1.0, decode=2.0, annotate=5.0, update=7.0)
    step = estimate.step(cfg, load, costs, chip, samplers=2)
    phases = {phase.name: phase.runs for phase in step.phases}
    # Eight episodes a sampler in eight slots: the longest, 96 tokens, decides; 4 a segment.
    assert phases == {"handoff": 1, "extend": 2, "decode": 24, "annotate": 2, "update": 2}
    assert step.seconds == 3 + 2 * 1 + 24 * 2 + 2 * 5 + 2 * 7
    assert step.tokens_per_second == pytest.approx(16 * 48 / step.seconds)


def test_halves():
    assert halves(64, 16) == [64, 32, 16]
    assert halves(48, 16) == [48]
    assert halves(6, 1) == [6, 3]


def test_flags_say_what_changed():
    before = recipe()
    after = changed(before, "full", 4, 2)
    assert flags(before, after) == [
        "--config.sampler.slots=2",
        "--config.learner.microbatch_rows=4",
    ]


def small_chip(gib: float) -> topology.Slice:
    """This machine's devices with so much memory each."""
    chip = dataclasses.replace(topology.CHIPS["v5p"], name="cpu", usable_gib=gib, host=(8,))
    return dataclasses.replace(topology.parse("cpu:8"), chip=chip)


def test_a_proposal_is_the_smallest_change_that_fits():
    """Devices just too small for the cache: what is proposed was compiled, and fits."""
    cfg = recipe(sampler={"slots": 4096})
    roomy = Planner(small_chip(1e9))
    plan = roomy.plan(cfg)
    assert plan.fits
    limit = 0.9 * max(found.needed for found in plan.programs.values())
    tight = Planner(small_chip(limit / 2**30))
    tight.known = roomy.known
    proposal = tight.proposal(tight.plan(cfg))
    assert proposal is not None and proposal.fits
    assert flags(cfg, proposal.cfg) == ["--config.sampler.slots=2048"]
    assert max(found.needed for found in proposal.programs.values()) <= limit


def test_nothing_fits_on_nothing():
    planner = Planner(small_chip(1e-9))
    # Neither slots nor rows can be split further over the mesh.
    cfg = recipe(sampler={"slots": 4}, learner={"microbatch_rows": 4})
    planner.program = lambda run, name, load: Measured(name, 0, 0.0, argument=100)
    plan = planner.plan(cfg)
    assert not plan.fits
    assert planner.proposal(plan) is None
