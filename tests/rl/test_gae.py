"""Generalised advantages: five lines of numpy, packing, tools in between, and vectors."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torl_jax.rl import gae

ROW = 24
# One shape, and the rates as arguments: one compilation for all examples.
GAE = jax.jit(gae.gae)


def plain(rewards, values, gamma, lam):
    """An episode of nothing but policy tokens."""
    found, value, advantage = np.zeros(len(rewards)), 0.0, 0.0
    for t in reversed(range(len(rewards))):
        advantage = rewards[t] + gamma * value - values[t] + gamma * lam * advantage
        value, found[t] = values[t], advantage
    return found


number = st.floats(-2, 2, width=32)
share = st.sampled_from([0.0, 0.5, 0.9, 1.0])
episode = st.lists(st.tuples(number, number), min_size=1, max_size=6)


def packed(episodes, gaps=None):
    """Rows [1, ROW] of episodes of (reward, value), each place with `gaps` tool places before it.

    What is not the policy's holds junk.
    """
    arrays = {name: np.full((1, ROW), 7.0, np.float32) for name in ("rewards", "values")}
    mask, segments = np.zeros((1, ROW), np.float32), np.zeros((1, ROW), np.int32)
    where, t = [], 0
    for number_, places in enumerate(episodes, start=1):
        own = []
        for i, (reward, value) in enumerate(places):
            start = t
            t += gaps[number_ - 1][i] if gaps else 0
            arrays["rewards"][0, t], arrays["values"][0, t], mask[0, t] = reward, value, 1
            segments[0, start : t + 1] = number_
            own.append(t)
            t += 1
        where.append(own)
    return (arrays["rewards"], arrays["values"], mask, segments), where


@given(st.lists(episode, min_size=1, max_size=3), share, share)
def test_packed_is_each_alone_and_five_lines_of_numpy(episodes, gamma, lam):
    arrays, where = packed(episodes)
    found = np.asarray(GAE(*arrays, gamma, lam))
    for places, own in zip(episodes, where, strict=True):
        wanted = plain(*np.asarray(places, np.float64).T, gamma, lam)
        np.testing.assert_allclose(found[0, own], wanted, atol=2e-5)
    assert (found[arrays[2] == 0] == 0).all()
    alone, where = packed(episodes[-1:])
    padded = np.asarray(GAE(*alone, gamma, lam))
    np.testing.assert_array_equal(padded[0, where[0]], found[0, own])


@given(st.data(), share, share)
def test_tool_tokens_anywhere_change_nothing(data, gamma, lam):
    episodes = data.draw(st.lists(st.lists(st.tuples(number, number), min_size=1, max_size=3),
                                  min_size=1, max_size=2))  # fmt: skip
    gaps = [[data.draw(st.integers(0, 3)) for _ in places] for places in episodes]
    (plainly, own), (spread, apart) = packed(episodes), packed(episodes, gaps)
    a, b = (np.asarray(GAE(*arrays, gamma, lam)) for arrays in (plainly, spread))
    for before, after in zip(own, apart, strict=True):
        np.testing.assert_array_equal(a[0, before], b[0, after])
    assert (b[spread[2] == 0] == 0).all()


@settings(max_examples=20)
@given(st.lists(episode, min_size=1, max_size=3))
def test_undiscounted_returns_are_the_rewards_to_go(episodes):
    arrays, where = packed(episodes)
    returns = np.asarray(GAE(*arrays, 1.0, 1.0)) + arrays[1]
    for places, own in zip(episodes, where, strict=True):
        wanted = np.cumsum([reward for reward, _ in places][::-1])[::-1]
        np.testing.assert_allclose(returns[0, own], wanted, atol=1e-5)


def test_one_step_looks_no_further_than_the_next_value():
    arrays, _ = packed([[(0.0, 0.5), (0.0, 0.25), (1.0, 2.0)]])
    found = np.asarray(GAE(*arrays, 0.5, 0.0))[0, :3]
    np.testing.assert_allclose(found, [0.25 * 0.5 - 0.5, 2.0 * 0.5 - 0.25, 1.0 - 2.0])


def test_the_last_policy_token_of_each_episode():
    mask = np.asarray([[0, 1, 1, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]])
    segments = np.asarray([[1, 1, 1, 1, 2, 2, 2, 3, 3, 3], [1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])
    wanted = np.asarray([[0, 0, 1, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(gae.last(mask, segments), wanted)


@given(st.lists(st.lists(number, max_size=5), min_size=1, max_size=4))
def test_pooled_is_the_mean_and_variance_of_all(parts):
    rows = [np.full((1, 8), 99.0, np.float32) for _ in parts]
    masks = [np.zeros((1, 8), np.float32) for _ in parts]
    for row, mask, part in zip(rows, masks, parts, strict=True):
        row[0, : len(part)], mask[0, : len(part)] = part, 1
    found = gae.pooled([gae.moments(row, mask) for row, mask in zip(rows, masks, strict=True)])
    whole = np.concatenate([np.asarray(part, np.float64) for part in parts])
    mean = whole.mean() if len(whole) else 0.0
    variance = whole.var(ddof=1) if len(whole) > 1 else 0.0
    np.testing.assert_allclose(found, (mean, variance), atol=1e-5)


@pytest.fixture
def vectors(shared):
    return json.loads((shared / "vectors/toolrl.json").read_text())["algorithm_vectors"]


def whitened(x, mask):
    return np.asarray(gae.whiten(x, *gae.pooled([gae.moments(x, mask)])))


def test_reference_gae(vectors):
    for case in vectors["gae"]:
        rewards, values, mask = (np.asarray(case[k]) for k in ("rewards", "values", "mask"))
        one = np.ones(mask.shape, np.int32)
        advantage = gae.gae(rewards, values, mask, one, case["gamma"], case["lam"])
        np.testing.assert_allclose((advantage + values) * mask, case["returns"], atol=1e-5)
        np.testing.assert_allclose(
            whitened(advantage, mask), case["advantages_whitened"], atol=1e-5
        )


def test_reference_whitening(vectors):
    for case in vectors["masked_whiten"]:
        x, mask = np.asarray(case["x"], np.float32), np.asarray(case["mask"])
        np.testing.assert_allclose(whitened(x, mask), case["out"], atol=1e-5)
        _, variance = gae.pooled([gae.moments(x, mask)])
        assert variance == pytest.approx(case["unbiased_var"], abs=1e-6)
