"""How a run on one host or several starts, and what it says of itself: for `train` and `sft`."""

import contextlib
from collections.abc import Callable

from absl import flags
from etils import epath
from jax.sharding import Mesh
from ml_collections import config_flags

from torl_jax import cli, compilation, config, record, supervise
from torl_jax.errors import UserError
from torl_jax.interrupt import StopSignal
from torl_jax.logs import Silent, Writer
from torl_jax.parallel import mesh, multihost

Job = Callable[[config.Config, epath.Path, StopSignal], None]


def define_flags() -> None:
    """The flags of a run."""
    config_flags.DEFINE_config_file("config", None, "Config file, FILE or FILE:ARGUMENT.")
    flags.DEFINE_string("workdir", None, "Where metrics, checkpoints and episodes go.")
    flags.DEFINE_bool("distributed", False, "One of several hosts, which find each other.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where they cannot.")
    flags.DEFINE_integer("process_count", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def start(argv: list[str], job: Job) -> None:
    """Joins the other hosts and does `job`, with the flags' config and working directory."""
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
        compilation.keep()
        job(cfg, record.folder(values.workdir), stop)


def flat(cfg: config.Config) -> dict[str, object]:
    """Every key with its value, as `config.section.key`."""
    return {
        f"config.{section}.{key}": value
        for section, keys in config.to_dict(cfg).items()
        for key, value in keys.items()
    }


def devices(training: Mesh, sampling: Mesh | None = None) -> str:
    """What trains and what samples, in words."""

    def ways(of: Mesh) -> str:
        return " ".join(f"{axis}={size}" for axis, size in of.shape.items())

    kind, hosts = training.devices.flat[0].device_kind, multihost.count()
    where = f"{training.size} x {kind}" + (f" on {hosts} hosts" if hosts > 1 else "")
    said = f"devices: {where}; training {ways(training)}"
    if sampling is None:
        return said
    if mesh.disjoint(sampling, training):
        return f"{said}; {sampling.size} more on each host sample, {ways(sampling)}"
    each = " on each host" if hosts > 1 and sampling.size < training.size else ""
    return f"{said}; sampling {ways(sampling)}{each}"


def open_writer(
    cfg: config.Config, workdir: epath.Path, start_step: int, total_steps: int
) -> Writer | Silent:
    """The run's writer, on process 0 alone; rows after the checkpoint will be made again."""
    if not multihost.first():
        return Silent()
    return Writer(
        workdir,
        total_steps=total_steps,
        start_step=start_step + 1 if start_step else 0,
        wandb=cfg.run.wandb,
        config=config.to_dict(cfg),
    )


def say(line: str) -> None:
    """Prints on process 0."""
    if multihost.first():
        print(line)
