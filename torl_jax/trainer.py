"""The loop of training: sample, grade, learn; evaluate, save and dump when due."""

import dataclasses
import math
import time

import jax
import numpy as np

from torl_jax import config, evaluation, parts
from torl_jax.checkpoint import Checkpoints, Meta
from torl_jax.compilation import Counter
from torl_jax.crew import Crew
from torl_jax.data.stream import Stream
from torl_jax.episode import Episode, Problem, Score
from torl_jax.errors import Interrupted, UserError
from torl_jax.interrupt import StopSignal
from torl_jax.learner.learner import Learner
from torl_jax.learner.state import TrainState
from torl_jax.logs import Silent, Writer
from torl_jax.metrics import rollout_stats
from torl_jax.parallel import multihost
from torl_jax.parallel.handoff import Handoff
from torl_jax.rl import advantages, filters
from torl_jax.rl.batch import TrainBatch, from_episodes
from torl_jax.sampler.sampling import Settings


@dataclasses.dataclass
class Trainer:
    """The parts of one run, and the functions of its loop. All hosts go through it alike."""

    cfg: config.Config
    crew: Crew
    level: str  # the sandbox's at the start: a server that is away must not end a step
    learner: Learner
    handoff: Handoff
    stream: Stream
    held_out: list[Problem]
    writer: Writer | Silent
    stop: StopSignal
    compilations: Counter

    def loop(self, state: TrainState, start: int, checkpoints: Checkpoints) -> None:
        """Steps start .. run.steps; on Interrupted the last whole step is saved."""
        cfg, done = self.cfg, start
        saved = start if start else None
        row: dict[str, float] = {}
        try:
            self.stop_together()
            self.load(state, start)
            self.crew.rollout.engine.warm_up()
            if start == 0:
                self.writer.write(0, self.evaluate(state, 0))
            for step in range(start, cfg.run.steps):
                state, row = self.step(state, step)
                done = step + 1
                last = done == cfg.run.steps
                if done % cfg.eval.every == 0 or last:
                    row |= self.evaluate(state, done)
                self.writer.write(done, row)
                if done % cfg.checkpoint.every == 0 or last:
                    self.save(checkpoints, done, state, row)
                    saved = done
                self.stop_together()
        except Interrupted:
            if done and saved != done:
                self.save(checkpoints, done, state, row)
            checkpoints.finish()
            self.writer.line(
                f"stopped after step {done}, saved; the same command goes on from there"
                if done
                else "stopped before the first step was done: nothing to save"
            )

    def stop_together(self) -> None:
        """Raises Interrupted on all hosts where one was asked to stop."""
        if any(multihost.exchange(self.stop.caught)):
            raise Interrupted

    def save(self, checkpoints: Checkpoints, done: int, state: TrainState, row: dict) -> None:
        """A checkpoint after `done` steps."""
        # An interrupted step has taken its problems, but will take them again.
        cursor = done * self.cfg.rl.problems_per_step
        checkpoints.save(done, state, Meta(cursor, self.cfg), row)

    def step(self, state: TrainState, step: int) -> tuple[TrainState, dict[str, float]]:
        """One rollout and its optimiser steps; returns the new state and the metrics row."""
        cfg, clock = self.cfg, time.perf_counter
        begin, compiled = clock(), self.compilations.count
        problems = self.stream.take(cfg.rl.problems_per_step)
        self.load(state, step)
        given = self.handoff.spent
        harvest = self.crew.collect(
            problems,
            cfg.rl.group_size,
            stopped=lambda: self.stop.caught,
            seconds=cfg.sampler.deadline or math.inf,
        )
        episodes, scores = harvest.episodes, harvest.scores
        gathered = clock()
        state, stats = self.learner.update(state, self.batches(episodes, scores))
        if not math.isfinite(stats["grad_norm"]):
            raise UserError(
                f"step {step + 1}: the gradient is not finite (loss {stats['loss']}); nothing "
                "of this step is saved: the same command with a smaller --config.optimizer.lr "
                "goes on from the last checkpoint"
            )
        end = clock()
        if (step + 1) % cfg.run.dump_every == 0 or step == 0:
            self.dump(step + 1, "train", episodes, scores)
        row = {f"train/{name}": value for name, value in stats.items()}
        row["train/epoch"] = self.stream.epoch
        row |= rollout_stats(episodes, scores) | harvest.row()
        row |= {
            "handoff/bytes": float(given.bytes),
            "time/handoff": given.seconds,
            "time/update": end - gathered,
            "time/step": end - begin,
            "time/compilations": float(self.compilations.count - compiled),
            "sandbox/level": parts.level_rank(self.level),
        }
        return state, row

    def load(self, state: TrainState, step: int) -> None:
        """Hands the policy over to the sampler, with this step's key."""
        sampler = self.cfg.sampler
        # Folding the step in keeps a problem's second visit from drawing the first one's noise.
        key = jax.random.fold_in(jax.random.key(self.cfg.run.seed), step)
        settings = Settings.of(sampler.temperature, sampler.top_k, sampler.top_p)
        self.crew.rollout.engine.load(self.handoff(state.params), key, settings)

    def batches(self, episodes: list[Episode], scores: list[Score]) -> list[TrainBatch]:
        """Advantages within each group, and the rollout cut into minibatches by problem."""
        cfg = self.cfg
        kept = filters.keep(episodes)
        if not kept.any():
            raise UserError(
                f"every episode of a step was aborted (the first: {episodes[0].error}); mend the "
                "sandbox or raise config.sampler.deadline: the same command goes on from the last "
                "checkpoint"
            )
        groups = np.repeat(np.arange(cfg.rl.problems_per_step), cfg.rl.group_size)
        rewards = np.asarray([score.total for score in scores])
        advantage = np.zeros(len(episodes), np.float32)
        advantage[kept] = advantages.grpo(rewards[kept], groups[kept])
        size = len(episodes) // cfg.rl.minibatches
        minibatches = [slice(i, i + size) for i in range(0, len(episodes), size)]
        return [
            from_episodes(
                episodes[part],
                advantage[part],
                kept[part],
                row_tokens=cfg.learner.row_tokens,
                microbatch_rows=cfg.learner.microbatch_rows,
            )
            for part in minibatches
        ]

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Metrics on held-out problems; dumps some of the greedy episodes.

        Interrupted before the first step only: after a step its row must be whole.
        """
        if not self.held_out:
            return {}
        begin = time.perf_counter()
        row, episodes, scores = evaluation.run(
            self.crew,
            self.handoff(state.params),
            self.held_out,
            seed=self.cfg.run.seed,
            sampled=self.cfg.eval.sampled,
            stopped=lambda: step == 0 and self.stop.caught,
        )
        self.dump(step, "eval", episodes, scores)
        return row | {"time/eval": time.perf_counter() - begin}

    def dump(self, step: int, name: str, episodes: list[Episode], scores: list[Score]) -> None:
        """Writes sample episodes, spread over the problems."""
        count = min(self.cfg.run.dump_episodes, len(episodes))
        if count:
            index = np.linspace(0, len(episodes) - 1, count).astype(int)
            self.writer.episodes(
                step, name, [episodes[i] for i in index], [scores[i] for i in index]
            )
