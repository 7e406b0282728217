"""The outcome reward: one number for a right final answer, another for any other.

    total = right if grade(gold, what the policy wrote) else wrong      (+1 / -1)
            + what `shaping.py` adds                                    (nothing by default)

Only the policy's own words are graded: a box printed by a program counts for
nothing. Correctness is kept beside the reward, so that no shaping ever leaks into
accuracy. An aborted episode (our own failure) scores 0 and is masked later.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future

from torl_jax.envs.base import then
from torl_jax.episode import End, Episode, Score
from torl_jax.rewards import shaping
from torl_jax.rewards.answer import Grade, Grader


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a right and a wrong final answer are worth, and what is added.

    `most`: the response budget in tokens, for `overlong`. See `config.Reward`.
    """

    right: float = 1.0
    wrong: float = -1.0
    execution: float = 0.0
    execution_rule: str = "fixed"
    overlong: float = 0.0
    overlong_buffer: int = 0
    most: int = 0

    def score(self, episode: Episode, grade: Grade) -> Score:
        """The score of an episode that was graded so."""
        parts = {"answer": self.right if grade.correct else self.wrong}
        if self.execution and shaping.failed(episode, self.execution_rule):
            parts["execution"] = self.execution
        if self.overlong:
            share = shaping.overlong(episode, self.most, self.overlong_buffer)
            parts["overlong"] = self.overlong * share
        return Score(sum(parts.values()), grade.correct, parts, grade.failure)


PLAIN = Outcome()


class Grading:
    """Grades the episodes of one rollout as they finish, while others are sampled."""

    def __init__(self, grader: Grader, reward: Outcome = PLAIN) -> None:
        self._grader, self._reward = grader, reward
        self._scores: dict[tuple[str, int], Future[Score]] = {}

    def add(self, episode: Episode) -> None:
        """Starts grading a finished episode."""
        future = submit(episode, self._grader, self._reward)
        self._scores[episode.problem.id, episode.sample] = future

    def scores(self, episodes: Sequence[Episode]) -> list[Score]:
        """The scores of added episodes, in the order asked for; waits for the last."""
        return [self._scores[episode.problem.id, episode.sample].result() for episode in episodes]


def score(episodes: Sequence[Episode], grader: Grader, reward: Outcome = PLAIN) -> list[Score]:
    """The score of each episode, in order; all are graded side by side."""
    waiting = [submit(episode, grader, reward) for episode in episodes]
    return [future.result() for future in waiting]


def submit(episode: Episode, grader: Grader, reward: Outcome = PLAIN) -> "Future[Score]":
    """The score of one episode when it is there, so that grading overlaps sampling."""
    if episode.end is End.ABORT:
        aborted: Future[Score] = Future()
        aborted.set_result(Score(0.0, correct=False))
        return aborted

    def to_score(grade: Grade) -> Score:
        return reward.score(episode, grade)

    return then(grader.submit(episode.problem.answer, *episode.policy_texts), to_score)
