"""Checkpoints by orbax: parameters, optimiser, step, cursor, seed, config.

A checkpoint is written beside its final place and renamed when whole, so the
latest one is never half-written, whenever the process dies. Saving is
asynchronous; the last `keep` are kept, and of those saved after an evaluation the
best by held-out accuracy (sampled, or greedy where nothing was sampled).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from torl_jax import config
from torl_jax.errors import UserError
from torl_jax.learner.state import TrainState
from torl_jax.record import remote

METRICS = ("eval/accuracy", "eval/greedy_accuracy")
# What a resumed run may not change: other values would silently make another experiment.
FIXED = (
    "model",
    "data",
    "protocol",
    "sampler",
    "tools",
    "reward",
    "toolrl",
    "filters",
    "rl",
    "critic",
    "sft",
    "optimizer",
)
# Keys of these that change speed only, or that people do change on purpose.
FREE = (
    "model.attention",
    "reward.workers",
    "reward.timeout",
    "sampler.slots",
    "sampler.segment",
    "sampler.compact",
    "sampler.extend_rows",
    "sampler.ladder",
    "sampler.span",
    "sampler.fsdp",
    "sampler.tp",
    "sampler.deadline",
    "sampler.retries",
    "tools.workers",
    "critic.lr",
    "optimizer.lr",
    "optimizer.offload",
)


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint knows besides arrays."""

    cursor: int  # problems taken from the stream
    config: config.Config
    data: str = ""  # the stream's fingerprint; earlier checkpoints have none
    task: str = "train"  # the entry point that made it: train or sft


class Checkpoints:
    """The checkpoints of one working directory."""

    def __init__(self, workdir: epath.PathLike, keep: int, read_only: bool = False) -> None:
        folder = epath.Path(workdir)
        # epath would put this machine's current folder before gs://.
        self.folder = (folder if remote(folder) else folder.absolute()) / "checkpoints"
        best = BestN(
            get_metric_fn=lambda metrics: metrics["accuracy"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
            read_only=read_only,
            create=not read_only,
            # Left-overs of a killed run are ours to clear: their names say "tmp".
            cleanup_tmp_directories=not read_only,
        )
        self.manager = ocp.CheckpointManager(
            self.folder, options=options, item_names=("state", "meta")
        )

    def latest(self) -> int | None:
        """The newest whole checkpoint's step; None if there is none."""
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState, meta: Meta, metrics: dict[str, float]) -> None:
        """Starts saving; arrays are copied before this returns, so training may go on."""
        found = next(({"accuracy": metrics[name]} for name in METRICS if name in metrics), None)
        document = {
            "cursor": meta.cursor,
            "config": config.to_dict(meta.config),
            "data": meta.data,
            "task": meta.task,
        }
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(tree(state)), meta=ocp.args.JsonSave(document)
            ),
            metrics=found,
        )

    def meta(self, step: int) -> Meta:
        """The checkpoint's cursor and config."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        with self._readable(step):
            document: dict[str, Any] = self.manager.restore(step, args=args)["meta"]
        data, task = document.get("data", ""), document.get("task", "train")
        return Meta(document["cursor"], config.parse(document["config"]), data, task)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state, in the shapes and shardings of `like` (arrays, or shapes alone)."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(tree(like)))
        with self._readable(step):
            return state_of(self.manager.restore(step, args=args)["state"])

    def params(self, step: int, abstract: dict) -> dict:
        """The policy's parameters alone, as numpy arrays in the shapes of `abstract`."""
        options = ocp.CheckpointManagerOptions(read_only=True)
        handlers = {"state": ocp.PyTreeCheckpointHandler()}
        wanted = {"params": abstract}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        item = ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True)
        with (
            self._readable(step),
            ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers) as manager,
        ):
            return manager.restore(step, args=ocp.args.Composite(state=item))["state"]["params"]

    @contextlib.contextmanager
    def _readable(self, step: int) -> Iterator[None]:
        try:
            yield
        # orbax and tensorstore say "damaged" with many types.
        except (KeyError, ValueError, OSError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"the checkpoint {self.folder / str(step)} cannot be read ({reason}); if it is "
                "damaged, move that folder away: the run goes on from the one before it"
            ) from error

    def finish(self) -> None:
        """Waits until the last save is whole."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        """Finishes, and lets go of the folder."""
        self.finish()
        self.manager.close()


def tree(state: TrainState) -> dict[str, Any]:
    """What is written: without a critic there is no trace of one, so old checkpoints fit."""
    found = {"params": state.params, "opt_state": state.opt_state, "step": state.step}
    return found if state.critic is None else found | {"critic": tree(state.critic)}


def state_of(found: dict[str, Any]) -> TrainState:
    """The state of which `tree` made this."""
    critic = state_of(found["critic"]) if "critic" in found else None
    return TrainState(found["params"], found["opt_state"], found["step"], critic)


def check_fits(saved: config.Config, wanted: config.Config, folder: epath.PathLike) -> list[str]:
    """Keys that differ and may; UserError for one that may not.

    A checkpoint made with another model, data, protocol or algorithm does not
    belong to this run.
    """
    before, now = config.to_dict(saved), config.to_dict(wanted)
    changed = [
        f"{section}.{key}"
        for section in before
        for key in before[section]
        if before[section][key] != now[section][key]
    ]
    fixed = [
        key
        for key in changed
        if (key.split(".")[0] in FIXED and key not in FREE) or key == "run.seed"
    ]
    if fixed:
        section, key = fixed[0].split(".")
        raise UserError(
            f"the checkpoint in {folder} was made with config.{fixed[0]}="
            f"{before[section][key]!r}, this run says {now[section][key]!r}; "
            "restore the old value or choose another --workdir"
        )
    return changed
