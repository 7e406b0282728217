"""Trains a policy to use tools by GRPO from outcome reward.

One step: take problems; sample a group of episodes of each, running the Python
that the policy writes in the sandbox between decode segments; grade the answers;
turn rewards into group-relative advantages; take an optimiser step on the tokens
that the policy itself wrote. Evaluation, checkpoints and sample episodes when due.

  python -m torl_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

The same command resumes where the last checkpoint left off. Ctrl-C saves first.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import config_flags

from torl_jax import cli, config, evaluation, parts
from torl_jax.checkpoint import Checkpoints, Meta, check_fits
from torl_jax.compilation import Counter
from torl_jax.data.stream import Stream
from torl_jax.episode import Author, Episode, Problem, Score
from torl_jax.errors import UserError
from torl_jax.interrupt import Interrupted, StopSignal
from torl_jax.learner.learner import Learner
from torl_jax.learner.state import TrainState
from torl_jax.logs import Writer, local
from torl_jax.metrics import rollout_stats
from torl_jax.parallel import mesh, sharding
from torl_jax.parallel.handoff import handoff
from torl_jax.rewards.answer import Grader
from torl_jax.rewards.outcome import Grading
from torl_jax.rl import advantages, filters
from torl_jax.rl.batch import TrainBatch, from_episodes
from torl_jax.rollout import Rollout, admissible
from torl_jax.sampler.sampling import Settings


@dataclasses.dataclass
class Trainer:
    """The parts of one run, and the functions of its loop."""

    cfg: config.Config
    rollout: Rollout
    level: str  # the sandbox's at the start: a server that is away must not end a step
    grader: Grader
    learner: Learner
    stream: Stream
    held_out: list[Problem]
    writer: Writer
    stop: StopSignal
    compilations: Counter

    def loop(self, state: TrainState, start: int, checkpoints: Checkpoints) -> None:
        """Steps start .. run.steps; on Interrupted the last whole step is saved."""
        cfg, done = self.cfg, start
        saved = start if start else None
        row: dict[str, float] = {}
        self.load(state, start)
        self.rollout.engine.warm_up()
        try:
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
                self.stop.check()
        except Interrupted:
            if done and saved != done:
                self.save(checkpoints, done, state, row)
            self.writer.line(
                f"stopped after step {done}, saved; the same command goes on from there"
                if done
                else "stopped before the first step was done: nothing to save"
            )

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
        grading = Grading(self.grader)
        collected = self.rollout.collect(
            problems, cfg.rl.group_size, on_finish=grading.add, on_progress=self.progress
        )
        episodes, tally = collected.episodes, self.rollout.engine.reset_tally()
        sampled = clock()
        scores = grading.scores(episodes)
        graded = clock()
        batches = self.batches(episodes, scores)
        state, stats = self.learner.update(state, batches)
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
        row |= rollout_stats(episodes, scores)
        written = sum(episode.count(Author.POLICY) for episode in episodes)
        row |= {
            "time/tokens_per_second": written / (sampled - begin),
            "time/overshoot_ratio": tally.rewound_tokens / max(tally.decoded_tokens, 1),
            "time/slot_use": written / max(tally.slot_steps, 1),
            "time/read_tokens": float(tally.read_tokens),
            "time/decode": tally.seconds,
            "time/tool": collected.tool_seconds,
            "time/reward": graded - sampled,
            "time/update": end - graded,
            "time/step": end - begin,
            "time/compilations": float(self.compilations.count - compiled),
            "sandbox/level": parts.level_rank(self.level),
        }
        return state, row

    def load(self, state: TrainState, step: int) -> None:
        """Hands the policy over to the sampler, with this step's key."""
        engine, sampler = self.rollout.engine, self.cfg.sampler
        # Folding the step in keeps a problem's second visit from drawing the first one's noise.
        key = jax.random.fold_in(jax.random.key(self.cfg.run.seed), step)
        settings = Settings.of(sampler.temperature, sampler.top_k, sampler.top_p)
        engine.load(self.sampling_params(state), key, settings)

    def sampling_params(self, state: TrainState) -> dict:
        """The policy in the sampler's precision, on this host's first device."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return handoff(state.params, self.rollout.engine.model.dtype, device)

    def batches(self, episodes: list[Episode], scores: list[Score]) -> list[TrainBatch]:
        """Advantages within each group, and the rollout cut into minibatches by problem."""
        cfg = self.cfg
        kept = filters.keep(episodes)
        if not kept.any():
            raise UserError(f"every episode of a step was aborted; the first: {episodes[0].error}")
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

        Never interrupted: the step before it is taken, and its row must be whole.
        """
        if not self.held_out:
            return {}
        begin = time.perf_counter()
        row, episodes, scores = evaluation.run(
            self.rollout,
            self.grader,
            self.sampling_params(state),
            self.held_out,
            seed=self.cfg.run.seed,
            sampled=self.cfg.eval.sampled,
        )
        self.rollout.engine.reset_tally()
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

    def progress(self, done: int, total: int) -> None:
        """Called between segments: a safe point to stop, and a sign of life."""
        self.stop.check()


