"""Correlations and change points: beside scipy, on curves made for it, and where nothing is."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from torl_jax import trends

RNG = np.random.default_rng(5)
numbers = st.lists(st.tuples(*[st.integers(-5, 5)] * 2), min_size=8, max_size=40)


def walk(n, rho=0.9, rng=RNG):
    """A curve whose neighbours are alike."""
    out = [0.0]
    for noise in rng.normal(size=n - 1):
        out.append(rho * out[-1] + noise)
    return np.asarray(out)


@given(numbers)
def test_coefficients_are_scipys(pairs):
    x, y = np.asarray(pairs, float).T
    for kind, theirs in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        found = float(trends.KINDS[kind](x, y))
        if np.ptp(x) and np.ptp(y):
            assert found == pytest.approx(theirs(x, y).statistic, abs=1e-9)
        else:
            assert np.isnan(found)


def test_an_interval_holds_its_coefficient_and_is_keyed():
    x = walk(200)
    y = x + RNG.normal(size=200)
    found = trends.correlation(x, y, "spearman")
    assert found.low < found.value < found.high and found.steps == 200
    assert found.value > 0.6 and found.low > 0.3
    assert trends.correlation(x, y, "spearman") == found
    assert trends.correlation(x, y, "spearman", seed=1) != found


def test_spearman_heeds_the_order_alone():
    x, y = walk(60), walk(60)
    bent = trends.correlation(np.exp(x), y**3, "spearman")
    assert bent == trends.correlation(x, y, "spearman")
    assert trends.correlation(x, -y, "pearson").value == pytest.approx(
        -trends.correlation(x, y, "pearson").value
    )


def test_curves_that_drift_by_themselves_are_rarely_taken_for_related():
    """Blocks: 95 % intervals that take steps for independent ones miss 0 in half of the cases."""
    rng, missed, naive = np.random.default_rng(0), 0, 0
    for _ in range(60):
        x, y = walk(150, 0.8, rng), walk(150, 0.8, rng)
        found = trends.correlation(x, y, "pearson")
        missed += not found.low <= 0 <= found.high
        naive += scipy.stats.pearsonr(x, y).pvalue < 0.05
    assert missed <= 12 < naive


@pytest.mark.parametrize("at", [10, 60, 110])
def test_a_step_is_found_where_it_is(at):
    curve = np.where(np.arange(120) < at, 0.1, 0.9) + 0.1 * walk(120, 0.5)
    steps = np.arange(1, 121) * 4
    found = trends.change(steps, curve)
    assert abs(found.step - steps[at]) <= 8 and found.low <= found.step <= found.high
    assert found.before == pytest.approx(0.1, abs=0.15)
    assert found.after == pytest.approx(0.9, abs=0.15) and found.explained > 0.5


def test_a_curve_without_a_step_says_so():
    noise = RNG.normal(size=120)
    found = trends.change(np.arange(120), noise)
    assert found.explained < 0.15 and found.high - found.low > 30
    flat = trends.change(np.arange(120), np.ones(120))
    assert flat.explained == 0 and flat.before == flat.after == 1


@given(numbers, st.sampled_from([-3.0, 0.5]), st.sampled_from([0.25, 8.0]))
def test_a_change_heeds_neither_shift_nor_scale(pairs, shift, scale):
    values = np.asarray(pairs, float)[:, 0]
    steps = np.arange(len(values))
    one, other = trends.change(steps, values), trends.change(steps, shift + scale * values)
    assert other.explained == pytest.approx(one.explained, abs=1e-9)
    assert other.after - other.before == pytest.approx(scale * (one.after - one.before), abs=1e-6)


def test_least_is_left_at_the_split():
    """Against trying every place."""
    for n in (8, 9, 30):
        values = RNG.normal(size=n)
        left = [
            ((values[:k] - values[:k].mean()) ** 2).sum()
            + ((values[k:] - values[k:].mean()) ** 2).sum()
            for k in range(1, n)
        ]
        found = trends.change(np.arange(n), values)
        assert found.step == 1 + int(np.argmin(left))
        total = ((values - values.mean()) ** 2).sum()
        assert found.explained == pytest.approx(1 - min(left) / total)


@pytest.mark.parametrize(
    ("x", "y"), [([1.0] * 7, [1.0] * 7), ([1.0] * 9, [1.0] * 8), ([1.0] * 8, [np.nan] * 8)]
)
def test_what_says_too_little_is_refused(x, y):
    with pytest.raises(ValueError, match="curve"):
        trends.correlation(x, y, "pearson")
