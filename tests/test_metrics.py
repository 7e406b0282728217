"""Ratios add up however they are split; rollout figures match a batch worked by hand."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torl_jax.episode import (
    Author,
    Call,
    End,
    Episode,
    Observation,
    Problem,
    Score,
    Segment,
    Turn,
)
from torl_jax.metrics import Ratio, mean, rollout_ratios, rollout_stats


def segment(author: Author, text: str, tokens: int) -> Segment:
    logps = (-1.0,) * tokens if author is Author.POLICY else ()
    return Segment(author, tuple(range(tokens)), text, logps)


def episode(problem: str, sample: int, end: End, *parts: Segment, turns: tuple[Turn, ...] = ()):
    prompt = segment(Author.PROMPT, "Q: 1+1\n", 7)
    return Episode(Problem(problem, "1+1", "2"), sample, (prompt, *parts), turns, end)


def ran(passed: bool, seconds: float) -> Turn:
    status = "ok" if passed else "error"
    return Turn(Call("1"), Observation("2", passed, status, seconds))


def hand_made() -> tuple[list[Episode], list[Score]]:
    """Two problems of two samples, and one that only failed."""
    policy, tool = Author.POLICY, Author.TOOL
    block = "```python\nprint(2)\n```\n"
    episodes = [
        # Two blocks written, both executed, one passed.
        episode(
            "a",
            0,
            End.ANSWER,
            segment(policy, block + "```output", 10),
            segment(tool, "\n2\n```\n", 4),
            segment(policy, block + "```output", 6),
            segment(tool, "\nNameError\n```\n", 8),
            segment(policy, "\\boxed{2}", 2),
            turns=(ran(True, 0.5), ran(False, 1.5)),
        ),
        # No code, a different reward: problem a is usable.
        episode("a", 1, End.EOS, segment(policy, "\\boxed{3}", 4)),
        # A block past the budget: written, not executed.
        episode("b", 0, End.CALLS, segment(policy, block + "```output", 8)),
        # A tool slot without a block; the same reward: problem b is not usable.
        episode("b", 1, End.LENGTH, segment(policy, "```output", 2), turns=(Turn(None, None),)),
        # Our own failure: in no mean, though it ran a block and has another reward.
        episode("b", 2, End.ABORT, segment(policy, block, 100), turns=(ran(True, 99.0),)),
        episode("c", 0, End.ABORT),
    ]
    scores = [
        Score(1.0, True),
        Score(-1.0, False),
        Score(-1.0, False),
        Score(-1.0, False),
        Score(0.0, True),
        Score(0.0, True),
    ]
    return episodes, scores


def test_rollout_stats_of_a_batch_worked_by_hand():
    stats = rollout_stats(*hand_made())
    assert stats == pytest.approx(
        {
            "rollout/reward": -2 / 4,
            "rollout/accuracy": 1 / 4,
            "rollout/code_ratio": 2 / 4,
            "rollout/pass_ratio": 1 / 2,
            "rollout/executed_ratio": 2 / 3,
            "rollout/response_length": (30 + 4 + 8 + 2) / 4,
            "rollout/model_tokens": (18 + 4 + 8 + 2) / 4,
            "rollout/tool_tokens": 12 / 4,
            "rollout/end_answer": 1 / 6,
            "rollout/end_eos": 1 / 6,
            "rollout/end_length": 1 / 6,
            "rollout/end_calls": 1 / 6,
            "rollout/end_abort": 2 / 6,
            "time/tool_call": 1.0,
            "rollout/infra_failure_ratio": 2 / 6,
            "rollout/usable_groups": 1 / 3,
        }
    )


def test_problems_of_two_sources_with_one_id_are_two_groups():
    episodes = [
        Episode(Problem("1", "q", "a", source), 0, (), (), End.EOS) for source in ("x", "y")
    ]
    stats = rollout_stats(episodes, [Score(1.0, True), Score(-1.0, False)])
    assert stats["rollout/usable_groups"] == 0.0


def test_what_was_not_counted_is_nan():
    stats = rollout_stats([], [])
    assert all(math.isnan(value) for value in stats.values())


def test_scores_must_match_episodes():
    episodes, scores = hand_made()
    with pytest.raises(ValueError):
        rollout_stats(episodes, scores[:-1])


@settings(deadline=None)
@given(st.data())
def test_rollout_ratios_do_not_depend_on_the_split(data: st.DataObject):
    episodes, scores = hand_made()
    # Problems stay whole: usable_groups is defined on whole groups.
    cuts = data.draw(st.sets(st.sampled_from([2, 5])))
    edges = [0, *sorted(cuts), len(episodes)]
    total: dict[str, Ratio] = {}
    for low, high in itertools.pairwise(edges):
        for name, ratio in rollout_ratios(episodes[low:high], scores[low:high]).items():
            total[name] = total.get(name, Ratio()) + ratio
    assert total == rollout_ratios(episodes, scores)


@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=1), st.lists(st.integers(0, 100)), st.booleans())
def test_any_split_of_values_gives_one_mean(values: list[int], cuts: list[int], halves: bool):
    # Multiples of 1/2 add without rounding, so equality is exact.
    scaled = [value / 2 if halves else float(value) for value in values]
    edges = [0, *sorted(min(cut, len(scaled)) for cut in cuts), len(scaled)]
    parts = [mean(scaled[low:high]) for low, high in itertools.pairwise(edges)]
    assert sum(parts, Ratio()) == mean(scaled)
    assert sum(parts, Ratio()).value == sum(scaled) / len(scaled)


def test_a_mean_of_means_would_differ():
    parts = [mean([1.0]), mean([0.0, 0.0, 0.0])]
    assert (parts[0] + parts[1]).value == 0.25
    assert math.isnan(mean([]).value)
