"""Supervised fine-tuning: what a problem's gold answer says is learnt word for word.

An example is a problem of config.data: its prompt by the protocol, and after it the gold
answer with the end-of-text token, which alone is trained (a mean over those tokens).
Examples are packed, and learner, mesh, checkpoints and metrics are those of `train`.

  python -m torl_jax.sft --config=configs/toolrl_1p5b.py:sft --workdir=runs/sft \
      --config.data.path=rlla_sft.json

An epoch goes through all examples in a seeded order, `sft.examples_per_step` at a time; its
last step takes what is left, a mean of fewer tokens. The same command resumes where the last
checkpoint left off; Ctrl-C saves first. At the end WORKDIR/model is a Hugging Face folder
(where one host trained into a local WORKDIR; others are told how to export it):

  python -m torl_jax.train --config=... --config.model.path=runs/sft/model --workdir=...

Several hosts run the same command with --distributed, as for `train`.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from torl_jax import cli, config, launch, parts, problems, publish, record
from torl_jax.checkpoint import Checkpoints, Meta
from torl_jax.compilation import Counter
from torl_jax.data.stream import Stream, fingerprint
from torl_jax.episode import Author, End, Episode, Problem, Segment
from torl_jax.errors import Interrupted, UserError
from torl_jax.interrupt import StopSignal
from torl_jax.learner import losses
from torl_jax.learner import optimizer as optimizers
from torl_jax.learner import state as states
from torl_jax.learner.network import Network, check, place
from torl_jax.learner.state import TrainState
from torl_jax.logs import Silent, Writer
from torl_jax.metrics import Ratio
from torl_jax.model.config import ModelConfig
from torl_jax.parallel import mesh as meshes
from torl_jax.parallel import multihost
from torl_jax.protocols.base import Protocol
from torl_jax.protocols.text import Tokenizer
from torl_jax.rl.batch import TrainBatch, from_episodes
from torl_jax.workdir import ResumePoint, note_start, only_run, resume_point, write_config

TASK = "sft"
MODEL, DROPPED = "model", "dropped.json"
HELD_OUT = "; held out "  # in a checkpoint's fingerprint of its data, before that of these examples
NAMED = 5  # dropped examples that are named on the terminal; DROPPED names all


def example(problem: Problem, protocol: Protocol, text: Tokenizer) -> Episode:
    """The problem with its gold answer in the policy's place.

    The answer is encoded apart from the prompt, as a policy writes it, and with special
    tokens spelled out; it was given, not sampled, so its log-prob is 0.
    """
    prompt = protocol.prompt(problem)
    tokens = (*text.encode(problem.answer, special=False), text.end_id)
    segments = (
        Segment(Author.PROMPT, tuple(text.encode(prompt)), prompt),
        Segment(Author.POLICY, tokens, text.decode(tokens), (0.0,) * len(tokens)),
    )
    return Episode(problem, 0, segments, (), End.EOS)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Those that fit, with the tokens of the longest; `dropped`: those of the others, by id."""

    fitting: list[Problem]
    longest: int
    dropped: dict[str, int]

    @classmethod
    def of(
        cls, found: Sequence[Problem], protocol: Protocol, text: Tokenizer, most: int
    ) -> "Examples":
        """Each of at most `most` tokens is kept whole, each longer one dropped: none is cut."""
        lengths = [len(example(problem, protocol, text).tokens) for problem in found]
        pairs = list(zip(found, lengths, strict=True))
        return cls(
            [problem for problem, length in pairs if length <= most],
            max((length for length in lengths if length <= most), default=0),
            {problem.id: length for problem, length in pairs if length > most},
        )


def fitting(
    cfg: config.Config,
    shape: ModelConfig,
    found: problems.Problems,
    protocol: Protocol,
    text: Tokenizer,
) -> tuple[problems.Problems, dict[str, dict[str, int]]]:
    """The examples that fit a row, with what to say of the others, and these others.

    UserError where none fits, or the model has not the positions for one that does.
    """
    most, kept, dropped, notes = cfg.learner.row_tokens, [], {}, list(found.notes)
    for name, listed in (("training", found.training), ("held-out", found.held_out)):
        own = Examples.of(listed, protocol, text, most)
        shape.check_positions(
            own.longest,
            f"the longest {name} example",
            f"config.learner.row_tokens={shape.max_positions} drops those that are too long",
        )
        kept.append(own.fitting)
        dropped[name] = own.dropped
        if own.dropped:
            first = ", ".join(f"{id} ({n})" for id, n in [*own.dropped.items()][:NAMED])
            more = f", ...; all in {DROPPED}" if len(own.dropped) > NAMED else ""
            notes.append(
                f"{len(own.dropped)} of {len(listed)} {name} examples dropped: longer than "
                f"config.learner.row_tokens={most} tokens: {first}{more}"
            )
    if not kept[0]:
        raise UserError(
            f"none of {len(found.training)} examples fits config.learner.row_tokens={most} tokens "
            f"(the shortest has {min(dropped['training'].values(), default=0)}); raise it"
        )
    return problems.Problems(kept[0], kept[1], notes), dropped


