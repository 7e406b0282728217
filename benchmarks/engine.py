"""The rollout engine by itself: a step's time against fill, what is computed twice, who waits.

    python -m benchmarks.engine --out docs/benchmarks.md

Fill: one decode step while 32 rows hold so many tokens, in caches of two capacities. Counters:
rollouts of the recipes in the repository, with their bases, their stops and a sandbox. Waiting:
256 slots that are refilled, each call to the device timed from its start to its end; what is
between two calls is the host's, and the device has nothing to do meanwhile.
"""

import argparse
import functools
import importlib
import itertools
import os
import statistics
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from benchmarks import report
from benchmarks.latency.scripted import DONE
from benchmarks.peers import spec
from benchmarks.peers.torl import SHAPE
from torl_jax import config, parts, workshop
from torl_jax import problems as recipes
from torl_jax.episode import Author, Call, Observation, Problem
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.protocols.text import Tokenizer
from torl_jax.protocols.torl import ToRL
from torl_jax.rollout import Rollout
from torl_jax.sampler.engine import Engine
from torl_jax.sampler.sampling import Settings
from torl_jax.sampler.slots import Slot

ROOT = Path(__file__).parent.parent
ROWS, STEPS = 32, 16
CAPACITIES = (1024, 4096)
FILLS = (64, 256, 512, 900, 2048, 3072, 3900)
SLOTS, SEGMENT, GROUP, PROMPT, NEW = 256, 32, 16, 64, 256
SAMPLES = 16
SEGMENTS = (8, 16, 32)
RECIPES = ("quickstart:", "emergence:", "emergence:control")


def engine(slots: int, capacity: int, segment: int, kind=Engine, vocab=spec.VOCAB) -> Any:
    """One of the benchmark's model, compiled; it samples the first `vocab` ids."""
    made = kind(
        Transformer(SHAPE), slots=slots, capacity=capacity, segment=segment, extend_rows=16,
        end_V=np.zeros(spec.VOCAB, bool), stop_SV=np.zeros((1, spec.VOCAB), np.uint16),
        vocab=vocab, ladder=(32, 512),
    )  # fmt: skip
    made.load(initialise(SHAPE, jax.random.key(0)), jax.random.key(1), Settings.of())
    made.warm_up()
    return made


def step_times(rounds: int) -> dict[int, dict[int, list[float]]]:
    """Milliseconds of a step by capacity and fill: so many tokens in each of the rows.

    Caches of all capacities in turn: a machine's speed changes by the minute.
    """
    engines = {capacity: engine(ROWS, capacity, STEPS) for capacity in CAPACITIES}
    out: dict[int, dict[int, list[float]]] = {capacity: {} for capacity in CAPACITIES}
    for fill in FILLS:
        fitting = {c: made for c, made in engines.items() if fill + STEPS * (rounds + 1) <= c}
        slots = {capacity: _fill(made, fill) for capacity, made in fitting.items()}
        for made in fitting.values():
            made.decode()  # reads the prompt
        for _, capacity in itertools.product(range(rounds), fitting):
            begin = time.perf_counter()
            fitting[capacity].decode()
            each = 1e3 * (time.perf_counter() - begin) / STEPS
            out[capacity].setdefault(fill, []).append(each)
        for capacity, made in fitting.items():
            for slot in slots[capacity]:
                made.release(slot)
    return out


def _fill(made: Engine, tokens: int) -> list[Slot]:
    prompt = np.random.default_rng(tokens).integers(1, spec.VOCAB, tokens).tolist()
    room = made.capacity - tokens
    return [made.admit(prompt, problem=0, sample=i, budget=room, watch=False) for i in range(ROWS)]


