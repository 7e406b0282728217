"""Held-out accuracy of a policy: one sample a problem at T=1, and one greedy."""

from collections.abc import Callable, Sequence

import jax

from torl_jax.crew import Crew
from torl_jax.episode import Episode, Problem, Score
from torl_jax.metrics import rollout_stats
from torl_jax.sampler.sampling import Settings

SHARED = ("accuracy", "code_ratio", "pass_ratio", "response_length")


def run(
    crew: Crew,
    params,
    problems: Sequence[Problem],
    *,
    seed: int,
    sampled: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, float], list[Episode], list[Score]]:
    """Metrics under `eval/` and the greedy episodes with their scores.

    `eval/accuracy` is sampled at temperature 1 (absent with sampled=False),
    `eval/greedy_accuracy` greedy; a source's own accuracy follows its name.
    The keys depend on `seed` alone: two evaluations of one policy are equal. There is no
    deadline: a mean over the quick ones would not be the policy's. Raises Interrupted where
    `stopped` comes true.
    """
    row: dict[str, float] = {}
    harvest = None
    for prefix, temperature in (("", 1.0), ("greedy_", 0.0)):
        if prefix == "" and not sampled:
            continue
        engine = crew.rollout.engine
        engine.load(params, jax.random.key(seed), Settings.of(temperature=temperature))
        harvest = crew.collect(problems, 1, stopped)
        episodes, scores = harvest.episodes, harvest.scores
        stats = rollout_stats(episodes, scores)
        row |= {f"eval/{prefix}{name}": stats[f"rollout/{name}"] for name in SHARED}
        for source in sorted({problem.source for problem in problems} - {""}):
            own = [i for i, episode in enumerate(episodes) if episode.problem.source == source]
            part = rollout_stats([episodes[i] for i in own], [scores[i] for i in own])
            row[f"eval/{prefix}accuracy_{source}"] = part["rollout/accuracy"]
    assert harvest is not None
    return row, harvest.episodes, harvest.scores