def streamed(found: problems.Problems, seed: int, point: ResumePoint) -> Stream:
    """The training examples from the checkpoint's place on, the same on all hosts.

    UserError where these or those held out are not the checkpoint's (an earlier release's
    does not know which it held out).
    """
    training, _, before = point.data.partition(HELD_OUT)
    stream = Stream(found.training, seed, point.cursor, training)
    now = fingerprint(found.held_out)
    multihost.same("their examples", {"fingerprint": stream.fingerprint, "held out": now})
    if before and before != now:
        raise UserError(
            f"the held-out examples have changed since the checkpoint (fingerprint {before}, now "
            f"{now}), and its curve would be of both; restore them, or choose another --workdir"
        )
    return stream


def steps_of(cfg: config.Sft, examples: int) -> int:
    """Optimiser steps of the whole run."""
    return cfg.epochs * math.ceil(examples / cfg.examples_per_step)


def scheduled(cfg: config.Config, steps: int) -> config.Optimizer:
    """The optimiser with its warm-up and cosine over the run."""
    warmup = round(cfg.sft.warmup * steps)
    return dataclasses.replace(cfg.optimizer, warmup=warmup, decay=steps - warmup)


def learner(cfg: config.Config, shape: ModelConfig, vocab: int, over: Mesh, steps: int) -> Network:
    """The policy as a network that learns text."""
    check(cfg.learner, shape, over)
    loss = losses.Text(
        model=parts.transformer(cfg, shape, remat=cfg.learner.remat).clone(mesh=over),
        vocab=vocab,
        head_chunk=cfg.learner.head_chunk * meshes.ways(over),
    )
    optimizer = optimizers.make(scheduled(cfg, steps))
    memory = states.HOST if cfg.optimizer.offload else states.DEVICE
    return Network(loss, optimizer, states.abstract(shape, optimizer), over, memory)


@dataclasses.dataclass
class Tuner:
    """The parts of one run, and the functions of its loop. All hosts go through it alike."""

    cfg: config.Config
    network: Network
    protocol: Protocol
    text: Tokenizer
    stream: Stream
    size: int  # training examples
    held_out: list[Problem]
    writer: Writer | Silent
    stop: StopSignal
    compilations: Counter

    def __post_init__(self) -> None:
        self.steps = steps_of(self.cfg.sft, self.size)
        self.rate = optimizers.rate(scheduled(self.cfg, self.steps))

    def loop(self, state: TrainState, start: int, checkpoints: Checkpoints) -> bool:
        """Steps start .. the last; False where it was interrupted, the last whole step saved."""
        cfg, done, saved = self.cfg, start, start
        try:
            self.stop_together()
            if start == 0:
                self.writer.write(0, self.evaluate(state, 0))
            for step in range(start, self.steps):
                state, row = self.step(state, step)
                done = step + 1
                last = done == self.steps
                if done % cfg.eval.every == 0 or last:
                    row |= self.evaluate(state, done)
                self.writer.write(done, row)
                if done % cfg.checkpoint.every == 0 or last:
                    self.save(checkpoints, done, state)
                    saved = done
                if not last:
                    self.stop_together()
        except Interrupted:
            if done != saved:
                self.save(checkpoints, done, state)
            self.writer.line(
                f"stopped after step {done}, saved; the same command goes on from there"
                if done
                else "stopped before the first step was done: nothing to save"
            )
        checkpoints.finish()
        return done == self.steps

    def stop_together(self) -> None:
        """Raises Interrupted on all hosts where one was asked to stop."""
        if any(multihost.exchange(self.stop.caught)):
            raise Interrupted

    def save(self, checkpoints: Checkpoints, done: int, state: TrainState) -> None:
        """A checkpoint after `done` steps."""
        data = self.stream.fingerprint + HELD_OUT + fingerprint(self.held_out)
        meta = Meta(self.stream.cursor, self.cfg, data, TASK)
        checkpoints.save(done, state, meta, {})

    def step(self, state: TrainState, step: int) -> tuple[TrainState, dict[str, float]]:
        """One optimiser step on the next examples of the epoch; the new state and its row."""
        clock = time.perf_counter
        begin, compiled = clock(), self.compilations.count
        left = self.size - self.stream.cursor % self.size
        batch = self.batch(self.stream.take(min(self.cfg.sft.examples_per_step, left)))
        packed = clock()
        state, found = self.network.update(state, batch)
        stats = {name: float(x) for name, x in jax.device_get(found).items()}
        end = clock()
        if not math.isfinite(stats["grad_norm"]):
            raise UserError(
                f"step {step + 1}: the gradient is not finite (loss {stats['loss']}); nothing of "
                "this step is saved: the same command with a smaller --config.optimizer.lr goes "
                "on from the last checkpoint"
            )
        rate = self.rate(step) if callable(self.rate) else self.rate
        return state, {f"train/{name}": value for name, value in stats.items()} | {
            "train/lr": float(np.asarray(rate)),
            "train/epoch": self.stream.epoch,
            "time/tokens_per_second": stats["trained_tokens"] / (end - begin),
            "time/update": end - packed,
            "time/step": end - begin,
            "time/compilations": float(self.compilations.count - compiled),
        }

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """The loss on held-out examples, a mean over their tokens."""
        begin, size = time.perf_counter(), self.cfg.sft.examples_per_step
        total = Ratio()
        for i in range(0, len(self.held_out), size):
            found: Any = self.network.measure(state.params, self.batch(self.held_out[i : i + size]))
            weight = float(found["trained_tokens"])
            total += Ratio(float(found["loss"]) * weight, weight)
        if not self.held_out:
            return {}
        return {"eval/loss": total.value, "time/eval": time.perf_counter() - begin}

    def batch(self, found: Sequence[Problem]) -> TrainBatch:
        """The examples on the mesh, in the shapes of a whole step's."""
        cfg = self.cfg
        packed = from_episodes(
            [example(problem, self.protocol, self.text) for problem in found],
            np.ones(len(found), bool),
            row_tokens=cfg.learner.row_tokens,
            microbatch_rows=cfg.learner.microbatch_rows,
            rungs=cfg.learner.rungs,
            most=cfg.sft.examples_per_step,
        )
        return place(packed, self.network.mesh)


