"""How many outputs a second ToolRL's reward scores on one core.

  python -m benchmarks.rewards --rows ../shared/data/toolrl/rlla_test.parquet

The gold texts of the test rows are scored against three kinds of outputs: themselves
("perfect"), each with one of seven flaws in turn ("flawed"), and with a thought of 700
words ("long"). Seconds are the process's CPU time, so that neighbours on the machine
count little; a round scores all outputs of a kind `--repeats` times.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet

from benchmarks.report import (
    ReportError,
    command,
    conditions,
    quantile,
    spread,
    table,
    write_section,
)
from torl_jax.rewards.toolrl import ToolRLReward, score

MODULE = "benchmarks.rewards"
ROWS = Path("../shared/data/toolrl/rlla_test.parquet")
THOUGHT = "a word " * 350
VARIANTS = {
    "default": ToolRLReward(),
    "length, dynamic_scale": ToolRLReward(length=True, dynamic_scale=True),
    "optimal": ToolRLReward(matching="optimal"),
}
# What goes wrong with an output; each changes the text of any gold.
FLAWS = (
    lambda text: text.replace('": "', '": "x', 1).replace("<response> ", "<response> No. ", 1),
    lambda text: text.replace('"name"', '"tool"', 1).replace("</think>\n", "</think>", 1),
    lambda text: text.replace('"parameters": {', '"parameters": {"extra": 1, ', 1),
    lambda text: text.replace("\n</", "\n\n```\n</", 1),
    lambda text: text + "\n" + text,
    lambda text: text[: len(text) // 2],
    lambda text: "Sure.\n" + text,
)


def golds(path: Path) -> list[str]:
    """The gold texts of a file in the schema of the rlla test set. Raises ReportError."""
    if not path.is_file():
        raise ReportError(f"{path}: no such file; --rows names the 80 test rows (parquet)")
    rows = pyarrow.parquet.read_table(path).column("reward_model").to_pylist()
    return [row["ground_truth"] for row in rows]


def outputs(gold: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Pairs of (output, gold) of each kind."""
    return {
        "perfect": [(text, text) for text in gold],
        "flawed": [(FLAWS[i % len(FLAWS)](text), text) for i, text in enumerate(gold)],
        "long": [(text.replace("<think>", f"<think> {THOUGHT}", 1), text) for text in gold],
    }


def rate(pairs: Sequence[tuple[str, str]], variant: ToolRLReward, repeats: int) -> float:
    """Scores a second of CPU time."""
    start = time.process_time()
    for step in range(repeats):
        for output, gold in pairs:
            score(output, gold, variant=variant, step=step)
    return repeats * len(pairs) / (time.process_time() - start)


def measure(gold: Sequence[str], rounds: int, repeats: int) -> list[list[str]]:
    """A row for each variant and kind: characters of an output, scores a second."""
    rows = []
    for name, variant in VARIANTS.items():
        for kind, pairs in outputs(gold).items():
            rate(pairs, variant, 1)  # reads the golds, and what the variant imports
            rates = [rate(pairs, variant, repeats) for _ in range(rounds)]
            size = quantile([len(output) for output, _ in pairs], 0.5)
            rows.append([name, kind, f"{size:,.0f}", spread(rates)])
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, help="a file with this section")
    args = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    try:
        rows = measure(golds(args.rows), args.rounds, args.repeats)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    head = ["variant", "outputs", "characters (median)", "scores a second a core (range)"]
    body = f"`{command(MODULE)}`, {args.rounds} rounds. {conditions(load)}\n\n{table(head, rows)}"
    if args.out is None:
        print(body)
    else:
        write_section(args.out, "rewards", body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
