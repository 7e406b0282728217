"""ToolRL's reward of a run: episodes are scored by rule, at once, in the sampler's own thread.

What a token of end of text spells is no part of an output. With live tools an episode is
scored as a whole (`score_trajectory`), otherwise as the one turn that it is.
"""

from concurrent.futures import Future
from typing import Literal

from torl_jax.episode import End, Episode, Score
from torl_jax.rewards import toolrl
from torl_jax.rewards.base import settled


class Structured:
    """Scores episodes against their problems' gold calls; golds must have passed `check_gold`."""

    def __init__(
        self,
        variant: toolrl.ToolRLReward,
        ends: tuple[str, ...],
        *,
        live: bool = False,
        thoughts: Literal["keep", "drop"] = "keep",
    ) -> None:
        """`ends`: what the end-of-text tokens spell. `thoughts`: of golds, see `gold_of`."""
        self._variant, self._ends, self._live = variant, ends, live
        self._thoughts: Literal["keep", "drop"] = thoughts

    def submit(self, episode: Episode, step: int) -> "Future[Score]":
        """As `Reward.submit`."""
        if episode.end is End.ABORT:
            return settled(Score(0.0, correct=False))
        turns = list(episode.policy_texts) or [""]
        if episode.end is End.EOS:
            turns[-1] = self._without_end(turns[-1])
        gold = gold_of(episode.problem.answer, self._thoughts)
        if self._live:
            score = toolrl.score_trajectory(turns, gold, variant=self._variant, step=step)
        else:
            score = toolrl.score("".join(turns), gold, variant=self._variant, step=step)
        return settled(score)

    def _without_end(self, turn: str) -> str:
        return next((turn.removesuffix(end) for end in self._ends if turn.endswith(end)), turn)


def gold_of(answer: str, thoughts: Literal["keep", "drop"]) -> str:
    """The gold text to score against: with "drop" tags that its thoughts mention are none."""
    return toolrl.without_thought(answer) if thoughts == "drop" else answer
