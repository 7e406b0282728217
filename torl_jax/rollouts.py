"""The rollouts of a training run: problems and weights in, a step's scored groups out."""

import dataclasses
import functools
import math
import operator
import time
from collections.abc import Sequence
from typing import Any

import jax

from torl_jax import config
from torl_jax.crew import Crew, Harvest
from torl_jax.data.stream import Stream
from torl_jax.interrupt import StopSignal
from torl_jax.parallel.handoff import Handoff, Spent
from torl_jax.rl import dynamic, filters
from torl_jax.sampler.sampling import Settings


@dataclasses.dataclass(frozen=True)
class Rolled:
    """What a step is to be trained on, and how it came about.

    `version`: updates that the weights which sampled it had seen. `cursor` and `epoch`: the
    stream's, after it. `begin` and `end` are times of the clock `time.perf_counter`.
    """

    chosen: dynamic.Step
    harvest: Harvest
    version: int
    cursor: int
    epoch: float
    handoff: Spent
    begin: float
    end: float


@dataclasses.dataclass
class Rollouts:
    """Samples with the weights that were given last; all hosts go through it alike."""

    cfg: config.Config
    crew: Crew
    handoff: Handoff
    stream: Stream
    stop: StopSignal
    params: Any = None
    version: int = 0
    ending: bool = False  # what is under way is not wanted any more
    left: Sequence[dynamic.Group] = ()  # of the step before: usable, without a place there

    def give(self, params: Any, version: int) -> None:
        """Hands over the training weights after `version` updates; nothing may be sampling."""
        self.params, self.version = self.handoff(params), version

    def sample(self, step: int) -> Rolled:
        """The step's groups, and all that was sampled for them."""
        cfg, begin = self.cfg, time.perf_counter()
        harvests: list[Harvest] = []
        usable = functools.partial(filters.usable, by_part=cfg.rl.estimator == "gdpo")

        def rollout(count: int) -> list[dynamic.Group]:
            taken = self.stream.take(count)
            self.load(step, len(harvests))
            harvest = self.crew.collect(
                taken,
                cfg.rl.group_size,
                step + 1,
                stopped=lambda: self.stop.caught or self.ending,
                seconds=cfg.sampler.deadline or math.inf,
            )
            harvests.append(harvest)
            return [
                dynamic.Group(episodes, scores, usable(episodes, scores, cfg.filters))
                for episodes, scores in harvest.groups(cfg.rl.group_size)
            ]

        # A run that goes on from a checkpoint knows of none; so nobody behind one does.
        fresh = step % cfg.checkpoint.every == 0 or not cfg.filters.leftovers
        left = () if fresh else self.left
        chosen = dynamic.fill(rollout, cfg.rl.problems_per_step, cfg.filters.rounds, left)
        self.left = chosen.over
        return Rolled(
            chosen,
            functools.reduce(operator.add, harvests),
            self.version,
            self.stream.cursor,
            self.stream.epoch,
            self.handoff.spent,
            begin,
            time.perf_counter(),
        )

    def load(self, step: int, rollout: int = 0) -> None:
        """Gives the engine its weights, with the key of the step's so-many-th rollout."""
        sampler = self.cfg.sampler
        # Folding these in keeps a problem's second visit from drawing the first one's noise.
        key = jax.random.fold_in(jax.random.key(self.cfg.run.seed), step)
        key = jax.random.fold_in(key, rollout) if rollout else key
        settings = Settings.of(sampler.temperature, sampler.top_k, sampler.top_p)
        self.crew.rollout.engine.load(self.params, key, settings)
