"""What tools cost a rollout, by three schedules: measured with real sleeps, and as events.

    python -m benchmarks.latency --out docs/benchmarks.md

A small model writes what a script of recorded lengths says, and tools answer as late as they did,
in proportion: a step here stands for a step of STEP seconds. What a step costs, by rows and what
they hold, is measured by itself; what runs should take is predicted from that, measured and
compared, and the same prediction is made for a whole step of training, which no machine here could
sample.
"""

import argparse
import collections
import dataclasses
import itertools
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks import report
from benchmarks.latency import probe, schedules, simulate
from benchmarks.latency.scripted import Scripted
from benchmarks.latency.simulate import Clock, Costs
from benchmarks.latency.workload import CAP, KINDS, MEAN, scripts

STEP = 0.025  # seconds of a decode step of the model that is stood for
EPISODES, SLOTS, SEGMENT = 256, 32, 32  # measured
FULL, FULL_SLOTS, FULL_SEGMENT = 2048, 256, 16  # predicted; segments as the recipes have them
CALLS = 2


@dataclasses.dataclass(frozen=True)
class Run:
    """One schedule, once: seconds that it took and should have taken, and what it decoded."""

    seconds: float
    predicted: float
    use: float
    read: int


def small(rounds: int) -> dict[tuple[str, int], list[Run]]:
    """Runs of each schedule and most calls, in turn: a machine's speed changes by the minute.

    What a run should take follows from what decoding and reading cost just before and after it.
    """
    engines = {
        calls: Scripted(scripts(EPISODES, calls, 0), slots=SLOTS, segment=SEGMENT, compact=True)
        for calls in (0, CALLS)
    }
    for engine in engines.values():  # nothing is to compile later
        probe.costs(engine)
    pace = step_seconds(engines[0]) / STEP
    runs = collections.defaultdict(list)
    for turn in range(rounds):
        for name, calls in itertools.product(schedules.SCHEDULES, engines):
            engine = engines[calls]
            before = probe.costs(engine)
            begin = time.perf_counter()
            schedules.SCHEDULES[name](engine, pace)
            seconds = time.perf_counter() - begin
            tally = engine.reset_tally()
            guess = statistics.mean(
                simulate.SCHEDULES[name](engine.scripts, SLOTS, SEGMENT, pace, found).seconds
                for found in (before, probe.costs(engine))
            )
            use = tally.decoded_tokens / tally.slot_steps
            runs[name, calls].append(Run(seconds, guess, use, tally.read_tokens))
            print(
                f"{turn}: {name}, {calls} calls: {seconds:.1f} s, predicted {guess:.1f}",
                flush=True,
            )
    return dict(runs)


def step_seconds(engine: Scripted) -> float:
    """What a step of a run without calls takes."""
    begin = time.perf_counter()
    schedules.ours(engine, 0.0)
    return (time.perf_counter() - begin) / (engine.tally.segments * SEGMENT)


def measured(runs: Mapping[tuple[str, int], Sequence[Run]]) -> tuple[list[list[str]], float]:
    """Rows of the table of what was measured, and how far off the worst prediction is."""
    out, worst = [], 0.0
    for (name, calls), each in runs.items():
        base = [run.seconds for run in runs[name, 0]]
        seconds = [run.seconds for run in each]
        penalty = [b / a for a, b in zip(base, seconds, strict=True)]
        off = statistics.median(run.predicted / run.seconds for run in each) - 1
        worst = max(worst, abs(off))
        guess = statistics.median(run.predicted for run in each)
        out.append([
            name if not calls else "", str(calls), report.spread(seconds, 1),
            report.spread(penalty, 2), f"{each[-1].use:.0%}", f"{guess:.1f} ({off:+.0%})",
            f"{each[-1].read:,}",
        ])  # fmt: skip
    return out, worst


def whole() -> list[list[str]]:
    """Rows of the table of a whole training step's rollout, on a clock."""
    sizes = [FULL_SLOTS >> k for k in range(4)]
    flat = Costs(dict.fromkeys(sizes, ((0,), (STEP,))), STEP, rows=16, width=1024, segment=0.002)
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
    rows, worst = measured(small(rounds))
    mix = ", ".join(f"{share:.0%} {seconds:g} s" for share, seconds in KINDS.values())
    head = ["schedule", "calls, at most", "seconds", "over no calls", "use", "predicted", "read"]
    return "\n\n".join([
        f"`{report.command(MODULE)}`, {rounds} rounds in turn: median (range). "
        f"{report.conditions(load, 'jax')}",
        f"Responses lognormal, mean {MEAN}, at most {CAP} tokens; tools {mix}. Measured: "
        f"{EPISODES} episodes over {SLOTS} slots. What a run should take follows from "
        f"what steps and reading cost just before and after it; worst prediction {worst:.0%} off.",
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
