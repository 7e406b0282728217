"""Which episodes count, which are trained on, which groups are worth a place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.config import Filters
from torl_jax.episode import Author, End, Episode, Problem, Score, Segment
from torl_jax.protocols.torl import ToRL
from torl_jax.rl import filters

COMPAT = ToRL()


def episode(end=End.EOS, *turns):
    segments = [Segment(Author.PROMPT, (1,), "\\boxed{1}?")]
    for turn in turns:
        segments.append(Segment(Author.POLICY, (2,), turn, (-1.0,)))
        segments.append(Segment(Author.TOOL, (3,), "```python\n1\n```\n\\boxed{3}"))
    return Episode(Problem("p", "", ""), 0, tuple(segments[: -1 if turns else None]), (), end)


ENDS = [episode(end) for end in End]


def trained(episodes, cfg, usable=None):
    groups = np.ones(1, bool) if usable is None else np.asarray(usable)
    return filters.trained(episodes, groups, COMPAT, cfg).tolist()


def test_by_default_only_our_own_failures_are_left_out():
    wanted = [end is not End.ABORT for end in End]
    assert filters.counted(ENDS, Filters()).tolist() == wanted == trained(ENDS, Filters())


def test_an_overlong_episode_is_masked_or_removed():
    short = [end not in (End.ABORT, End.LENGTH) for end in End]
    for how in ("mask", "remove"):
        assert trained(ENDS, Filters(overlong=how)) == short
    masked, removed = (filters.counted(ENDS, Filters(overlong=how)) for how in ("mask", "remove"))
    assert masked.tolist() == [end is not End.ABORT for end in End]
    assert removed.tolist() == short


CODE, ANSWER, OPEN = "a\n```python\n1\n```\n```output", "it is \\boxed{2}", "```python\n1\n"


@pytest.mark.parametrize(
    ("turns", "void"),
    [
        ((CODE, ANSWER), False),
        ((ANSWER,), False),
        ((CODE, CODE, "I do not know."), True),
        ((OPEN, ANSWER), True),
        (("hm", CODE, ANSWER), True),
        (("\\boxed{2",), True),
        ((), False),
    ],
)
def test_a_void_turn_masks_its_episode_which_still_counts(turns, void):
    made = episode(End.EOS, *turns)
    assert filters.void(made, COMPAT) is void
    assert trained([made], Filters(void="mask")) == [not void]
    assert filters.counted([made], Filters(void="mask")).tolist() == [True]
    assert trained([made], Filters()) == [True]


def scores(*totals):
    return [Score(total, total > 0) for total in totals]


FOUR = [episode()] * 4


@pytest.mark.parametrize(
    ("cfg", "totals", "usable"),
    [
        (Filters(), (1, 1, 1, 1), True),
        (Filters(zero_variance=True), (1, 1, 1, 1), False),
        (Filters(zero_variance=True), (-1, -1, -1, -1), False),
        (Filters(zero_variance=True), (-1, -1.5, -1, -1), True),
        (Filters(accuracy_low=0.25, accuracy_high=0.75), (1, -1, -1, -1), True),
        (Filters(accuracy_low=0.26), (1, -1, -1, -1), False),
        (Filters(accuracy_high=0.74), (1, 1, 1, -1), False),
        (Filters(accuracy_low=0.1), (-1, -1.5, -1, -1), False),
    ],
)
def test_usable_groups(cfg, totals, usable):
    assert filters.usable(FOUR, scores(*totals), cfg) is usable


def test_equal_sums_of_unequal_parts_differ_where_parts_count_by_themselves():
    shared = [Score(1.0, False, {"format": x, "correctness": 1.0 - x}) for x in (0, 1, 0, 1)]
    equal = [Score(1.0, False, {"format": 1.0} | more) for more in ({}, {"length": 0.0}, {}, {})]
    cfg = Filters(zero_variance=True)
    assert not filters.usable(FOUR, shared, cfg)
    assert filters.usable(FOUR, shared, cfg, by_part=True)
    assert not filters.usable(FOUR, equal, cfg, by_part=True)
    failed = [episode(End.ABORT), *FOUR[1:]]
    assert not filters.usable(failed, [shared[0], *[shared[1]] * 3], cfg, by_part=True)


def test_what_does_not_count_cannot_make_a_group_usable():
    failed = [episode(End.ABORT), *FOUR[1:]]
    assert not filters.usable(failed, scores(1, -1, -1, -1), Filters(zero_variance=True))
    assert not filters.usable([episode(End.ABORT)] * 4, scores(0, 0, 0, 0), Filters())
    cut = [episode(End.LENGTH), *FOUR[1:]]
    cfg = Filters(zero_variance=True, overlong="remove")
    assert not filters.usable(cut, scores(-1, 1, 1, 1), cfg)
    assert filters.usable(cut, scores(-1, 1, 1, 1), Filters(zero_variance=True, overlong="mask"))


@given(st.lists(st.booleans(), min_size=1, max_size=5), st.integers(1, 3))
def test_an_unusable_group_is_not_trained_on(usable, size):
    episodes = [episode()] * (size * len(usable))
    assert trained(episodes, Filters(), usable) == [ok for ok in usable for _ in range(size)]
