"""Reward and correctness of whole episodes."""

from collections.abc import Iterator

import pytest

from torl_jax.episode import Author, End, Episode, Problem, Score, Segment
from torl_jax.rewards.answer import Grader
from torl_jax.rewards.outcome import PLAIN, Answers, Outcome

PROBLEM = Problem("0", "What is one half?", "1/2")
RIGHT, WRONG = Score(1.0, True, {"answer": 1.0}), Score(-1.0, False, {"answer": -1.0})


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1) as made:
        yield made


def episode(*parts: tuple[Author, str], end: End = End.EOS) -> Episode:
    segments = [Segment(Author.PROMPT, (1,), r"Answer in \boxed{1/2}.")]
    for author, text in parts:
        segments.append(Segment(author, (2,), text, (-1.0,) if author is Author.POLICY else ()))
    return Episode(PROBLEM, 0, tuple(segments), (), end)


def score(episodes: list[Episode], grader: Grader, worth: Outcome = PLAIN) -> list[Score]:
    reward = Answers(grader, worth)
    return [future.result() for future in [reward.submit(episode) for episode in episodes]]


SAID = (Author.POLICY, r"It is \boxed{0.5}.")
UNSURE = (Author.POLICY, "Who knows.")
PRINTED = (Author.TOOL, r"\boxed{0.5}")


def test_only_what_the_policy_wrote_counts(grader: Grader) -> None:
    episodes = [
        episode(SAID),
        episode(UNSURE),
        episode(UNSURE, PRINTED),
        episode(SAID, (Author.TOOL, r"\boxed{7}"), UNSURE),
        episode((Author.POLICY, r"\boxed{"), (Author.TOOL, "0.5}")),
        episode(SAID, end=End.LENGTH),
    ]
    assert score(episodes, grader) == [RIGHT, WRONG, WRONG, RIGHT, WRONG, RIGHT]


def test_an_aborted_episode_scores_nothing(grader: Grader) -> None:
    assert score([episode(SAID, end=End.ABORT)], grader) == [Score(0.0, False)]


def test_other_worths_leave_correctness_alone(grader: Grader) -> None:
    worth = Outcome(right=2.0, wrong=0.0)
    right, wrong = score([episode(SAID), episode(UNSURE)], grader, worth)
    assert (right.total, right.correct, wrong.total, wrong.correct) == (2.0, True, 0.0, False)
