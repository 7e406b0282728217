"""pass@k, maj@k and the bootstrap against brute force and against what they must obey."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax import estimators

FEW = st.lists(st.sampled_from([None, 0, 1, 2, 3]), min_size=1, max_size=8)


def brute_majority(votes, correct, k):
    """The share of k-subsets whose commonest answer, the first seen of equals, is right."""
    won = []
    for chosen in itertools.combinations(range(len(votes)), k):
        counts = Counter(votes[i] for i in chosen if votes[i] is not None)
        first = next((i for i in chosen if counts[votes[i]] == max(counts.values(), default=0)), -1)
        won.append(bool(counts) and correct[first])
    return np.mean(won)


@given(n=st.integers(1, 9), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    right = [i < c for i in range(n)]
    brute = np.mean([any(chosen) for chosen in itertools.combinations(right, k)])
    assert estimators.pass_at(n, c, k) == pytest.approx(brute)


def test_pass_at_k_of_many_samples_neither_overflows_nor_vanishes():
    # 1 - C(1023, 512) / C(1024, 512) = 1 - 512 / 1024
    assert estimators.pass_at(1024, 1, 512) == pytest.approx(0.5)
    assert estimators.pass_at(1024, 1023, 2) == 1.0


@given(votes=FEW, right=st.sampled_from([0, 1, 2, 3]), data=st.data())
def test_majority_is_the_share_of_subsets_that_vote_right(votes, right, data):
    correct = [vote == right for vote in votes]
    k = data.draw(st.integers(1, len(votes)))
    assert estimators.majority_at(votes, correct, k) == pytest.approx(
        brute_majority(votes, correct, k)
    )


def test_majority_of_equally_common_answers_is_the_one_seen_first():
    assert estimators.majority_at([7, 3], [True, False], 2) == 1.0
    assert estimators.majority_at([3, 7], [False, True], 2) == 0.0
    assert estimators.majority_at([3, 7, 7], [False, True, True], 3) == 1.0


def test_nobody_votes_is_wrong_and_who_does_not_vote_does_not_count():
    assert estimators.majority_at([None, None], [False, False], 2) == 0.0
    assert estimators.majority_at([None, None, 0], [False, False, True], 3) == 1.0


def test_drawn_subsets_estimate_the_same_and_hang_on_the_seed_alone():
    votes = [i % 5 for i in range(32)]
    correct = [vote == 0 for vote in votes]
    assert math.comb(32, 8) > estimators.SUBSETS
    drawn = estimators.subsets(32, 8, 0)
    assert drawn.shape == (estimators.SUBSETS, 8)
    assert (np.diff(drawn, axis=1) > 0).all() and drawn.max() == 31 and drawn.min() == 0
    # Each sample is drawn as often as any other: 1000 * 8 / 32 = 250, spread 14.
    assert (np.abs(np.bincount(drawn.ravel(), minlength=32) - 250) < 75).all()
    found = estimators.majority_at(votes, correct, 8, seed=3)
    assert found == estimators.majority_at(votes, correct, 8, seed=3)
    # 7 of 32 are right, five answers nearly equally common.
    assert 0.15 < found < 0.4
    assert estimators.majority_at(votes, correct, 1) == pytest.approx(7 / 32)


@given(votes=FEW)
def test_at_one_both_are_the_mean_and_pass_only_grows(votes):
    correct = [vote == 0 for vote in votes]
    n, c = len(votes), sum(correct)
    assert estimators.pass_at(n, c, 1) == pytest.approx(c / n)
    assert estimators.majority_at(votes, correct, 1) == pytest.approx(c / n)
    chances = [estimators.pass_at(n, c, k) for k in estimators.powers(n)]
    assert chances == sorted(chances)


def test_powers():
    assert [estimators.powers(n) for n in (1, 2, 3, 32)] == [
        (1,),
        (1, 2),
        (1, 2),
        (1, 2, 4, 8, 16, 32),
    ]


def test_the_bootstrap_has_the_width_of_theory():
    values = [1.0] * 120 + [0.0] * 80
    means = estimators.resampled(values, "set")
    low, high = estimators.interval(means)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 200)
    assert low == pytest.approx(0.6 - half, abs=0.012)
    assert high == pytest.approx(0.6 + half, abs=0.012)
    assert (estimators.resampled(values, "set") == means).all()
    assert (estimators.resampled(values, "set", seed=1) != means).any()
    # Two sets of one size are drawn apart: their mean is surer than either.
    other = estimators.resampled(values, "other")
    assert abs(np.corrcoef(means, other)[0, 1]) < 0.05
    assert estimators.interval(estimators.resampled([1.0] * 30, "set")) == (1.0, 1.0)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(ValueError, match="needs 1 <= k <= n"):
        estimators.pass_at(n, c, k)
    with pytest.raises(ValueError, match="no values"):
        estimators.resampled([], "set")
