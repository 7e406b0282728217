"""What tools cost a rollout, by three schedules: measured with real sleeps, and as events.

    python -m benchmarks.latency --out docs/benchmarks.md

A small model writes what a script of recorded lengths says, and tools answer as late as they did,
in proportion: a step here stands for a step of STEP seconds. What segments cost is taken from
runs without calls; what runs with calls should take is then predicted, measured and compared, and
the same prediction is made for a whole step of training, which no machine here could sample.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks import report
from benchmarks.latency import schedules, simulate
from benchmarks.latency.scripted import PROMPT, Scripted
from benchmarks.latency.simulate import Clock, Costs
from benchmarks.latency.workload import CAP, KINDS, MEAN, Script, scripts

STEP = 0.025  # seconds of a decode step of the model that is stood for
EPISODES, SLOTS, SEGMENT = 256, 32, 32  # measured
FULL, FULL_SLOTS, FULL_SEGMENT = 2048, 256, 32  # predicted
CALLS = 2


class Timed(Scripted):
    """Notes what each segment took: rows, steps, tokens of its longest row, texts read, seconds."""

    def begin(self) -> None:
        """As `Scripted`, with nothing noted."""
        super().begin()
        self.notes: list[tuple[int, int, float, int, float]] = []
        self.texts = 0

    def decode(self):
        """As `Scripted`."""
        longest = max(len(slot.tokens) for slot in self.table.slots if slot.live) - PROMPT
        self.texts, before, begin = 0, self.tally.slot_steps, time.perf_counter()
        chunks = super().decode()
        rows = self.rows
        steps = (self.tally.slot_steps - before) // rows
        seconds = time.perf_counter() - begin
        self.notes.append((rows, steps, longest + steps / 2, self.texts, seconds))
        return chunks

    def _segment(self, batch):
        self.rows = len(batch)
        return super()._segment(batch)

    def _extend(self, group, step) -> None:
        self.texts += 1
        super()._extend(group, step)


def costs(engine: Timed, seconds: float) -> Costs:
    """What the run that has just ended says; least squares for each number of rows."""
    step, held, read = {}, {}, []
    for rows in engine.batch_sizes:
        noted = np.asarray([note[1:] for note in engine.notes if note[0] == rows])
        if len(noted) < 3:
            continue
        steps, longest, texts, took = noted.T
        known = np.stack([steps, steps * longest, texts], axis=1)
        (each, more, reading), *_ = np.linalg.lstsq(known, took, rcond=None)
        step[rows], held[rows] = float(each), float(more)
        read += [float(reading)] * int(texts.sum())
    outside = seconds - sum(note[-1] for note in engine.notes)
    texts = max(statistics.mean(read), 0.0) if read else 0.0
    return Costs(step, outside / len(engine.notes), texts, engine.extend_rows, held)


def measured(each: Sequence[Script], name: str, pace: float, rounds: int) -> tuple[list, Timed]:
    """Seconds of some runs of one schedule, and the engine after the last."""
    engine = Timed(each, slots=SLOTS, segment=SEGMENT, compact=True)
    seconds = []
    for _ in range(rounds):
        engine.begin()
        begin = time.perf_counter()
        schedules.SCHEDULES[name](engine, pace)
        seconds.append(time.perf_counter() - begin)
    return seconds, engine


def small(rounds: int) -> tuple[list[list[str]], float]:
    """Rows of the table of what was measured, and how far off the worst prediction is."""
    free = scripts(EPISODES, 0, 0)
    quiet, engine = measured(free, "torl_jax", 0.0, 2)
    found = costs(engine, quiet[-1])
    took = sum(note[-1] for note in engine.notes if note[0] == SLOTS)
    pace = took / sum(note[1] for note in engine.notes if note[0] == SLOTS) / STEP
    out, worst = [], 0.0
    for name, schedule in simulate.SCHEDULES.items():
        base: list[float] = []
        for calls in (0, CALLS):
            each = scripts(EPISODES, calls, 0)
            seconds, engine = measured(each, name, pace, rounds)
            base = base or seconds
            guess = schedule(each, SLOTS, SEGMENT, pace, found)
            off = guess.seconds / statistics.median(seconds) - 1
            worst = max(worst, abs(off))
            use = engine.tally.decoded_tokens / engine.tally.slot_steps
            penalty = [b / a for a, b in zip(base, seconds, strict=True)]
            out.append([
                name if not calls else "", str(calls), report.spread(seconds, 1),
                report.spread(penalty, 2), f"{use:.0%}", f"{guess.seconds:.1f} ({off:+.0%})",
                f"{engine.tally.read_tokens:,}",
            ])  # fmt: skip
            print(f"{name}, {calls} calls: {out[-1][2]} s, predicted {out[-1][5]}", flush=True)
    return out, worst


def whole() -> list[list[str]]:
    """Rows of the table of a whole training step's rollout, on a clock."""
    sizes = [FULL_SLOTS >> k for k in range(4)]
    flat = Costs(dict.fromkeys(sizes, STEP), 0.002, STEP, 16)
    out = []
    for name, schedule in simulate.SCHEDULES.items():
        base = 0.0
        for calls in (0, 1, CALLS, 3):
            each = scripts(FULL, calls, 0)
            clock: Clock = schedule(each, FULL_SLOTS, FULL_SEGMENT, 1.0, flat)
            base = base or clock.seconds
            use = sum(script.tokens for script in each) / clock.slot_steps
            out.append([
                name if not calls else "", str(calls), f"{clock.seconds:.0f}",
                f"{clock.seconds / base:.2f}", f"{use:.0%}",
            ])  # fmt: skip
    return out


def body(rounds: int) -> str:
    """The whole section."""
    load = os.getloadavg()[0]
    rows, worst = small(rounds)
    mix = ", ".join(f"{share:.0%} {seconds:g} s" for share, seconds in KINDS.values())
    head = ["schedule", "calls, at most", "seconds", "over no calls", "use", "predicted", "read"]
    return "\n\n".join([
        f"`{report.command(MODULE)}`, {rounds} rounds: median (range). "
        f"{report.conditions(load, 'jax')}",
        f"Responses lognormal, mean {MEAN}, at most {CAP} tokens; tools {mix}. Measured: "
        f"{EPISODES} episodes over {SLOTS} slots. Worst prediction {worst:.0%} off.",
        report.table(head, rows),
        f"On a clock: {FULL:,} episodes over {FULL_SLOTS} slots, {STEP * 1000:g} ms a step "
        "whatever the rows, segments of "
        f"{FULL_SEGMENT} steps.",
        report.table(["schedule", "calls, at most", "seconds", "over no calls", "use"], whole()),
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=report.count, default=5)
    parser.add_argument("--out", type=report.holding("latency"), help="a file with this section")
    args = parser.parse_args()
    text = body(args.rounds)
    if args.out is None:
        print(text)
    else:
        report.write_section(args.out, "latency", text)
    return 0


MODULE = "benchmarks.latency"

if __name__ == "__main__":
    sys.exit(main())
