"""What n samples of each problem say: avg@n, pass@k, maj@k, and how sure that is.

    avg@n  = c / n                                        c of n samples are right
    pass@k = 1 - C(n - c, k) / C(n, k)                    some of k samples is right
    maj@k  = mean over k-subsets of [its commonest answer is right]

pass@k is the unbiased estimate of Chen et al., arXiv 2107.03374. maj@k is the same mean
over subsets for the vote: over all of them where they are few, else over SUBSETS drawn
by seed. Intervals are percentiles of a bootstrap over problems: how much the figure
would move with other problems of the same kind. They know nothing of other training
seeds, and where all problems agree they have no width.

This module is part of the words world: numpy, no jax.
"""

import functools
import itertools
import math
import zlib
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000  # of the bootstrap
SUBSETS = 1_000  # of the samples of a problem, for maj@k
COVERAGE = 0.95


def powers(n: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to n: the k that are told."""
    return tuple(1 << i for i in range(n.bit_length()))


def pass_at(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, of which c are right, hold a right one; k <= n."""
    _check(n, c, k)
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority_at(
    votes: Sequence[int | None], correct: Sequence[bool], k: int, seed: int = 0
) -> float:
    """Chance that the commonest answer of k of the samples is right.

    `votes[i]` names the group of equal answers that sample i belongs to, None where it
    gave none; `correct[i]` says whether it is right, which all of a group share, and which
    a sample without an answer is not. Of equally common answers the one seen first wins;
    where nobody votes the vote is wrong.
    """
    n = len(votes)
    _check(n, sum(correct), k)
    groups = sorted({vote for vote in votes if vote is not None})
    place = {group: i for i, group in enumerate(groups)}
    label_n = np.asarray([-1 if vote is None else place[vote] for vote in votes])
    label_Dk = label_n[subsets(n, k, seed)]
    count_Dk = np.zeros(label_Dk.shape, int)
    for group in range(len(groups)):
        here_Dk = label_Dk == group
        count_Dk += here_Dk * here_Dk.sum(axis=1, keepdims=True)
    # argmax takes the first of equals; where nobody votes, one who did not, who is wrong.
    first_D = count_Dk.argmax(axis=1)[:, None]
    winner_D = np.take_along_axis(subsets(n, k, seed), first_D, axis=1)[:, 0]
    return float(np.asarray(correct, bool)[winner_D].mean())


@functools.lru_cache(maxsize=64)
def subsets(n: int, k: int, seed: int) -> np.ndarray:
    """int [D, k]: all k-subsets of n samples, or SUBSETS drawn ones; each in rising order."""
    if math.comb(n, k) <= SUBSETS:
        return np.asarray(list(itertools.combinations(range(n), k)))
    words = _words(SUBSETS * n, seed, n, k).reshape(SUBSETS, n)
    return np.sort(np.argsort(words, axis=1, kind="stable")[:, :k], axis=1)


def resampled(values: Sequence[float], name: str, seed: int = 0) -> np.ndarray:
    """float [RESAMPLES]: means of the bootstrap over problems.

    `name` and `seed` alone decide the draws, so that sets are drawn apart from one another.
    """
    count = len(values)
    if not count:
        raise ValueError("no values to resample")
    words = _words(RESAMPLES * count, seed, zlib.crc32(name.encode()))
    index_RP = (words % np.uint64(count)).astype(np.intp).reshape(RESAMPLES, count)
    return np.asarray(values, float)[index_RP].mean(axis=1)


def interval(means: np.ndarray) -> tuple[float, float]:
    """The middle COVERAGE of bootstrapped means."""
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def _words(count: int, *seed: int) -> np.ndarray:
    # Raw words, which numpy promises to keep; its shuffles may change.
    return np.random.Philox(np.random.SeedSequence(seed)).random_raw(count)


def _check(n: int, c: int, k: int) -> None:
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"n={n}, c={c}, k={k}: needs 1 <= k <= n and 0 <= c <= n")