def train(cfg: config.Config, workdir: epath.Path) -> None:
    """Runs or resumes the training run of `workdir`, alone."""
    parts.check_paths(cfg)
    cores = parts.set_aside(cfg.sandbox)
    shape = parts.model_config(cfg.model)
    text = parts.tokenizer(cfg.model)
    training, held_out = parts.problems(cfg)
    over = mesh.make(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tp)
    sharding.check(shape, over)
    with contextlib.ExitStack() as stack:
        # The lock first: what another process is about to save must not be taken for absent.
        stack.enter_context(only_run(workdir))
        point = resume_point(cfg, workdir)
        if point.step >= cfg.run.steps:
            print(f"{workdir}: all {point.step} steps are done; to go on, raise --config.run.steps")
            return
        compilations = Counter()
        model = parts.transformer(cfg, shape, remat=cfg.learner.remat)
        learner = Learner(cfg, model, len(text), over)
        state = learner.create(parts.params(cfg.model, shape, cfg.run.seed, over))
        stop = stack.enter_context(StopSignal())
        box = stack.enter_context(parts.sandbox(cfg.sandbox, cores))
        grader = stack.enter_context(Grader(workers=cfg.reward.workers, timeout=cfg.reward.timeout))
        rollout = parts.rollout(cfg, parts.transformer(cfg, shape), box)
        training, dropped = fitting(rollout, training, "training")
        held_out, dropped_too = fitting(rollout, held_out, "held-out")
        if len(training) < cfg.rl.problems_per_step:
            raise UserError(
                f"{len(training)} training problems; config.rl.problems_per_step asks for "
                f"{cfg.rl.problems_per_step}"
            )
        checkpoints = Checkpoints(workdir, cfg.checkpoint.keep)
        stack.callback(checkpoints.close)
        if point.step:
            state = checkpoints.restore(point.step, state)
        writer = stack.enter_context(open_writer(cfg, workdir, point.step))
        write_config(workdir, cfg)
        level, why = box.level, box.why
        sandbox_level = f"sandbox level: {level}" + (f" ({why})" if why else "")
        model_size = f"model: {shape.parameter_count:,} parameters"
        for line in [*dropped, *dropped_too, sandbox_level, model_size, *point.note()]:
            writer.line(line)
        Trainer(
            cfg=cfg,
            rollout=rollout,
            level=level,
            grader=grader,
            learner=learner,
            stream=Stream(training, cfg.run.seed, point.cursor),
            held_out=held_out,
            writer=writer,
            stop=stop,
            compilations=compilations,
        ).loop(state, point.step, checkpoints)


@contextlib.contextmanager
def only_run(workdir: epath.Path) -> Iterator[None]:
    """Holds `workdir` while it is open; UserError where another process does.

    The kernel lets go of the lock with the process, however that ends.
    """
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(workdir / ".lock", "a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run is writing to {workdir}; wait for it, stop it, or choose another "
                "--workdir"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to --workdir={workdir} ({error.strerror}); choose another"
            ) from error
        yield


@dataclasses.dataclass(frozen=True)
class ResumePoint:
    """Steps done by the newest checkpoint (0: none), problems taken, config keys changed since."""

    step: int = 0
    cursor: int = 0
    changed: tuple[str, ...] = ()

    def note(self) -> list[str]:
        """What a person should know of a resumed run."""
        if not self.step:
            return []
        since = f"; changed since: {', '.join(self.changed)}" if self.changed else ""
        return [f"resuming after step {self.step}{since}"]


def resume_point(cfg: config.Config, workdir: epath.Path) -> ResumePoint:
    """Where to go on; UserError where the checkpoint is another experiment's."""
    if not (workdir / "checkpoints").exists():
        return ResumePoint()
    with contextlib.closing(Checkpoints(workdir, cfg.checkpoint.keep, read_only=True)) as found:
        step = found.latest()
        if not step:
            return ResumePoint()
        meta = found.meta(step)
        return ResumePoint(step, meta.cursor, tuple(check_fits(meta.config, cfg, workdir)))


def open_writer(cfg: config.Config, workdir: epath.Path, start: int) -> Writer:
    """The run's writer; rows after the checkpoint will be made again."""
    return Writer(
        workdir,
        total_steps=cfg.run.steps,
        start_step=start + 1 if start else 0,
        wandb=cfg.run.wandb,
        config=config.to_dict(cfg),
    )


def fitting(
    rollout: Rollout, problems: list[Problem], name: str
) -> tuple[list[Problem], list[str]]:
    """Problems whose prompts fit, and a line on those that do not (ToRL drops them likewise)."""
    kept, dropped = admissible(rollout, problems)
    limit = f"config.sampler.max_prompt={rollout.max_prompt} tokens"
    if problems and not kept:
        raise UserError(f"all {len(problems)} {name} prompts are longer than {limit}; raise it")
    count = f"{len(dropped)} of {len(problems)} {name} problems"
    return kept, [f"{count} dropped: prompt longer than {limit}"] if dropped else []


def write_config(workdir: epath.Path, cfg: config.Config) -> None:
    """workdir/config.json, for people, `report` and `export`."""
    (workdir / "config.json").write_text(json.dumps(config.to_dict(cfg), indent=2) + "\n")


def main(argv: list[str]) -> None:
    """The entry point."""
    if argv:
        raise UserError(f"unexpected argument {argv[0]!r}; flags begin with --, see --help")
    if not flags.FLAGS.workdir:
        raise UserError("no working directory: give --workdir=DIR")
    cfg = cli.chosen_config()
    if cfg is None:
        raise UserError("no config: give --config=configs/quickstart.py")
    train(cfg, epath.Path(local(flags.FLAGS.workdir)))


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Config file, FILE or FILE:ARGUMENT.")
    flags.DEFINE_string("workdir", None, "Where metrics, checkpoints and episodes go.")
    cli.run(main, __doc__ or "", with_config=True)
