"""Does one curve rise with another, and at which step does it begin to?

    r        = Pearson's or Spearman's correlation over the steps of a run
    interval = the middle 95 % of r over runs of drawn blocks (moving blocks, Künsch 1989)
    change   = the step k that makes sum_{t<k} (x_t - a)^2 + sum_{t>=k} (x_t - b)^2 least

Neighbouring steps of a run are alike. Drawn one by one they would pass for independent and
the interval would be far too narrow, so blocks of about sqrt(n) steps in a row are drawn.
An interval says how sure this run is of its r, not what another seed would give.

This module is part of the words world: numpy, no jax.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

RESAMPLES = 2_000
COVERAGE = 0.95
LEAST = 8  # steps, below which nothing is said


class Correlation(NamedTuple):
    """A coefficient, its interval, and how many steps it is of; nan where a curve is flat."""

    value: float
    low: float
    high: float
    steps: int


class Change(NamedTuple):
    """The step from which a curve is at `after` instead of `before`, and its interval.

    `explained`: the share of the curve's variance that the two levels explain. Little of it
    is no step at all.
    """

    step: float
    low: float
    high: float
    before: float
    after: float
    explained: float


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each row of [.., n] arrays; nan where one is flat."""
    x, y = (z - z.mean(axis=-1, keepdims=True) for z in (x, y))
    norm = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norm > 0, (x * y).sum(axis=-1) / norm, np.nan)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's of the ranks; equal values share theirs."""
    return pearson(scipy.stats.rankdata(x, axis=-1), scipy.stats.rankdata(y, axis=-1))


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "spearman": spearman,
    "pearson": pearson,
}


def correlation(x: ArrayLike, y: ArrayLike, kind: str, seed: int = 0) -> Correlation:
    """How far y rises with x over the steps of a run. Raises ValueError for fewer than LEAST."""
    x_n, y_n = _checked(x, y)
    found = KINDS[kind](x_n, y_n)
    index_RN = blocks(len(x_n), seed)
    drawn = KINDS[kind](x_n[index_RN], y_n[index_RN])
    low, high = _middle(drawn[~np.isnan(drawn)])
    return Correlation(float(found), low, high, len(x_n))


def change(steps: ArrayLike, values: ArrayLike, seed: int = 0) -> Change:
    """Where the curve steps from one level to another. Raises ValueError for fewer than LEAST.

    The interval is of the step found in the two levels and blocks of what they leave.
    """
    step_n, value_n = _checked(steps, values)
    at = int(_split(value_n[None])[0])
    before, after = value_n[:at].mean(), value_n[at:].mean()
    level_n = np.where(np.arange(len(value_n)) < at, before, after)
    rest_n = value_n - level_n
    drawn = _split(level_n + rest_n[blocks(len(value_n), seed)])
    low, high = _middle(step_n[drawn])
    spread = ((value_n - value_n.mean()) ** 2).sum()
    explained = 1 - (rest_n**2).sum() / spread if spread > 0 else 0.0
    return Change(float(step_n[at]), low, high, float(before), float(after), float(explained))


def blocks(n: int, seed: int) -> np.ndarray:
    """int [RESAMPLES, n]: places of a run of n steps, drawn in blocks of neighbours."""
    length = math.ceil(math.sqrt(n))
    count = -(-n // length)
    starts = np.random.default_rng(seed).integers(0, n - length + 1, (RESAMPLES, count, 1))
    return (starts + np.arange(length)).reshape(RESAMPLES, -1)[:, :n]


def _split(values_RN: np.ndarray) -> np.ndarray:
    """int [R]: for each row the k in 1 .. n - 1 whose two means leave least."""
    n = values_RN.shape[1]
    left_n = np.arange(1, n)
    sums = np.cumsum(values_RN, axis=1)
    head, whole = sums[:, :-1], sums[:, -1:]
    # The squares that two means explain: least is left where most is explained.
    gain = head**2 / left_n + (whole - head) ** 2 / (n - left_n)
    return 1 + gain.argmax(axis=1)


def _middle(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def _checked(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x_n, y_n = np.asarray(x, float), np.asarray(y, float)
    if x_n.shape != y_n.shape or x_n.ndim != 1 or len(x_n) < LEAST:
        raise ValueError(f"{x_n.shape} and {y_n.shape}: needs two curves of one length, {LEAST} up")
    if not (np.isfinite(x_n).all() and np.isfinite(y_n).all()):
        raise ValueError("a curve has values that are no numbers")
    return x_n, y_n
