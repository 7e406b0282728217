"""Decoding, tools and training beside Tunix, transformers and TRL: the same work, in turn.

    make bench

Each side runs in an interpreter of its own (`benchmarks/peers/`) and waits while another one
works. The first call of each, which compiles, is told apart from the rounds.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks import report
from benchmarks.peers import spec

ROOT = Path(__file__).parent.parent
OURS = "torl"
# Each side's module, and the environment that `make bench` installs for it.
SIDES = {OURS: "", "tunix": ".venv-tunix", "hf": ".venv-torch", "trl": ".venv-torch"}
NAMES = {OURS: "torl_jax", "tunix": "Tunix", "hf": "transformers", "trl": "TRL"}
COLOURS = {OURS: report.BLUE, "tunix": report.ORANGE, "hf": report.GREEN, "trl": report.PINK}
TASKS = {
    "sample": f"sampling, {spec.BATCH} x {spec.NEW} tokens behind {spec.PROMPT}",
    "greedy": "the same, greedy",
    "tools": f"{spec.CALLS} tool calls a sample, all at the same places",
    "uneven": f"{spec.CALLS} tool calls a sample, each at places of its own",
    "train": f"train step, {spec.ROWS} x {spec.LENGTH}, AdamW",
    "step": f"GRPO step, {spec.PROBLEMS} x {spec.GROUP} samples of {spec.NEW} tokens",
}
# At least so many times the peer's tokens a second.
TARGETS = {
    ("sample", "tunix"): 3.0, ("sample", "hf"): 1.5, ("train", "tunix"): 2.0, ("train", "hf"): 1.0,
    ("uneven", "tunix"): 10.0, ("step", "tunix"): 2.0, ("step", "trl"): 2.0,
}  # fmt: skip
HEAD = (
    "work", "side", "tokens a second", "seconds", "first call, seconds", "our rate over its",
    "target",
)  # fmt: skip
ACROSS = 3  # pictures beside each other


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a task."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


Calls = dict[str, dict[str, list[Call]]]  # by task and side; the first call comes first


class Side:
    """One worker; `settings` is what it says of itself."""

    def __init__(self, module: str, python: Path | str, said: IO[str]) -> None:
        """`said`: an empty file for what it prints beside its answers."""
        self.name, self.said = NAMES[module], said
        self.process = subprocess.Popen(
            [python, "-m", f"benchmarks.peers.{module}"],
            cwd=ROOT, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.said,
        )  # fmt: skip
        self.settings: dict[str, Any] = self._answer()
        self.tasks: list[str] = self.settings.pop("tasks")

    def ask(self, task: str) -> Call:
        """Runs the task once."""
        assert self.process.stdin is not None
        print(task, file=self.process.stdin, flush=True)
        return Call(**self._answer())

    def close(self) -> None:
        """Ends the worker."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.said.seek(0)
            last = self.said.read().strip().splitlines()[-1:] or ["nothing"]
            raise report.ReportError(f"{self.name}'s worker has ended; it said: {last[0]}")
        return json.loads(line)


@contextlib.contextmanager
def opened(names: Sequence[str]) -> Iterator[dict[str, Side]]:
    """The workers of these sides."""
    pythons = {}
    for name in names:
        pythons[name] = ROOT / SIDES[name] / "bin" / "python" if SIDES[name] else sys.executable
        if not Path(pythons[name]).exists():
            raise report.ReportError(f"{SIDES[name]} is not there: make bench installs it")
    with contextlib.ExitStack() as stack:
        sides = {}
        for name in names:
            said = stack.enter_context(tempfile.TemporaryFile("w+"))
            sides[name] = Side(name, pythons[name], said)
            stack.callback(sides[name].close)
        yield sides


