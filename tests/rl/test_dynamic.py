"""Sampling until the batch is full."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.episode import End, Episode, Problem, Score
from torl_jax.rl.dynamic import Group, fill


class Source:
    """Groups in order, of which some are usable."""

    def __init__(self, usable):
        self.usable, self.asked, self.taken = usable, [], 0

    def __call__(self, count):
        self.asked.append(count)
        self.taken += count
        return [self.group(i) for i in range(self.taken - count, self.taken)]

    def group(self, i):
        episode = Episode(Problem(str(i), "", ""), 0, (), (), End.EOS)
        return Group((episode,), (Score(float(i), False),), self.usable(i))


def ids(step):
    return [int(episode.problem.id) for episode in step.episodes]


def test_one_rollout_is_enough_where_all_are_usable():
    source = Source(lambda i: True)
    step = fill(source, 8, 5)
    assert (source.asked, step.rollouts, step.sampled) == ([8], 1, 8)
    assert ids(step) == list(range(8)) and step.usable.all()


def test_dropped_groups_are_replaced_by_later_ones():
    source = Source(lambda i: i % 2 == 1)
    step = fill(source, 8, 5)
    assert source.asked == [8, 8] and step.rollouts == 2 and step.sampled == 16
    assert ids(step) == [1, 3, 5, 7, 9, 11, 13, 15] and step.usable.all()
    assert [score.total for score in step.scores] == [1, 3, 5, 7, 9, 11, 13, 15]


def test_few_are_asked_for_where_few_are_missing():
    source = Source(lambda i: i != 3)
    fill(source, 8, 5)
    assert source.asked == [8, 2], "one is missing, seven of eight are usable"


def test_after_the_last_rollout_the_places_are_filled_up():
    source = Source(lambda i: i == 2)
    step = fill(source, 4, 3)
    assert source.asked == [4, 4, 4]
    assert ids(step) == [2, 0, 1, 3] and step.usable.tolist() == [True, False, False, False]
    assert not fill(Source(lambda i: False), 4, 2).usable.any()


@given(st.lists(st.booleans(), min_size=60, max_size=60), st.integers(1, 8), st.integers(1, 6))
def test_a_step_is_always_full_and_holds_the_first_usable_groups(flags, wanted, rollouts):
    source = Source(lambda i: flags[i])
    step = fill(source, wanted, rollouts)
    assert len(step.groups) == wanted and step.sampled == source.taken
    assert step.rollouts == len(source.asked) <= rollouts
    assert all(0 < asked <= wanted for asked in source.asked)
    good = [i for i in range(source.taken) if flags[i]]
    count = int(step.usable.sum())
    assert ids(step)[:count] == good[:wanted] and count == min(len(good), wanted)
    assert step.usable.tolist() == sorted(step.usable.tolist(), reverse=True)
    assert count == wanted or step.rollouts == rollouts


def test_what_sampling_raises_ends_the_step():
    def sample(count):
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        fill(sample, 2, 2)


def test_what_has_no_place_is_left_over_and_begins_the_next_step():
    source = Source(lambda i: i < 3 or i > 5)
    first = fill(source, 4, 3)
    assert source.asked == [4, 2, 2] and ids(first) == [0, 1, 2, 6]
    over = [int(group.episodes[0].problem.id) for group in first.over]
    assert over == [7]
    second = fill(source, 4, 3, first.over)
    assert source.asked[3:] == [3] and ids(second) == [7, 8, 9, 10]
    assert (second.sampled, second.rollouts, len(second.over)) == (3, 1, 0)


def test_a_step_samples_something_whatever_is_left_over():
    source = Source(lambda i: True)
    left = [source.group(100 + i) for i in range(6)]
    step = fill(source, 4, 3, left)
    assert source.asked == [1] and ids(step) == [100, 101, 102, 103]
    assert step.sampled == 1 and [group.episodes[0].problem.id for group in step.over] == ["0"]
