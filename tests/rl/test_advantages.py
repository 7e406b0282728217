"""GRPO's advantages: worked numbers, relations, and the reference's own vectors."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.rl.advantages import grpo


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
