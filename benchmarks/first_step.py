"""From the command to the first training step: with nothing kept, and as every start after that.

    python -m benchmarks.first_step --out docs/benchmarks.md

The quickstart's own command, from its start until the row of step 1 is written: imports, the
sandbox, the evaluation before training, sampling and the update are among it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import report

ROOT = Path(__file__).parent.parent
COMMAND = ("-m", "torl_jax.train", "--config=configs/quickstart.py", "--config.run.steps=1")
TARGET = 1 / 3
PATIENCE = 600.0  # seconds


class Start(NamedTuple):
    """One start: seconds until its first step was done, and that step's row without its times."""

    seconds: float
    row: dict[str, float]


def start(cache: Path) -> Start:
    """Trains one step with this folder of kept programs. Raises ReportError."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "run" / "metrics.jsonl"
        environ = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *COMMAND, f"--workdir={rows.parent}"],
            cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while process.poll() is None and time.perf_counter() - begin < PATIENCE:
            if rows.exists() and (found := _first(rows.read_text("utf-8"))):
                seconds = time.perf_counter() - begin
                process.communicate()
                return Start(seconds, found)
            time.sleep(0.005)
        process.kill()
        said = process.communicate()[1].strip().splitlines()[-1:] or ["nothing"]
        raise report.ReportError(f"no first step within {PATIENCE:g} s; it said: {said[0]}")


def _first(text: str) -> dict[str, float] | None:
    """The row of step 1, without what hangs on the clock, once its line is whole."""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n") and (row := json.loads(line))["step"] == 1:
            return {key: value for key, value in row.items() if not key.startswith("time/")}
    return None


def body(rounds: int) -> str:
    """The section. Raises ReportError where a kept program computes something else."""
    load = os.getloadavg()[0]
    cold, warm = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(start(Path(cache)))
            warm.append(start(Path(cache)))
        if cold[-1].row != warm[-1].row:
            raise report.ReportError("the two starts' first rows differ, expected the same numbers")
    ratios = [b.seconds / a.seconds for a, b in zip(cold, warm, strict=True)]
    met = sorted(ratios)[rounds // 2] <= TARGET
    rows = [
        ["nothing is kept", report.spread([each.seconds for each in cold], 1), "1", ""],
        [
            "the next start", report.spread([each.seconds for each in warm], 1),
            report.spread(ratios, 2), f"at most 1/3: {'met' if met else 'missed'}",
        ],
    ]  # fmt: skip
    return "\n\n".join([
        f"`{report.command(MODULE)}`, {rounds} rounds: median (range). "
        f"{report.conditions(load, 'jax')}",
        report.table(["start", "seconds", "over the first", "target"], rows),
        "The numbers of the first step (loss, gradient, rewards) are the same to the last digit.",
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=report.count, default=5)
    parser.add_argument("--out", type=report.holding("first-step"), help="a file with this section")
    args = parser.parse_args()
    try:
        text = body(args.rounds)
        if args.out is None:
            print(text)
        else:
            report.write_section(args.out, "first-step", text)
    except (report.ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


MODULE = "benchmarks.first_step"

if __name__ == "__main__":
    sys.exit(main())
