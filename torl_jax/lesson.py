"""What is learnt of a step: which of its episodes, and what each of their tokens is worth.

    scored groups -> kept by their words -> minibatches, packed and annotated
                  -> narrowed by what the reference says of them -> advantages

The reference's perplexity is told by log-probs that a KL may need as well: they are made once,
of what no other filter has left out, and an episode that it catches stays where it is packed,
untrained. All hosts go through it alike.

E, the episodes of a step, are fewer than P x G where groups are kept back that are not finished.
Their places stay empty: shapes never change.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from torl_jax import config
from torl_jax.episode import Author, End, Episode, Score
from torl_jax.errors import UserError
from torl_jax.learner.learner import Learner
from torl_jax.learner.state import TrainState
from torl_jax.protocols.base import Protocol
from torl_jax.rl import advantages, dynamic, filters
from torl_jax.rl.batch import WEIGHTS, TrainBatch, from_episodes, weights

# An optimiser step's share of the step's episodes, and the batch that is made of it.
Minibatch = tuple[slice, TrainBatch]


@dataclasses.dataclass(frozen=True)
class Lesson:
    """keep: bool [E], which of the step's episodes are trained on; caught: bool [E] by each sample
    filter; batches: placed minibatches with advantages, of each of which something is trained.
    """

    keep: np.ndarray
    caught: Mapping[str, np.ndarray]
    batches: Sequence[TrainBatch]


def prepare(
    learner: Learner,
    state: TrainState,
    chosen: dynamic.Step,
    markup: Protocol,
    cfg: config.Config,
) -> Lesson:
    """The lesson of `chosen`; UserError where every episode was aborted."""
    episodes = chosen.episodes
    caught = filters.caught(episodes, chosen.scores, markup, cfg.filters)
    keep = kept(chosen, caught, markup, cfg.filters)
    parts = packed(learner, state, episodes, keep, cfg)
    if filters.PERPLEXITY in cfg.filters.samples:
        caught[filters.PERPLEXITY] = perplexed(learner, parts, len(episodes), cfg)
        keep = keep & ~caught[filters.PERPLEXITY]
        parts = narrowed(learner, parts, episodes, keep, cfg)
    batches = [batch for _, batch in parts]
    return Lesson(keep, caught, learner.credit(batches, worths(learner, parts, chosen, cfg)))


def kept(
    chosen: dynamic.Step,
    caught: Mapping[str, np.ndarray],
    markup: Protocol,
    cfg: config.Filters,
) -> np.ndarray:
    """bool [E]: which of the step's episodes may be trained on; `caught`: by sample filters."""
    episodes = chosen.episodes
    if episodes and all(episode.end is End.ABORT for episode in episodes):
        raise UserError(
            f"every episode of a step was aborted (the first: {episodes[0].error}); mend the "
            "sandbox or raise config.sampler.deadline: the same command goes on from the last "
            "checkpoint"
        )
    keep = filters.trained(episodes, chosen.usable, markup, cfg)
    for hit in caught.values():
        keep &= ~hit
    return keep


def packed(
    learner: Learner,
    state: TrainState,
    episodes: Sequence[Episode],
    keep: np.ndarray,
    cfg: config.Config,
) -> list[Minibatch]:
    """The step cut into minibatches by problem, annotated.

    A minibatch of which nothing is trained is left out.
    """
    size = cfg.rl.minibatch
    places = [slice(i, i + size) for i in range(0, len(episodes), size)]
    places = [place for place in places if keep[place].any()]
    batches = [
        from_episodes(
            episodes[place],
            keep[place],
            row_tokens=cfg.learner.row_tokens,
            microbatch_rows=cfg.learner.microbatch_rows,
            rungs=cfg.learner.rungs,
            most=size,
            weigh=WEIGHTS[cfg.rl.aggregation],
            longest=cfg.sampler.max_response,
        )
        for place in places
    ]
    return list(zip(places, learner.annotate(state, batches), strict=True))


def perplexed(
    learner: Learner, parts: Sequence[Minibatch], count: int, cfg: config.Config
) -> np.ndarray:
    """bool [count], of all episodes: those packed ones that the reference finds too odd."""
    hit = np.zeros(count, bool)
    found = learner.surprise([batch for _, batch in parts], cfg.rl.minibatch)
    for (place, _), surprise_E in zip(parts, found, strict=True):
        hit[place] = filters.perplexed(surprise_E[: len(hit[place])], cfg.filters)
    return hit


def narrowed(
    learner: Learner,
    parts: Sequence[Minibatch],
    episodes: Sequence[Episode],
    keep: np.ndarray,
    cfg: config.Config,
) -> list[Minibatch]:
    """The minibatches as they are packed, of whose episodes only those of `keep` are trained."""
    rest = [(place, batch) for place, batch in parts if keep[place].any()]
    places = [place for place, _ in rest]
    weigh, longest = WEIGHTS[cfg.rl.aggregation], cfg.sampler.max_response
    batches = learner.leave_out(
        [batch for _, batch in rest],
        [full(keep[place], cfg) for place in places],
        [full(weights(episodes[place], keep[place], weigh, longest), cfg) for place in places],
    )
    return list(zip(places, batches, strict=True))


def worths(
    learner: Learner, parts: Sequence[Minibatch], chosen: dynamic.Step, cfg: config.Config
) -> list[np.ndarray]:
    """What each episode is worth beside its group, [E] float32 for each minibatch."""
    episodes, rl = chosen.episodes, cfg.rl
    kind = advantages.ESTIMATORS[rl.estimator]
    rewards = rewards_of(chosen.scores, rl.estimator)
    if rl.kl_coef and rl.kl_in == "reward" and not kind.token_kl:
        found = learner.divergence([batch for _, batch in parts], rl.minibatch)
        for (place, _), divergence_E in zip(parts, found, strict=True):
            rewards[place] -= rl.kl_coef * divergence_E[: len(rewards[place])]
    counted = filters.counted(episodes, cfg.filters)
    groups = np.repeat(np.arange(len(chosen.groups)), rl.group_size)
    written = np.asarray([episode.count(Author.POLICY) for episode in episodes])
    worth_E = np.zeros(len(episodes), np.float32)
    if counted.any():
        worth_E[counted] = kind.estimate(rewards[counted], groups[counted], written[counted])
    return [full(worth_E[place], cfg) for place, _ in parts]


def full(x_E: np.ndarray, cfg: config.Config) -> np.ndarray:
    """With zeros for the places of a minibatch that stay empty."""
    return np.pad(x_E, (0, cfg.rl.minibatch - len(x_E)))


def rewards_of(scores: Sequence[Score], estimator: str) -> np.ndarray:
    """float64 [E]; for gdpo [E, C], each part, and 0 where a score has no such part."""
    if estimator != "gdpo":
        return np.asarray([score.total for score in scores], np.float64)
    names = sorted({name for score in scores for name in score.parts})
    parts = [[score.parts.get(name, 0.0) for name in names] for score in scores]
    return np.asarray(parts, np.float64).reshape(len(scores), -1)
