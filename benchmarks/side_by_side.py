"""Decoding and training beside Tunix and transformers: the same work, in turn, on one machine.

    make bench

Each side runs in an interpreter of its own (`benchmarks/peers/`) and waits while another one
works. The first call of each, which compiles, is told apart from the rounds.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib
import matplotlib.pyplot as plt

from benchmarks import report
from benchmarks.peers import spec

ROOT = Path(__file__).parent.parent
OURS = "torl"
# Each side's module, and the environment that `make bench` installs for it.
SIDES = {OURS: "", "tunix": ".venv-tunix", "hf": ".venv-torch"}
NAMES = {OURS: "torl_jax", "tunix": "Tunix", "hf": "transformers"}
TASKS = {
    "sample": f"sampling, {spec.BATCH} x {spec.NEW} tokens behind {spec.PROMPT}",
    "greedy": "the same, greedy",
    "train": f"train step, {spec.ROWS} x {spec.LENGTH}, AdamW",
}
# At least so many times the peer's tokens a second.
TARGETS = {
    ("sample", "tunix"): 3.0, ("sample", "hf"): 1.5, ("train", "tunix"): 2.0, ("train", "hf"): 1.0
}  # fmt: skip

Seconds = dict[str, dict[str, list[float]]]  # by task and side; the first call comes first


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

    def ask(self, task: str) -> dict[str, float]:
        """Runs the task once: tokens and seconds."""
        assert self.process.stdin is not None
        print(task, file=self.process.stdin, flush=True)
        return self._answer()

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


def measure(sides: Mapping[str, Side], tasks: Sequence[str], rounds: int) -> Seconds:
    """Tokens a second of each call, in turn."""
    rates: Seconds = {task: {name: [] for name in sides} for task in tasks}
    for task in tasks:
        for _ in range(rounds + 1):
            for name, side in sides.items():
                found = side.ask(task)
                rates[task][name].append(found["tokens"] / found["seconds"])
        print(f"{task}: {', '.join(f'{n} {v[-1]:.0f}' for n, v in rates[task].items())} tokens/s")
    return rates


def rows(rates: Seconds) -> list[list[str]]:
    """Of each task and side: tokens a second, the first call, and our rate over its."""
    out = []
    for task, by_side in rates.items():
        for name, values in by_side.items():
            ratios = [a / b for a, b in zip(by_side[OURS][1:], values[1:], strict=True)]
            target = TARGETS.get((task, name))
            met = ""
            if target is not None:
                reached = statistics.median(ratios) >= target
                met = f"at least {target:g}: {'met' if reached else 'missed'}"
            ratio = "1" if name == OURS else report.spread(ratios, 2)
            out.append(
                [TASKS[task] if name == OURS else "", NAMES[name], report.spread(values[1:]),
                 f"{values[0]:.0f}", ratio, met]
            )  # fmt: skip
    return out


def picture(rates: Seconds, path: Path) -> None:
    """A bar for each task and side, with its range."""
    colours = {OURS: report.BLUE, "tunix": report.ORANGE, "hf": report.GREEN}
    figure, axes = plt.subplots(1, len(rates), figsize=(8, 3), layout="constrained")
    for axis, (task, by_side) in zip(axes, rates.items(), strict=True):
        for x, (name, values) in enumerate(by_side.items()):
            later = values[1:]
            middle = statistics.median(later)
            around = [[middle - min(later)], [max(later) - middle]]
            axis.bar(x, middle, color=colours[name], yerr=around, capsize=4)
        axis.set_xticks(range(len(by_side)), [NAMES[name] for name in by_side])
        axis.set_title(TASKS[task], fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("tokens a second")
    figure.savefig(path, dpi=150)
    plt.close(figure)


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--out", type=Path, help="a file whose section is written, with a picture")
    args = parser.parse_args()
    matplotlib.use("Agg")
    load = os.getloadavg()[0]
    try:
        with opened(list(dict.fromkeys([OURS, *args.sides]))) as sides:
            rates = measure(sides, args.tasks, args.rounds)
            table = report.table(
                ["work", "side", "tokens a second", "first call", "our rate over its", "target"],
                rows(rates),
            )
            body = (
                f"`{report.command(MODULE)}`, {args.rounds} rounds in turn: median (range). "
                f"{report.conditions(load, 'jax')}\n\n{table}\n\n{settings(sides)}"
            )
        if args.out is None:
            print(body)
        else:
            name = f"{args.out.stem}_peers.png"
            picture(rates, args.out.with_name(name))
            report.write_section(args.out, "peers", f"{body}\n\n![tokens a second]({name})")
    except (report.ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


MODULE = "benchmarks.side_by_side"

if __name__ == "__main__":
    sys.exit(main())
