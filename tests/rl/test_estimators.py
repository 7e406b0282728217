"""All estimators beside five lines of numpy, and what holds of each whatever the numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.rl.advantages import ESTIMATORS

OF_GROUPS = ("grpo", "dr_grpo", "rloo", "opo", "reinforce_pp_baseline")
ALL = (*OF_GROUPS, "reinforce_pp", "gae")


def plain(name, rewards, groups, tokens):
    """One episode after the other, as the papers write it."""
    return np.asarray([worth(name, i, rewards, groups, tokens) for i in range(len(rewards))])


def worth(name, i, rewards, groups, tokens):
    own, same = rewards[i], np.flatnonzero(groups == groups[i])
    others, length = same[same != i], tokens[same]
    match name:
        case "reinforce_pp" | "gae":
            return own
        case "dr_grpo" | "reinforce_pp_baseline":
            return own - rewards[same].mean()
        case "rloo":
            return own - rewards[others].mean() if len(others) else 0.0
        case "grpo":
            spread = np.std(rewards[same], ddof=1) if len(others) else 0.0
            return (own - rewards[same].mean()) / (spread + 1e-6)
        case "opo":
            return own - (length * rewards[same]).sum() / length.sum() if length.sum() else 0.0


rows = st.lists(
    st.tuples(
        st.sampled_from([-3.0, -1.0, 0.0, 0.1, 1.0, 4.0]), st.integers(0, 3), st.integers(0, 90)
    ),
    min_size=1,
    max_size=24,
)
cases = rows.map(lambda rows: tuple(np.asarray(column) for column in zip(*rows, strict=True)))


def run(name, rewards, groups, tokens):
    return ESTIMATORS[name].estimate(rewards, groups, tokens)


@pytest.mark.parametrize("name", ALL)
@given(case=cases)
def test_five_lines_of_numpy_agree(name, case):
    found = run(name, *case)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain(name, *case), atol=1e-5)


# Four samples of a problem: one right answer, three wrong ones; the right one is short.
WORKED = {
    "dr_grpo": [0.75, -0.25, -0.25, -0.25],
    "reinforce_pp_baseline": [0.75, -0.25, -0.25, -0.25],
    "rloo": [1.0, -1 / 3, -1 / 3, -1 / 3],
    "grpo": [1.5, -0.5, -0.5, -0.5],  # the sample deviation is 1 / 2
    "opo": [0.9, -0.1, -0.1, -0.1],  # 10 of 100 tokens are the right one's
    "reinforce_pp": [1, 0, 0, 0],
    "gae": [1, 0, 0, 0],
}


@pytest.mark.parametrize("name", ALL)
def test_worked_numbers(name):
    found = run(name, np.asarray([1.0, 0, 0, 0]), np.zeros(4, int), np.asarray([10, 20, 30, 40]))
    np.testing.assert_allclose(found, WORKED[name], rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
@given(case=cases, random=st.randoms())
def test_order_does_not_matter(name, case, random):
    order = list(range(len(case[0])))
    random.shuffle(order)
    found = run(name, *(column[order] for column in case))
    np.testing.assert_allclose(found, run(name, *case)[order], atol=1e-5)


@pytest.mark.parametrize("name", OF_GROUPS)
@given(case=cases, shift=st.sampled_from([-8.0, 0.25, 1024.0]))
def test_a_shift_of_all_rewards_changes_nothing(name, case, shift):
    rewards, *rest = case
    np.testing.assert_allclose(run(name, rewards + shift, *rest), run(name, *case), atol=1e-3)


@pytest.mark.parametrize("name", ["reinforce_pp", "gae"])
def test_what_compares_nothing_heeds_a_shift(name):
    """Which whitening and the critic are there for."""
    rest = np.zeros(3, int), np.ones(3)
    assert not np.allclose(run(name, np.ones(3), *rest), run(name, np.zeros(3), *rest))


@pytest.mark.parametrize("name", OF_GROUPS)
@given(rewards=st.lists(st.sampled_from([-1.0, 0.1, 3.0]), min_size=1, max_size=6))
def test_a_group_of_one_and_equal_rewards_teach_nothing(name, rewards):
    alone = run(name, np.asarray(rewards), np.arange(len(rewards)), np.ones(len(rewards)))
    np.testing.assert_allclose(alone, 0, atol=1e-5)
    equal = run(name, np.full(5, rewards[0]), np.zeros(5, int), np.arange(5))
    np.testing.assert_allclose(equal, 0, atol=1e-5)


@pytest.mark.parametrize("name", OF_GROUPS)
@given(case=cases)
def test_another_group_is_none_of_mine(name, case):
    rewards, groups, tokens = case
    moved = np.where(groups == groups[0], rewards, rewards + 7.0)
    mine = groups == groups[0]
    found = run(name, moved, groups, tokens)
    np.testing.assert_allclose(found[mine], run(name, *case)[mine], atol=1e-5)


@given(case=cases)
def test_opo_of_equal_lengths_is_the_mean(case):
    rewards, groups, _ = case
    equal = np.full(len(rewards), 7)
    np.testing.assert_allclose(
        run("opo", rewards, groups, equal), run("dr_grpo", rewards, groups, equal), atol=1e-5
    )


@given(case=cases)
def test_the_weighted_sum_of_opo_is_zero(case):
    """What the tokens of a group add up to: the baseline takes nothing from the gradient's mean."""
    _, groups, tokens = case
    np.testing.assert_allclose(np.bincount(groups, tokens * run("opo", *case)), 0, atol=1e-2)


@pytest.mark.parametrize("name", ALL)
def test_no_episodes(name):
    assert run(name, np.zeros(0), np.zeros(0, int), np.zeros(0)).shape == (0,)


def test_each_name_is_one_of_the_recipes_choices():
    """And what belongs to it is as the papers have it."""
    assert set(ESTIMATORS) == {*ALL, "gdpo"}
    whitened = {name for name, kind in ESTIMATORS.items() if kind.whitens}
    assert whitened == {"rloo", "opo", "reinforce_pp", "reinforce_pp_baseline", "gae"}
    assert [name for name, kind in ESTIMATORS.items() if kind.critic] == ["gae"]
    assert {name for name, kind in ESTIMATORS.items() if not kind.compares} == {
        "reinforce_pp",
        "gae",
    }
