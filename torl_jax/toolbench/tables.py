"""Figures of the benchmarks, and the tables that set the paper's rows beside them.

    scoreboard.Answered -> Standing -> Sheet       API-Bank, Bamboogle
    BFCL's data_overall.csv -> Sheet               BFCL, by this command:

  python -m torl_jax.toolbench.tables --bfcl=FILE --name=MODEL --beside=Qwen2.5-1.5B

This module is part of the words world: no jax.
"""

import csv
import math
from collections.abc import Mapping, Sequence

from absl import flags
from rich.console import Console

from torl_jax import cli
from torl_jax.errors import UserError
from torl_jax.metrics import Ratio
from torl_jax.scoreboard import Answered, Sheet, Standing, between, percent
from torl_jax.toolbench import api_bank, bamboogle, published

OURS = "this policy"
# Columns of BFCL's file that are also the paper's; its overall is weighed otherwise.
BFCL_FILE = {
    "non-live AST": "Non-Live AST Acc",
    "live": "Live Acc",
    "multi-turn": "Multi Turn Acc",
    "relevance": "Relevance Detection",
    "irrelevance": "Irrelevance Detection",
}
SEARCHES, TOO_LONG = "searches", "too_long"  # in Sample.behaviour, for Bamboogle


def by_level(answered: Sequence[Answered], seed: int) -> dict[str, Standing]:
    """The standings of API-Bank: overall, and of each level that is there."""
    found = {"overall": Standing.of(answered, api_bank.NAME, seed)}
    for level in sorted({a.source for a in answered}):
        own = [a for a in answered if a.source == level]
        found[level] = Standing.of(own, f"{api_bank.NAME}/{level}", seed)
    return found


def api_bank_sheet(found: Mapping[str, Standing], whole: frozenset[str], model: str) -> Sheet:
    """Accuracy by level; the paper's figures and the rerun's where the items are `whole`."""
    columns = published.API_BANK_COLUMNS
    overall = found["overall"]
    cells = [percent(found[c].accuracy) if c in found else "-" for c in columns]
    rows: list[tuple[str, ...]] = []
    rows.append((OURS, f"{overall.problems}", cells[0], between(overall), *cells[1:]))
    for row in published.of(published.API_BANK, model):
        told = [figure(row.figures[c]) if c in whole else "-" for c in columns]
        rows.append((f"{model} {row.setting}", "", told[0], "", *told[1:]))
    for row in published.of(published.RERUN, model):
        told = figure(row.figures["overall"]) if "overall" in whole else "-"
        rows.append((f"{model} {row.setting}, rerun", "", told, "", "-", "-", "-"))
    head = ("", "n", "overall", "95 % CI", "level 1", "level 2", "level 3")
    return Sheet("API-Bank", head, tuple(rows), strong=frozenset({OURS}))


def fits_not(answered: Answered) -> bool:
    """Whether a prompt of the item's was too long."""
    later = answered.samples[0].behaviour.get(TOO_LONG, Ratio())
    return answered.too_long or later.sum > 0


def searches(answered: Sequence[Answered]) -> float:
    """Searches a question; nan where there was none."""
    own = [a.samples[0].behaviour.get(SEARCHES, Ratio(0.0, 1.0)) for a in answered]
    return math.fsum(r.sum for r in own) / len(own) if own else math.nan


def bamboogle_sheet(
    answered: Sequence[Answered], left_out: int, whole: bool, model: str, seed: int
) -> Sheet:
    """Accuracy and searches a question over what could be judged; `left_out`: what could not."""
    if answered:
        standing = Standing.of(answered, bamboogle.NAME, seed)
        cells = (percent(standing.accuracy), between(standing), f"{searches(answered):.2f}")
    else:
        cells = ("-", "-", "-")
    rows: list[tuple[str, ...]] = [(OURS, f"{len(answered)}", *cells, f"{left_out}")]
    for row in published.of(published.BAMBOOGLE, model):
        accuracy, calls = row.figures["accuracy"], row.figures["calls"]
        told = (figure(accuracy), "", f"{calls:.2f}") if whole else ("-", "", "-")
        rows.append((f"{model} {row.setting}", "", *told, ""))
    head = ("", "n", "accuracy", "95 % CI", "searches", "left out")
    return Sheet("Bamboogle", head, tuple(rows), strong=frozenset({OURS}))


def bfcl_sheet(path: str, name: str, model: str) -> Sheet:
    """The row of `name` in BFCL's data_overall.csv; UserError where it is not there."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); give BFCL's data_overall.csv") from None
    shown = (name, f"{name} (Prompt)")  # the second: as BFCL displays what we register
    own = next((row for row in rows if row.get("Model") in shown), None)
    if own is None or not set(BFCL_FILE.values()) <= own.keys():
        raise UserError(f"{path} has no row for {name} with BFCL's columns; was it evaluated?")
    cells = [str(own[column]).removesuffix("%") for column in BFCL_FILE.values()]
    table = [(OURS, *cells)]
    for row in published.of(published.BFCL, model):
        table.append((f"{model} {row.setting}", *(figure(row.figures[c]) for c in BFCL_FILE)))
    return Sheet("BFCL", ("", *BFCL_FILE), tuple(table), strong=frozenset({OURS}))


def figure(percents: float) -> str:
    """A figure that is in percent already."""
    return f"{percents:.1f}"


def main(arguments: list[str]) -> None:
    """Prints BFCL's table."""
    values = flags.FLAGS
    if arguments or not values.bfcl or not values.name:
        raise UserError("give --bfcl=FILE and --name=MODEL; see --help")
    Console(highlight=False).print(bfcl_sheet(values.bfcl, values.name, values.beside).rich())


if __name__ == "__main__":
    flags.DEFINE_string("bfcl", None, "data_overall.csv of BFCL's score folder.")
    flags.DEFINE_string("name", None, "The model's name there.")
    flags.DEFINE_enum("beside", "Qwen2.5-1.5B", list(published.SIZES), "Model of the paper.")
    cli.run(main, __doc__ or "")
