"""Figures of merit: every mean is a ratio, every name has one meaning.

    value = (sum_1 + sum_2 + ...) / (weight_1 + weight_2 + ...)

Sums and weights are kept apart until the end, so the same mean comes out
however the episodes are split over microbatches or hosts. The names follow
ToRL (arXiv 2503.23383); `rollout_ratios` says what each counts.

This module is part of the words world: no jax.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from torl_jax.episode import Author, End, Episode, Observation, Score

FENCE = "```python"


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A mean that can still be added to: `sum` over `weight`."""

    sum: float = 0.0
    weight: float = 0.0

    def __add__(self, other: "Ratio") -> "Ratio":
        return Ratio(self.sum + other.sum, self.weight + other.weight)

    @property
    def value(self) -> float:
        """The mean; nan when nothing was counted (written as null)."""
        return self.sum / self.weight if self.weight else math.nan


def mean(values: Iterable[float]) -> Ratio:
    """The mean of `values` (numbers or truth values), each of weight one."""
    listed = [float(value) for value in values]
    return Ratio(math.fsum(listed), float(len(listed)))


def rollout_ratios(episodes: Sequence[Episode], scores: Sequence[Score]) -> dict[str, Ratio]:
    """What one batch of episodes did, as ratios that add over batches.

    Over all episodes:
      rollout/end_{answer,eos,length,calls,abort}  share that ended so
      rollout/infra_failure_ratio  share lost to our own failures (= end_abort)
      rollout/usable_groups        share of problems whose samples' rewards differ,
                                   that is, whose GRPO advantages are not all zero

    Over finished episodes (ABORT left out: such an episode says nothing of the policy):
      rollout/reward, rollout/accuracy  mean of Score.total, of Score.correct
      rollout/code_ratio       share whose policy text opens a ```python block
      rollout/pass_ratio       executed blocks that ran without error / executed blocks
      rollout/executed_ratio   executed blocks / blocks opened (past the call budget, or
                               never closed, a block is written but not executed)
      rollout/response_length  tokens after the prompt = model_tokens + tool_tokens
      rollout/model_tokens, rollout/tool_tokens  tokens by the policy, by the tool
      time/tool_call  seconds per executed block

    Pre: a problem's episodes are all in the same batch, or usable_groups counts its
    parts as groups of their own.
    """
    pairs = list(zip(episodes, scores, strict=True))
    done = [(episode, score) for episode, score in pairs if episode.end is not End.ABORT]
    ran = [seen for episode, _ in done for seen in observations(episode)]
    written = sum(episode.policy_text.count(FENCE) for episode, _ in done)
    ends = {
        f"rollout/end_{end.value}": mean(episode.end is end for episode, _ in pairs) for end in End
    }
    return {
        "rollout/reward": mean(score.total for _, score in done),
        "rollout/accuracy": mean(score.correct for _, score in done),
        "rollout/code_ratio": mean(FENCE in episode.policy_text for episode, _ in done),
        "rollout/pass_ratio": mean(seen.passed for seen in ran),
        "rollout/executed_ratio": Ratio(float(len(ran)), float(written)),
        "rollout/response_length": mean(e.count(Author.POLICY, Author.TOOL) for e, _ in done),
        "rollout/model_tokens": mean(episode.count(Author.POLICY) for episode, _ in done),
        "rollout/tool_tokens": mean(episode.count(Author.TOOL) for episode, _ in done),
        **ends,
        "time/tool_call": mean(seen.seconds for seen in ran),
        "rollout/infra_failure_ratio": ends["rollout/end_abort"],
        "rollout/usable_groups": usable_groups(pairs),
    }


def rollout_stats(episodes: Sequence[Episode], scores: Sequence[Score]) -> dict[str, float]:
    """The values of `rollout_ratios`; nan where there was nothing to count."""
    return {name: ratio.value for name, ratio in rollout_ratios(episodes, scores).items()}


def observations(episode: Episode) -> list[Observation]:
    """What came back from the blocks of `episode` that were executed."""
    return [turn.observation for turn in episode.turns if turn.observation is not None]


def usable_groups(pairs: Iterable[tuple[Episode, Score]]) -> Ratio:
    """Share of problems whose finished samples' rewards are not all equal."""
    rewards: dict[tuple[str, str], list[float]] = defaultdict(list)
    for episode, score in pairs:
        group = rewards[episode.problem.source, episode.problem.id]
        if episode.end is not End.ABORT:
            group.append(score.total)
    return mean(len(group) > 0 and np.ptp(group) > 0 for group in rewards.values())
