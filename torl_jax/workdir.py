"""The working directory of a run: one run at a time, where to go on, its config."""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import uuid
from collections.abc import Iterator

import jax
from etils import epath

from torl_jax import config
from torl_jax.checkpoint import Checkpoints, check_fits
from torl_jax.errors import UserError
from torl_jax.parallel import multihost
from torl_jax.record import remote, replace


@contextlib.contextmanager
def only_run(workdir: epath.Path) -> Iterator[None]:
    """Holds `workdir` while it is open; UserError where another process does.

    Process 0 holds it for all hosts, and all must see the same folder. The kernel lets go
    of the lock with the process, however that ends; a remote folder cannot be locked.
    """
    with contextlib.ExitStack() as stack:
        mark = multihost.together(
            lambda: stack.enter_context(_held(workdir)) if multihost.first() else ""
        )
        _seen_by_all(workdir, multihost.exchange(mark)[0])
        yield


@contextlib.contextmanager
def _held(workdir: epath.Path) -> Iterator[str]:
    """The lock, and where there are several hosts a mark in it that they can know it by."""
    path, mark = workdir / ".lock", uuid.uuid4().hex
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            if not remote(workdir):
                file = stack.enter_context(open(path, "a"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if multihost.count() > 1:
                path.write_text(mark)
        except BlockingIOError:
            raise UserError(
                f"another run is writing to {workdir}; wait for it, stop it, or choose another "
                "--workdir"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to --workdir={workdir} ({error.strerror}); choose another"
            ) from error
        yield mark


def _seen_by_all(workdir: epath.Path, mark: str) -> None:
    if multihost.count() == 1:
        return
    path = workdir / ".lock"
    seen = path.exists() and path.read_text() == mark
    blind = [host for host, sees in enumerate(multihost.exchange(seen)) if not sees]
    if blind:
        raise UserError(
            f"host {blind[0]} does not see what host 0 writes to {workdir}; several hosts need a "
            "--workdir that all share (gs://BUCKET/RUN, or a network file system)"
        )


@dataclasses.dataclass(frozen=True)
class ResumePoint:
    """Steps done by the newest checkpoint (0: none), problems taken, config keys changed since,
    and the fingerprint of the problems.
    """

    step: int = 0
    cursor: int = 0
    changed: tuple[str, ...] = ()
    data: str = ""

    def note(self) -> list[str]:
        """What a person should know of a resumed run."""
        if not self.step:
            return []
        since = f"; changed since: {', '.join(self.changed)}" if self.changed else ""
        return [f"resuming after step {self.step}{since}"]


def resume_point(cfg: config.Config, workdir: epath.Path, task: str = "train") -> ResumePoint:
    """Where to go on; UserError where the checkpoint is another experiment's or entry point's."""
    point = _resume_point(cfg, workdir, task)
    multihost.same("the newest checkpoint that they see", {"step": point.step})
    return point


def _resume_point(cfg: config.Config, workdir: epath.Path, task: str) -> ResumePoint:
    if not (workdir / "checkpoints").exists():
        return ResumePoint()
    with contextlib.closing(Checkpoints(workdir, cfg.checkpoint.keep, read_only=True)) as found:
        step = found.latest()
        if not step:
            return ResumePoint()
        meta = found.meta(step)
        if meta.task != task:
            raise UserError(
                f"the checkpoint in {workdir} was made by torl_jax.{meta.task}, this is "
                f"torl_jax.{task}; choose another --workdir"
            )
        changed = tuple(check_fits(meta.config, cfg, workdir))
        return ResumePoint(step, meta.cursor, changed, meta.data)


def write_config(workdir: epath.Path, cfg: config.Config) -> None:
    """workdir/config.json, for people, `report` and `export`."""
    (workdir / "config.json").write_text(json.dumps(config.to_dict(cfg), indent=2) + "\n")


def note_start(workdir: epath.Path, step: int, devices: str) -> None:
    """A line more in workdir/starts.jsonl: when, after which step, on what, from which code.

    The launch scripts name the run and the commit (TORL_RUN_ID, TORL_COMMIT).
    """
    path = workdir / "starts.jsonl"
    line = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "run_id": os.environ.get("TORL_RUN_ID", ""),
        "commit": os.environ.get("TORL_COMMIT", ""),
        "devices": devices,
        "jax": jax.__version__,
    }
    before = path.read_bytes() if path.exists() else b""
    replace(path, before + json.dumps(line).encode() + b"\n")