def measure(sides: Mapping[str, Side], tasks: Sequence[str], rounds: int) -> Calls:
    """What each call took, in turn; a side is asked for the tasks that it has."""
    calls: Calls = {}
    for task in tasks:
        able = {name: side for name, side in sides.items() if task in side.tasks}
        calls[task] = {name: [] for name in able}
        for _ in range(rounds + 1):
            for name, side in able.items():
                calls[task][name].append(side.ask(task))
        last = ", ".join(f"{name} {made[-1].rate:.0f}" for name, made in calls[task].items())
        print(f"{task}: {last} tokens/s", flush=True)
    return calls


def rows(calls: Calls) -> list[list[str]]:
    """Of each task and side: tokens a second, seconds, the first call, our rate over its."""
    out = []
    for task, by_side in calls.items():
        for name, made in by_side.items():
            later = made[1:]
            ratios = [a.rate / b.rate for a, b in zip(by_side[OURS][1:], later, strict=True)]
            target = TARGETS.get((task, name))
            met = ""
            if target is not None:
                reached = statistics.median(ratios) >= target
                met = f"at least {target:g}: {'met' if reached else 'missed'}"
            ratio = "1" if name == OURS else report.spread(ratios, 2)
            out.append(
                [TASKS[task] if name == OURS else "", NAMES[name],
                 report.spread([call.rate for call in later]),
                 report.spread([call.seconds for call in later], 2),
                 f"{made[0].seconds:.1f}", ratio, met]
            )  # fmt: skip
    return out


def picture(calls: Calls, path: Path) -> None:
    """A bar for each task and side, with its range."""
    down = -(-len(calls) // ACROSS)
    across = min(len(calls), ACROSS)
    figure, grid = plt.subplots(
        down, across, figsize=(3.2 * across, 2.9 * down), layout="constrained", squeeze=False
    )
    for axis in grid.flat[len(calls) :]:
        axis.set_axis_off()
    for axis, (task, by_side) in zip(grid.flat, calls.items(), strict=False):
        bars(axis, by_side)
        axis.set_title(textwrap.fill(TASKS[task], 38), fontsize=8)
    for axis in grid[:, 0]:
        axis.set_ylabel("tokens a second", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def bars(axis: Axes, by_side: Mapping[str, Sequence[Call]]) -> None:
    """One task's, with the medians above them."""
    for x, (name, made) in enumerate(by_side.items()):
        later = [call.rate for call in made[1:]]
        middle = statistics.median(later)
        around = [[middle - min(later)], [max(later) - middle]]
        axis.bar(x, middle, color=COLOURS[name], yerr=around, capsize=4)
        axis.annotate(
            f"{middle:,.0f}", (x, max(later)), (0, 4), textcoords="offset points",
            ha="center", fontsize=7,
        )  # fmt: skip
    axis.set_xticks(range(len(by_side)), [NAMES[name] for name in by_side])
    axis.margins(y=0.12)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def settings(sides: Mapping[str, Side]) -> str:
    """A table of what each side says of itself."""
    keys = list(dict.fromkeys(key for side in sides.values() for key in side.settings))
    keys.remove("side")
    head = ["setting", *(NAMES[name] for name in sides)]
    return report.table(
        head, [[key, *(str(s.settings.get(key, "-")) for s in sides.values())] for key in keys]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=report.count, default=5)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument(
        "--out",
        type=report.holding("peers"),
        help="a file with this section",
    )
    args = parser.parse_args()
    matplotlib.use("Agg")
    load = os.getloadavg()[0]
    try:
        with opened(list(dict.fromkeys([OURS, *args.sides]))) as sides:
            calls = measure(sides, args.tasks, args.rounds)
            table = report.table(HEAD, rows(calls))
            body = (
                f"`{report.command(MODULE)}`, {args.rounds} rounds in turn: median (range). "
                f"{report.conditions(load, 'jax')}\n\n{table}\n\n{settings(sides)}"
            )
        if args.out is None:
            print(body)
        else:
            name = f"{args.out.stem}_peers.png"
            picture(calls, args.out.with_name(name))
            report.write_section(args.out, "peers", f"{body}\n\n![tokens a second]({name})")
    except (report.ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


MODULE = "benchmarks.side_by_side"

if __name__ == "__main__":
    sys.exit(main())