def tune(cfg: config.Config, workdir: epath.Path, stop: StopSignal) -> None:
    """Runs or resumes the fine-tuning of `workdir`, alone."""
    refuse(cfg)
    multihost.same("their configs", launch.flat(cfg) | {"jax": jax.__version__})
    multihost.together(lambda: (parts.check_paths(cfg.model), problems.check_paths(cfg.data)))
    shape, text = parts.model_config(cfg.model), parts.tokenizer(cfg.model)
    shape.check_tokenizer(len(text), text.folder)
    protocol = parts.protocol(cfg)
    found, dropped = multihost.together(
        lambda: fitting(cfg, shape, problems.read(cfg), protocol, text)
    )
    over = meshes.make(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tp)
    steps = steps_of(cfg.sft, len(found.training))
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_run(workdir))
        point = resume_point(cfg, workdir, TASK)
        stream = streamed(found, cfg.run.seed, point)
        if point.step >= steps:
            launch.say(f"{workdir}: all {point.step} steps are done; {finish(workdir)}")
            return
        if point.step == 0 and (workdir / MODEL).exists():
            raise UserError(
                f"{workdir / MODEL} is another run's, whose checkpoints are gone: remove it, or "
                "choose another --workdir"
            )
        compilations = Counter()
        network = learner(cfg, shape, len(text), over, steps)
        checkpoints = Checkpoints(workdir, cfg.checkpoint.keep)
        stack.callback(checkpoints.close)
        if point.step:
            state = checkpoints.restore(point.step, network.abstract())
        else:
            state = network.create(parts.params(cfg.model, shape, cfg.run.seed, over))
        writer = stack.enter_context(launch.open_writer(cfg, workdir, point.step, steps))
        if multihost.first():
            write_config(workdir, cfg)
            note_start(workdir, point.step, launch.devices(over))
            record.replace(workdir / DROPPED, json.dumps(dropped, indent=1).encode())
        plan = (
            f"examples: {len(found.training)}, held out {len(found.held_out)}; {steps} steps of "
            f"{cfg.sft.examples_per_step} in {cfg.sft.epochs} epochs"
        )
        size = f"model: {shape.parameter_count:,} parameters"
        for line in [*found.notes, plan, size, launch.devices(over), *point.note()]:
            writer.line(line)
        whole = Tuner(
            cfg=cfg,
            network=network,
            protocol=protocol,
            text=text,
            stream=stream,
            size=len(found.training),
            held_out=found.held_out,
            writer=writer,
            stop=stop,
            compilations=compilations,
        ).loop(state, point.step, checkpoints)
        if whole:
            writer.line(finish(workdir))


def refuse(cfg: config.Config) -> None:
    """UserError for what fine-tuning would pass over in silence."""
    if cfg.optimizer.warmup or cfg.optimizer.decay:
        raise UserError(
            "config.optimizer.warmup or decay is set, but fine-tuning makes both from its number "
            "of steps: leave them 0 and set config.sft.warmup, a share of the run"
        )
    if cfg.tools.files:
        raise UserError(
            "config.tools.files is set, but fine-tuning calls no tool and lists none: examples "
            "name their tools themselves; leave it empty"
        )


def finish(workdir: epath.Path) -> str:
    """Writes WORKDIR/model from the last checkpoint, unless it is there; where to find it."""
    if record.remote(workdir) or multihost.count() > 1:
        # A checkpoint is read by all hosts or by a process of its own, never by one of several.
        return f"a model folder: python -m torl_jax.export --checkpoint={workdir} --out=DIR"
    out = Path(workdir) / MODEL
    if out.exists():
        return f"the model is in {out}"
    # This run holds the folder's lock, so what is half-written there nobody writes any more.
    part = out.with_name(out.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    publish.publish(str(workdir), out)
    return f"the model is in {out}"


def main(argv: list[str]) -> None:
    """The entry point."""
    launch.start(argv, tune)


if __name__ == "__main__":
    launch.define_flags()
    cli.run(main, __doc__ or "", with_config=True)
