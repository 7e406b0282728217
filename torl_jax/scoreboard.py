"""From graded samples to figures, and from figures to the tables that people read.

    Sample     one episode, reduced to what is counted
    Answered   a problem with its n samples
    Standing   a set of problems: accuracy with its interval, pass@k, maj@k, behaviour
    Sheet      a table, for a terminal or as Markdown

Every problem of a set counts: one whose prompt does not fit, and a sample that our own
failure lost, are wrong. Both are told beside the accuracy.

This module is part of the words world: no jax.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from torl_jax import benchmarks, estimators
from torl_jax.benchmarks import MEAN
from torl_jax.episode import Episode, Score
from torl_jax.logs import finite
from torl_jax.metrics import Ratio, rollout_ratios
from torl_jax.protocols.base import Protocol

# What is told of a set's episodes besides accuracy; as in `metrics.rollout_ratios`.
BEHAVIOUR = (
    "code_ratio",
    "pass_ratio",
    "executed_ratio",
    "response_length",
    "end_length",
    "end_abort",
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """An episode: is it right, which answer did it vote for (None: none), what did it do."""

    correct: bool
    vote: int | None = None
    behaviour: Mapping[str, Ratio] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, episode: Episode, score: Score, vote: int | None, markup: Protocol) -> "Sample":
        """From a graded episode; `markup` as for `rollout_ratios`."""
        ratios = rollout_ratios([episode], [score], markup, prefix="")
        return cls(bool(score.correct), vote, {name: ratios[name] for name in BEHAVIOUR})


@dataclasses.dataclass(frozen=True)
class Answered:
    """A problem of `source` with its samples; `too_long`: its prompt did not fit, all are wrong."""

    problem: str
    source: str
    samples: tuple[Sample, ...]
    too_long: bool = False


@dataclasses.dataclass(frozen=True)
class Standing:
    """The figures of a set of problems; shares lie in 0 .. 1, lengths are tokens.

    `means`: bootstrapped accuracies, kept so that sets can be averaged.
    """

    problems: int
    samples: int
    accuracy: float
    low: float
    high: float
    pass_at: Mapping[int, float]
    maj_at: Mapping[int, float]
    behaviour: Mapping[str, float]
    too_long: int
    aborted: int
    means: np.ndarray = dataclasses.field(repr=False, compare=False)

    @classmethod
    def of(cls, answered: Sequence[Answered], name: str, seed: int = 0) -> "Standing":
        """Of problems with equally many samples each; `name` and `seed` decide the bootstrap."""
        right = [[s.correct for s in a.samples] for a in answered]
        n = len(right[0])
        accuracy = [sum(row) / n for row in right]
        means = estimators.resampled(accuracy, name, seed)
        low, high = estimators.interval(means)
        votes = [[s.vote for s in a.samples] for a in answered]

        def mean(values: Sequence[float]) -> float:
            return math.fsum(values) / len(values)

        seen = [s.behaviour for a in answered for s in a.samples if s.behaviour]
        total = {
            key: functools.reduce(operator.add, (one[key] for one in seen), Ratio())
            for key in BEHAVIOUR
        }
        return cls(
            problems=len(answered),
            samples=n,
            accuracy=mean(accuracy),
            low=low,
            high=high,
            pass_at={
                k: mean([estimators.pass_at(n, sum(row), k) for row in right])
                for k in estimators.powers(n)
            },
            maj_at={
                k: mean(
                    [
                        estimators.majority_at(vote, row, k, seed)
                        for vote, row in zip(votes, right, strict=True)
                    ]
                )
                for k in estimators.powers(n)
            },
            behaviour={key: ratio.value for key, ratio in total.items()},
            too_long=sum(a.too_long for a in answered),
            aborted=round(total["end_abort"].sum),
            means=means,
        )

    @classmethod
    def mean(cls, standings: Sequence["Standing"]) -> "Standing":
        """The unweighted mean over sets, each resampled apart; counts are added."""

        def over(values: Sequence[float]) -> float:
            # A set without code has no pass ratio; the mean is then over the others.
            known = [value for value in values if not math.isnan(value)]
            return math.fsum(known) / len(known) if known else math.nan

        means = np.mean([s.means for s in standings], axis=0)
        low, high = estimators.interval(means)
        first = standings[0]
        return cls(
            problems=sum(s.problems for s in standings),
            samples=first.samples,
            accuracy=over([s.accuracy for s in standings]),
            low=low,
            high=high,
            pass_at={k: over([s.pass_at[k] for s in standings]) for k in first.pass_at},
            maj_at={k: over([s.maj_at[k] for s in standings]) for k in first.maj_at},
            behaviour={k: over([s.behaviour[k] for s in standings]) for k in BEHAVIOUR},
            too_long=sum(s.too_long for s in standings),
            aborted=sum(s.aborted for s in standings),
            means=means,
        )

    def row(self) -> dict[str, Any]:
        """For JSON; null where there was nothing to count."""
        return {
            "problems": self.problems,
            "samples": self.samples,
            "accuracy": self.accuracy,
            "interval": [self.low, self.high],
            "pass_at": {str(k): value for k, value in self.pass_at.items()},
            "maj_at": {str(k): value for k, value in self.maj_at.items()},
            **{name: finite(value) for name, value in self.behaviour.items()},
            "too_long": self.too_long,
            "aborted": self.aborted,
        }


Standings = Mapping[str, Standing]  # by benchmark (or benchmark/source), in order


def standings(answered: Mapping[str, Sequence[Answered]], seed: int) -> dict[str, Standing]:
    """Each benchmark's, its sources' where it has several (NAME/SOURCE), and the mean over
    benchmarks where there are several.
    """
    found: dict[str, Standing] = {}
    for name, own in answered.items():
        found[name] = Standing.of(own, name, seed)
        sources = sorted({a.source for a in own})
        for source in sources if len(sources) > 1 else ():
            some = [a for a in own if a.source == source]
            found[f"{name}/{source}"] = Standing.of(some, f"{name}/{source}", seed)
    if len(answered) > 1:
        found[MEAN] = Standing.mean([found[name] for name in answered])
    return found


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table of words: the first column names the rows; `strong` rows stand out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[str] = frozenset({MEAN})

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(
            title=Text(self.title),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            padding=0,  # the paper's column included, it fits 80 characters
        )
        for i, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if i else "left", overflow="fold")
        for row in self.rows:
            style = "bold" if row[0] in self.strong else ""
            table.add_row(*(Text(cell, style=style) for cell in row))
        return table

    def markdown(self) -> str:
        """For a file."""
        lines = [f"### {self.title}", "", _line(self.columns)]
        lines.append(_line(["---", *["---:"] * (len(self.columns) - 1)]))
        for row in self.rows:
            strong = row[0] in self.strong
            lines.append(_line([f"**{cell}**" if strong and cell else cell for cell in row]))
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


@dataclasses.dataclass(frozen=True)
class Reference:
    """The paper's model beside this one, for benchmarks that are whole."""

    row: benchmarks.Row | None = None
    whole: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The column's name, if there is a model."""
        return (self.row.model,) if self.row else ()

    def cells(self, name: str, names: Sequence[str]) -> tuple[str, ...]:
        """The paper's accuracy on `name`, or its mean over `names` where it has them all."""
        if self.row is None:
            return ()
        wanted = list(names) if name == MEAN else [name]
        known = self.row.accuracy.keys() & self.whole
        if not known.issuperset(wanted):
            return ("-",)
        found = [self.row.accuracy[wanted_name] for wanted_name in wanted]
        return (f"{math.fsum(found) / len(found):.1f}",)