@functools.partial(jax.jit, static_argnames="steps")
def products(params, x_BD: jax.Array, steps: int) -> jax.Array:
    """The products with weights of so many decode steps and nothing else; each needs the last."""
    blocks = params["blocks"]
    layers = [jax.tree.map(lambda w, k=k: w[k], blocks) for k in range(SHAPE.layers)]

    def step(_, x_BD):
        for layer in layers:
            heads, mlp = layer["attention"], layer["mlp"]
            q, k, v = (jnp.tensordot(x_BD, heads[name], 1) for name in ("q_DNH", "k_DKH", "v_DKH"))
            q = q + jnp.repeat(k + v, SHAPE.heads // SHAPE.kv_heads, axis=1)
            x_BD = x_BD + jnp.tensordot(q, heads["o_NHD"], 2)
            wide = (x_BD @ mlp["gate_DF"]) * (x_BD @ mlp["up_DF"])
            x_BD = x_BD + wide @ mlp["down_FD"]
        return x_BD + jnp.max(x_BD @ params["embed_VD"].T, axis=-1, keepdims=True)

    return jax.lax.fori_loop(0, steps, step, x_BD)


def floor(rounds: int) -> list[float]:
    """Milliseconds that the products with weights of one decode step take."""
    params = initialise(SHAPE, jax.random.key(0))
    x_BD = jax.random.normal(jax.random.key(1), (ROWS, SHAPE.d_model)) * 1e-6
    jax.block_until_ready(products(params, x_BD, 64))
    out = []
    for _ in range(rounds):
        begin = time.perf_counter()
        jax.block_until_ready(products(params, x_BD, 64))
        out.append(1e3 * (time.perf_counter() - begin) / 64)
    return out


def fill_table(times: dict[int, dict[int, list[float]]]) -> str:
    """Milliseconds a step, a column for each capacity."""
    rows = [
        [str(fill), *(report.spread(t[fill], 1) if fill in t else "-" for t in times.values())]
        for fill in FILLS
    ]
    return report.table(["tokens held", *(f"ms, capacity {c}" for c in times)], rows)


def counters(recipe: str, segment: int) -> list[str]:
    """One rollout of a recipe's first problems: read, decoded and overshot tokens."""
    name, _, argument = recipe.partition(":")
    raw = importlib.import_module(f"configs.{name}").get_config(argument)
    raw.sampler.segment = segment
    cfg = config.parse(raw)
    shape = parts.model_config(cfg.model)
    shop = workshop.open(cfg)
    try:
        over = parts.sampling_mesh(cfg.sampler, shape, jax.devices())
        rollout = parts.rollout(cfg, parts.transformer(cfg, shape).clone(mesh=over), shop.env)
        params = parts.params(cfg.model, shape, 0, over)
        rollout.engine.load(params, jax.random.key(0), Settings.of())
        rollout.engine.reset_tally()
        some = recipes.read(cfg).training[: 1024 // SAMPLES]
        episodes = rollout.collect(some, SAMPLES).episodes
    finally:
        shop.close()
    tally = rollout.engine.tally
    prompts = {e.problem.id: e.segments[0].tokens for e in episodes}
    unique = sum(len(tokens) - 1 for tokens in prompts.values())  # the last is decoded
    tools = sum(episode.count(Author.TOOL) for episode in episodes)
    written = sum(episode.count(Author.POLICY) for episode in episodes)
    return [
        recipe, str(segment), f"{unique:,}", f"{tools:,}", f"{tally.read_tokens:,}",
        f"{tally.read_tokens / (unique + tools):.3f}", f"{tally.decoded_tokens:,}",
        f"{tally.rewound_tokens / tally.decoded_tokens:.2%}", f"{written / tally.slot_steps:.0%}",
    ]  # fmt: skip


class Answers:
    """An environment that answers at once what random text may happen to ask."""

    def open(self, problem: Problem) -> "Answers":
        """No state."""
        del problem
        return self

    def submit(self, call: Call) -> "Future[Observation]":
        """Done already."""
        del call
        answer: Future[Observation] = Future()
        answer.set_result(DONE)
        return answer

    def close(self) -> None:
        """Nothing to close."""


class Clocked(Engine):
    """Notes when each call to the device begins and ends; nothing is dispatched ahead."""

    def __init__(self, *args, **how) -> None:
        super().__init__(*args, **how)
        self.spans: list[tuple[float, float]] = []

    def _segment(self, batch):
        return self._clocked(functools.partial(super()._segment, batch))

    def _extend(self, group, step) -> None:
        self._clocked(functools.partial(super()._extend, group, step))

    def _fork(self, slots) -> None:
        if slots:
            self._clocked(functools.partial(super()._fork, slots))

    def _clocked(self, call):
        begin = time.perf_counter()
        found = call()
        jax.block_until_ready((found, self.cache))
        self.spans.append((begin, time.perf_counter()))
        return found


def idle(rounds: int) -> tuple[str, list[tuple[float, float]]]:
    """A table of what the host takes between calls to the device, and one round's calls."""
    text = Tokenizer(ROOT / "assets/tiny-thoughts")
    made = engine(SLOTS, PROMPT + NEW, SEGMENT, Clocked, len(text))
    markup = ToRL("{question}", calls=1, past="text")
    rollout = Rollout(made, text, markup, Answers(), max_prompt=PROMPT, max_response=NEW)
    asked = [Problem(id=str(n), question=f"What is {n} * {n}?", answer="") for n in range(32)]
    host, device = [], []
    for n in range(rounds + 1):
        made.spans = []
        made.reset_tally()
        begin = time.perf_counter()
        rollout.collect(asked, GROUP)
        whole = time.perf_counter() - begin
        busy = sum(end - start for start, end in made.spans)
        segments = made.tally.segments
        if n:  # the first is for warming up
            host.append(1e3 * (whole - busy) / segments)
            device.append(1e3 * busy / segments)
    share = [a / (a + b) for a, b in zip(host, device, strict=True)]
    rows = [["measured here", report.spread(device, 0), report.spread(host, 1), _percent(share)]]
    for step in (5.0, 10.0, 25.0):
        share = [a / (a + step * SEGMENT) for a in host]
        rows.append(
            [f"with steps of {step:g} ms", f"{step * SEGMENT:g}", "the same", _percent(share)]
        )
    head = ["", "ms of a segment on the device", "ms of the host", "device idle"]
    return report.table(head, rows), made.spans


def _percent(shares: list[float]) -> str:
    return report.spread([100 * share for share in shares], 1) + " %"


def picture(
    times: dict[int, dict[int, list[float]]], spans: list[tuple[float, float]], path: Path
) -> None:
    """Left a step's time against fill; right, when the device works."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for (capacity, found), colour in zip(times.items(), (report.ORANGE, report.BLUE), strict=True):
        middle = [statistics.median(values) for values in found.values()]
        left.plot(list(found), middle, "o-", color=colour, label=f"capacity {capacity}")
    left.set(xlabel="tokens that each of 32 rows holds", ylabel="ms a decode step", ylim=(0, None))
    left.legend(frameon=False)
    middle = spans[len(spans) // 2][1]  # where a segment ends
    bars = [(1e3 * (begin - middle), 1e3 * (end - begin)) for begin, end in spans]
    right.broken_barh(bars, (0, 1), color=report.BLUE)
    right.set(xlabel="ms around a segment's end", xlim=(-40, 60), ylim=(-0.5, 1.5))
    right.set(yticks=[0.5], yticklabels=["device"])
    right.set_title(f"{SLOTS} slots: white is the host's", fontsize=9)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=report.count, default=5)
    parser.add_argument(
        "--out",
        type=report.holding("engine"),
        help="a file with this section",
    )
    args = parser.parse_args()
    matplotlib.use("Agg")
    load = os.getloadavg()[0]
    times = step_times(args.rounds)
    bare = floor(args.rounds)
    waiting, spans = idle(args.rounds)
    counted = [counters(recipe, segment) for recipe in RECIPES for segment in SEGMENTS]
    head = [
        "recipe", "segment", "unique prompt tokens", "tool tokens", "read", "read / both",
        "decoded", "overshot", "slot use",
    ]  # fmt: skip
    body = "\n\n".join([
        f"`{report.command(MODULE)}`, {args.rounds} rounds: median (range). "
        f"{report.conditions(load, 'jax')}",
        f"{ROWS} rows, the model of the section above:",
        fill_table(times),
        "The products with weights of such a step alone, in a loop without attention, cache or "
        f"sampling, take {report.spread(bare, 2)} ms: {1e3 * ROWS / statistics.median(bare):,.0f} "
        "tokens a second at the most.",
        f"{SLOTS} slots, {SEGMENT} steps a segment, {NEW} tokens a row, {2 * SLOTS} episodes:",
        waiting,
        f"Rollouts of 64 problems, {SAMPLES} samples of each, untrained bases:",
        report.table(head, counted),
    ])  # fmt: skip
    if args.out is None:
        print(body)
    else:
        name = f"{args.out.stem}_engine.png"
        picture(times, spans, args.out.with_name(name))
        report.write_section(args.out, "engine", f"{body}\n\n![time against fill]({name})")
    return 0


MODULE = "benchmarks.engine"

if __name__ == "__main__":
    sys.exit(main())
