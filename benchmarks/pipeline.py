"""Steps an hour with rollouts one batch ahead of training, beside the same loop without.

    python -m benchmarks.pipeline --out docs/benchmarks.md

The quickstart's model and loop; each program's answer is held back as long as recorded
tools took: 70 % 30 ms, 25 % 300 ms, 5 % a time-out at the recipe's limit. Both loops run in
turn, `--rounds` times.
"""

import argparse
import dataclasses
import json
import os
import random
import statistics
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path

from etils import epath

from benchmarks import report
from configs import quickstart
from torl_jax import config, train, workshop
from torl_jax.envs.base import Environment, Tool
from torl_jax.episode import Call, Observation, Problem
from torl_jax.interrupt import StopSignal

MIX = ((0.70, 0.03), (0.25, 0.3))  # share, seconds; the rest runs into the limit
WARM = 2  # steps that compile
STEPS = 12
PROBLEMS = 32


class Delayed:
    """`env`, whose answers are held back, at most as long as `limit`."""

    def __init__(self, env: Environment, limit: float, seed: int = 0) -> None:
        self._env, self._limit = env, limit
        self._random, self._lock = random.Random(seed), threading.Lock()

    def open(self, problem: Problem) -> Tool:
        """The environment's own tool, behind a delay."""
        return Waiting(self._env.open(problem), self)

    def draw(self) -> float:
        """Seconds of the next call."""
        with self._lock:
            left = self._random.random()
        for share, seconds in MIX:
            left -= share
            if left < 0:
                return seconds
        return self._limit


class Waiting:
    """One episode's tool behind a delay."""

    def __init__(self, tool: Tool, delays: Delayed) -> None:
        self._tool, self._delays = tool, delays

    def submit(self, call: Call) -> "Future[Observation]":
        """The tool's answer, later."""
        seconds, answer = self._delays.draw(), Future[Observation]()
        answer.set_running_or_notify_cancel()

        def settle(done: "Future[Observation]") -> None:
            timer = threading.Timer(seconds, lambda: pass_on(done, answer))
            timer.daemon = True
            timer.start()

        self._tool.submit(call).add_done_callback(settle)
        return answer

    def close(self) -> None:
        """Closes the tool."""
        self._tool.close()


def pass_on(done: "Future[Observation]", answer: "Future[Observation]") -> None:
    """The one's result becomes the other's."""
    if (error := done.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())


def recipe(depth: int) -> config.Config:
    """The quickstart with more problems a step, nothing evaluated, nothing saved on the way.

    Two epochs: an update is nearer to decoding then, as it is in the plan of the 1.5B recipe.
    """
    c = quickstart.get_config()
    c.data.eval_problems = 0
    c.rl.problems_per_step = PROBLEMS
    c.rl.epochs = 2
    c.checkpoint.every = STEPS
    c.pipeline.depth = depth
    c.run.steps = STEPS
    return config.parse(c)


def run(depth: int, workdir: Path) -> list[dict[str, float]]:
    """The metrics of one run with delayed tools."""
    opened = workshop.open

    def delayed(cfg: config.Config, cores: tuple[int, ...] = ()) -> workshop.Workshop:
        shop = opened(cfg, cores)
        return dataclasses.replace(shop, env=Delayed(shop.env, cfg.sandbox.timeout))

    workshop.open = delayed
    try:
        train.train(recipe(depth), epath.Path(workdir), StopSignal())
    finally:
        workshop.open = opened
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][1:]


def seconds_a_step(rows: list[dict[str, float]]) -> float:
    """Wall time from the end of step WARM to the end of the last, a step."""
    ends = [row["time/at_update"] + row["time/update"] for row in rows]
    return (ends[-1] - ends[WARM - 1]) / (len(ends) - WARM)


def measure(rounds: int, folder: Path) -> list[list[str]]:
    """Rows of the table: what each loop took, and the ratio of neighbours."""
    taken: dict[int, list[list[dict[str, float]]]] = {0: [], 1: []}
    for n in range(rounds):
        for depth in (0, 1):
            taken[depth].append(run(depth, folder / f"{n}-{depth}"))
    seconds = {depth: [seconds_a_step(rows) for rows in runs] for depth, runs in taken.items()}
    out = []
    for depth, name in ((0, "one after the other"), (1, "one batch ahead")):
        late = [row for rows in taken[depth] for row in rows[WARM:]]
        means = [statistics.mean(row[f"time/{k}"] for row in late) for k in KINDS]
        out.append(
            [name, report.spread(seconds[depth], 2), *(f"{mean:.2f}" for mean in means), "1"]
        )
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    out[1][-1] = report.spread(ratios, 2)
    return out


KINDS = ("rollout", "tool", "update", "wait")


def main() -> int:
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a file with this section")
    parser.add_argument("--keep", type=Path, help="a new folder in which the runs are left")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args.rounds, args.keep or Path(folder))
    head = ["loop", "seconds a step", *KINDS, "steps an hour (ratio)"]
    body = (
        f"`{report.command(MODULE)}`, {args.rounds} rounds of {STEPS} steps, the first {WARM} left "
        f"away. {report.conditions(load, 'jax')}\n\n{report.table(head, rows)}"
    )
    if args.out is None:
        print(body)
    else:
        report.write_section(args.out, "pipeline", body)
    return 0


MODULE = "benchmarks.pipeline"

if __name__ == "__main__":
    sys.exit(main())
