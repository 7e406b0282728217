"""GRPO's and GDPO's advantages: worked numbers, relations, and the reference's own vectors."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.rl import advantages


def lengths(rewards):
    return np.ones(len(rewards))


def grpo(rewards, groups):
    return advantages.grpo(rewards, groups, lengths(rewards))


def gdpo(parts, groups):
    return advantages.gdpo(parts, groups, lengths(parts))


def plain(rewards, groups):
    out = np.zeros(len(rewards))
    for i, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        same = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        std = np.std(same, ddof=1) if len(same) > 1 else 0.0
        out[i] = (reward - np.mean(same)) / (std + 1e-6)
    return out


def test_worked_numbers():
    # Rewards 1, 1, -1, -1: mean 0, variance 4 / 3 with ddof = 1.
    got = grpo(np.asarray([1.0, 1, -1, -1]), np.zeros(4, int))
    np.testing.assert_allclose(got, np.asarray([1, 1, -1, -1]) / (np.sqrt(4 / 3) + 1e-6))
    # Two samples: +-1 over sqrt(2); ddof = 0 would give +-1.
    got = grpo(np.asarray([1.0, -1]), np.zeros(2, int))
    np.testing.assert_allclose(got, [2**-0.5, -(2**-0.5)], rtol=1e-5)
    assert got.dtype == np.float32


cases = st.lists(
    st.tuples(st.sampled_from([-3.0, -1.0, 0.1, 0.5, 1.0, 4.0]), st.integers(0, 4)),
    min_size=1,
    max_size=24,
).map(lambda rows: (np.asarray([r for r, _ in rows]), np.asarray([g for _, g in rows])))


@given(cases)
def test_five_lines_of_numpy_agree(case):
    np.testing.assert_allclose(grpo(*case), plain(*case), atol=1e-5)


@given(cases, st.randoms())
def test_order_does_not_matter(case, random):
    rewards, groups = case
    order = list(range(len(rewards)))
    random.shuffle(order)
    np.testing.assert_allclose(grpo(rewards[order], groups[order]), grpo(*case)[order], atol=1e-6)


@given(cases, st.sampled_from([-8.0, 0.25, 1024.0]))
def test_a_shift_of_all_rewards_changes_nothing(case, shift):
    rewards, groups = case
    np.testing.assert_allclose(grpo(rewards + shift, groups), grpo(*case), atol=1e-4)


@given(cases)
def test_each_group_sums_to_zero(case):
    rewards, groups = case
    np.testing.assert_allclose(np.bincount(groups, grpo(rewards, groups)), 0, atol=1e-5)


def test_nothing_to_compare_with_is_zero():
    rewards = np.asarray([1.0, 0.1, 0.1, 0.1, -1.0])
    groups = np.asarray([9, 2, 2, 2, -4])
    np.testing.assert_allclose(grpo(rewards, groups), np.zeros(5), atol=1e-6)


def test_no_episodes():
    assert grpo(np.zeros(0), np.zeros(0, int)).shape == (0,)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="equal"):
        grpo(np.zeros(3), np.zeros(4, int))
    with pytest.raises(ValueError, match="equal"):
        advantages.opo(np.zeros(3), np.zeros(3, int), np.ones(4))


def test_reference_vectors(shared):
    """Sequence advantages of the reference; where it puts a per-token KL in the reward, with it."""
    vectors = json.loads((shared / "vectors/toolrl.json").read_text())["algorithm_vectors"]
    for case in vectors["grpo_advantage"]:
        scores = np.asarray(case["scores"])
        if case["beta"]:
            gaps = np.asarray(case["per_token_logp_minus_ref"])
            real = np.arange(case["T"]) < np.asarray(case["lengths"])[:, None]
            scores = scores - case["beta"] * (gaps * real).sum(1)
        groups = np.unique(case["groups"], return_inverse=True)[1]
        wanted = case["advantage_per_sequence"]
        # The reference counts in float32, where 4.0 + 0.0005 has few digits of its spread left.
        atol = 2e-4 if case["beta"] else 2e-5
        np.testing.assert_allclose(grpo(scores, groups), wanted, atol=atol)


def summed(parts, groups):
    return np.sum([plain(part, groups) for part in np.asarray(parts).T], axis=0)


def plain_gdpo(parts, groups):
    sums = summed(parts, groups)
    std = np.std(sums, ddof=1) if len(sums) > 1 else 0.0
    return (sums - np.mean(sums)) / (std + 1e-4)


def test_gdpo_in_worked_numbers():
    # One group. Part 0 is 1, 1, 0, 0: +-0.5 over 1 / sqrt(3), so +-0.8660. Part 1 is 3, 1, 1, -1:
    # 2, 0, 0, -2 over sqrt(8 / 3), so +-1.2247. Sums 2.0907, 0.8660, -0.8660, -2.0907.
    parts = np.asarray([[1.0, 3], [1, 1], [0, 1], [0, -1]])
    sums = np.asarray([2.0907, 0.8660, -0.8660, -2.0907])
    wanted = sums / np.sqrt((sums**2).sum() / 3)
    np.testing.assert_allclose(gdpo(parts, np.zeros(4, int)), wanted, atol=1e-4)
    assert gdpo(parts, np.zeros(4, int)).dtype == np.float32


def test_gdpo_tells_apart_what_a_sum_does_not():
    # In ToolRL's ranges: in shape and half right (1, 0), out of shape and righter (0, 1).
    parts = np.asarray([[1.0, 0], [0, 1], [1, 3], [0, -3]])
    groups = np.zeros(4, int)
    of_sum, of_parts = grpo(parts.sum(1), groups), gdpo(parts, groups)
    assert of_sum[0] == of_sum[1]
    assert of_parts[0] > of_parts[1] + 0.1
    # Two groups of two: one part better in the first, both in the second.
    parts = np.asarray([[0.0, 0], [1, 0], [0, 0], [1, 1]])
    groups = np.asarray([0, 0, 1, 1])
    of_sum, of_parts = grpo(parts.sum(1), groups), gdpo(parts, groups)
    np.testing.assert_allclose(of_sum[1], of_sum[3], rtol=1e-5)
    np.testing.assert_allclose(2 * of_parts[1], of_parts[3], rtol=1e-4)


def test_gdpo_of_two_parts_with_equal_sums_is_zero():
    # They mirror each other, so nothing is lost where such groups are dropped by their sums.
    parts = np.asarray([[1.0, 0], [1, 0], [0.5, 0.5], [0, 1]])
    np.testing.assert_allclose(gdpo(parts, np.zeros(4, int)), 0, atol=1e-6)


parts = st.lists(
    st.tuples(*[st.sampled_from([-3.0, -1.0, 0.1, 0.5, 1.0, 4.0])] * 3, st.integers(0, 3)),
    min_size=1,
    max_size=16,
).map(lambda rows: (np.asarray([r[:3] for r in rows]), np.asarray([r[3] for r in rows])))


@given(parts)
def test_gdpo_in_five_lines_of_numpy(case):
    np.testing.assert_allclose(gdpo(*case), plain_gdpo(*case), atol=1e-4)


# Where all parts of all groups cancel, what is left is a rest of eps: it heeds anything.
spread_parts = parts.filter(lambda case: np.std(summed(*case)) > 0.01)


@given(spread_parts, st.sampled_from([-8.0, 0.25, 1024.0]), st.integers(0, 2))
def test_gdpo_heeds_no_shift_of_a_part(case, shift, part):
    values, groups = case
    moved = values.copy()
    moved[:, part] += shift
    np.testing.assert_allclose(gdpo(moved, groups), gdpo(values, groups), atol=1e-3)


@given(spread_parts, st.sampled_from([0.25, 8.0]), st.integers(0, 2))
def test_gdpo_heeds_no_scale_of_a_part(case, scale, part):
    values, groups = case
    scaled = values.copy()
    scaled[:, part] *= scale
    np.testing.assert_allclose(gdpo(scaled, groups), gdpo(values, groups), atol=1e-3)


@given(spread_parts)
def test_gdpo_is_normal_over_the_batch(case):
    got = gdpo(*case).astype(np.float64)
    np.testing.assert_allclose(got.sum(), 0, atol=1e-4)
    np.testing.assert_allclose(np.std(got, ddof=1), 1, atol=0.01)


@given(cases)
def test_gdpo_of_one_part_in_one_group_is_grpo(case):
    rewards, _ = case
    groups = np.zeros(len(rewards), int)
    np.testing.assert_allclose(gdpo(rewards[:, None], groups), grpo(rewards, groups), atol=1e-3)


def test_gdpo_checks_shapes():
    assert gdpo(np.zeros((0, 2)), np.zeros(0, int)).shape == (0,)
    assert gdpo(np.zeros((3, 0)), np.zeros(3, int)).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="must be"):
        gdpo(np.zeros((3, 2)), np.zeros(4, int))
    with pytest.raises(ValueError, match="must be"):
        gdpo(np.zeros(3), np.zeros(3, int))