def accuracy_sheet(title: str, found: Standings, reference: Reference) -> Sheet:
    """Accuracy with its interval and what the episodes did; one line a set."""
    n = next(iter(found.values())).samples
    head = ("n", f"avg@{n}" if n > 1 else "accuracy", "95 % CI", "code", "pass", "tokens")
    columns = ("", *head, "cut", "lost", *reference.names)
    names = [name for name in found if name != MEAN and "/" not in name]
    rows = []
    for name, s in found.items():
        did = s.behaviour
        rows.append(
            (
                name,
                f"{s.problems}",
                percent(s.accuracy),
                between(s),
                percent(did["code_ratio"]),
                percent(did["pass_ratio"]),
                "-" if math.isnan(did["response_length"]) else f"{did['response_length']:.0f}",
                percent(did["end_length"]),
                f"{s.aborted}",
                *reference.cells(name, names),
            )
        )
    return Sheet(title, columns, tuple(rows))


def chances_sheet(title: str, found: Standings) -> Sheet:
    """pass@k and maj@k, two lines a set."""
    ks = list(next(iter(found.values())).pass_at)
    rows = []
    for name, s in found.items():
        rows.append((name, "pass@k", *(percent(s.pass_at[k]) for k in ks)))
        rows.append((name, "maj@k", *(percent(s.maj_at[k]) for k in ks)))
    return Sheet(title, ("", "", *(f"k={k}" for k in ks)), tuple(rows))


def calls_sheet(title: str, found: Mapping[int, Standings], reference: Reference) -> Sheet:
    """Accuracy by how many tool calls a response may make, one column each."""
    first = next(iter(found.values()))
    names = [name for name in first if name != MEAN and "/" not in name]
    columns = ("", *(f"C={calls}" for calls in found), *reference.names)
    rows = [
        (
            name,
            *(f"{percent(s[name].accuracy)} ({between(s[name])})" for s in found.values()),
            *reference.cells(name, names),
        )
        for name in first
    ]
    return Sheet(title, columns, tuple(rows))


def percent(share: float) -> str:
    """A share in percent, as papers print it; "-" where there was nothing to count."""
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def between(standing: Standing) -> str:
    """The interval in percent."""
    return f"{percent(standing.low)}-{percent(standing.high)}"
