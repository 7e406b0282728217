"""Trains a policy to use tools by GRPO from outcome reward.

One step: take problems; sample a group of episodes of each, running the Python
that the policy writes in the sandbox between decode segments; grade the answers;
turn rewards into group-relative advantages; take an optimiser step on the tokens
that the policy itself wrote. Evaluation, checkpoints and sample episodes when due.

  python -m torl_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

The same command resumes where the last checkpoint left off. Ctrl-C saves first.

Several hosts run the same command with --distributed and a --workdir that all share; on
TPU pods, GKE and Slurm they find each other, elsewhere --coordinator, --process_count
and --process_id say who is who.
"""

import contextlib
from typing import Any

import jax
from absl import flags
from etils import epath
from jax.sharding import Mesh
from ml_collections import config_flags

from torl_jax import cli, config, parts, problems, record, supervise, workshop
from torl_jax.checkpoint import Checkpoints
from torl_jax.compilation import Counter
from torl_jax.crew import Crew
from torl_jax.data.stream import Stream, fingerprint
from torl_jax.errors import UserError
from torl_jax.interrupt import StopSignal
from torl_jax.learner.learner import Learner
from torl_jax.logs import Silent, Writer
from torl_jax.parallel import mesh, multihost, sharding
from torl_jax.parallel.handoff import Handoff
from torl_jax.trainer import Trainer
from torl_jax.workdir import note_start, only_run, resume_point, write_config


def train(cfg: config.Config, workdir: epath.Path, stop: StopSignal) -> None:
    """Runs or resumes the training run of `workdir`, alone."""
    cores = workshop.set_aside(cfg.sandbox)
    multihost.same("their configs", flat(cfg) | {"jax": jax.__version__})
    multihost.together(lambda: (parts.check_paths(cfg.model), problems.check_paths(cfg.data)))
    shape = parts.model_config(cfg.model)
    text = parts.tokenizer(cfg.model)
    shape.check_tokenizer(len(text), text.folder)
    found = multihost.together(lambda: problems.read(cfg))
    over = mesh.make(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tp)
    sampling = parts.sampling_mesh(cfg.sampler, shape, over)
    sharding.check(shape, over)
    with contextlib.ExitStack() as stack:
        # The lock first: what another process is about to save must not be taken for absent.
        stack.enter_context(only_run(workdir))
        point = resume_point(cfg, workdir)
        if point.step >= cfg.run.steps:
            say(f"{workdir}: all {point.step} steps are done; to go on, raise --config.run.steps")
            return
        found = problems.gradable(cfg, found, workdir, again=point.step > 0)
        compilations = Counter()
        model = parts.transformer(cfg, shape, remat=cfg.learner.remat)
        learner = Learner(cfg, model, len(text), over)
        # Weights are read once: from the checkpoint, or from the model.
        params: Any = None
        if not point.step or learner.needs_reference:
            params = parts.params(cfg.model, shape, cfg.run.seed, over)
            learner.refer(params)
        checkpoints = Checkpoints(workdir, cfg.checkpoint.keep)
        stack.callback(checkpoints.close)
        if point.step:
            state = checkpoints.restore(point.step, learner.abstract())
        else:
            state = learner.create(params)
        # With a reference policy and a checkpoint they would stay, a second copy for nothing.
        del params
        shop = multihost.together(lambda: workshop.open(cfg, cores))
        stack.callback(shop.close)
        if (grader := parts.grader(cfg.reward)) is not None:
            stack.enter_context(grader)
        rollout = parts.rollout(cfg, parts.transformer(cfg, shape).clone(mesh=sampling), shop.env)
        found = problems.fitting(cfg, found, rollout)
        multihost.same("their problems", {"fingerprint": fingerprint(found.training)})
        writer = stack.enter_context(open_writer(cfg, workdir, point.step))
        if multihost.first():
            write_config(workdir, cfg)
            note_start(workdir, point.step, devices(over, sampling))
        size = f"model: {shape.parameter_count:,} parameters"
        for line in [*found.notes, shop.line, size, devices(over, sampling), *point.note()]:
            writer.line(line)
        Trainer(
            cfg=cfg,
            crew=Crew(rollout, parts.reward(cfg, grader), grader, cfg.sampler.span == "global"),
            level=shop.level,
            learner=learner,
            handoff=Handoff(learner.abstract().params, over, sampling, model.dtype),
            stream=Stream(found.training, cfg.run.seed, point.cursor, point.data),
            held_out=found.held_out,
            writer=writer,
            stop=stop,
            compilations=compilations,
        ).loop(state, point.step, checkpoints)


def flat(cfg: config.Config) -> dict[str, object]:
    """Every key with its value, as `config.section.key`."""
    return {
        f"config.{section}.{key}": value
        for section, keys in config.to_dict(cfg).items()
        for key, value in keys.items()
    }


def devices(training: Mesh, sampling: Mesh) -> str:
    """What trains and what samples, in words."""

    def ways(of: Mesh) -> str:
        return " ".join(f"{axis}={size}" for axis, size in of.shape.items())

    kind, hosts = training.devices.flat[0].device_kind, multihost.count()
    where = f"{training.size} x {kind}" + (f" on {hosts} hosts" if hosts > 1 else "")
    return f"devices: {where}; training {ways(training)}; sampling {ways(sampling)}" + (
        " on each host" if hosts > 1 and sampling.size < training.size else ""
    )


def open_writer(cfg: config.Config, workdir: epath.Path, start: int) -> Writer | Silent:
    """The run's writer, on process 0 alone; rows after the checkpoint will be made again."""
    if not multihost.first():
        return Silent()
    return Writer(
        workdir,
        total_steps=cfg.run.steps,
        start_step=start + 1 if start else 0,
        wandb=cfg.run.wandb,
        config=config.to_dict(cfg),
    )


def say(line: str) -> None:
    """Prints on process 0."""
    if multihost.first():
        print(line)


def main(argv: list[str]) -> None:
    """The entry point."""
    values = flags.FLAGS
    if argv:
        raise UserError(f"unexpected argument {argv[0]!r}; flags begin with --, see --help")
    if not values.workdir:
        raise UserError("no working directory: give --workdir=DIR")
    cfg = cli.chosen_config()
    if cfg is None:
        raise UserError("no config: give --config=configs/quickstart.py")
    place = multihost.Place.of(
        values.distributed, values.coordinator, values.process_count, values.process_id
    )
    with contextlib.ExitStack() as stack:
        joined = stack.enter_context(supervise.child()) if place.several else None
        # From here to the end: a run is asked to stop, never cut off.
        stop = stack.enter_context(StopSignal())
        multihost.join(place)
        if joined is not None:
            joined()
        train(cfg, record.folder(values.workdir), stop)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Config file, FILE or FILE:ARGUMENT.")
    flags.DEFINE_string("workdir", None, "Where metrics, checkpoints and episodes go.")
    flags.DEFINE_bool("distributed", False, "One of several hosts, which find each other.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where they cannot.")
    flags.DEFINE_integer("process_count", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    cli.run(main, __doc__ or "", with_config=True)
