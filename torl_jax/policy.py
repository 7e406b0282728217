"""A trained policy from wherever it lies: a run, one of its checkpoints, or a model folder."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import jax
from etils import epath

from torl_jax import config, parts, record
from torl_jax.checkpoint import Checkpoints
from torl_jax.errors import UserError
from torl_jax.model import hf, hub
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import initialise

RECIPE = "torl_config.json"


@dataclasses.dataclass(frozen=True)
class Policy:
    """The recipe it was trained by, its architecture and its float32 parameters (numpy)."""

    cfg: config.Config
    shape: ModelConfig
    params: dict
    bare: str = ""  # its path, where it has no recipe and none was given: `cfg` is ToRL's

    @property
    def note(self) -> str:
        """What a person should know whose checkpoint is `bare`; else empty."""
        if not self.bare:
            return ""
        return (
            f"{self.bare} carries no recipe: ToRL's prompt, markup and lengths are taken; "
            "--config=FILE chooses others, such as configs/quickstart.py:toolrl"
        )


def load(path: str, fallback: config.Config | None = None) -> Policy:
    """The policy at `path`.

    `path` is a working directory (its newest checkpoint), WORKDIR/checkpoints/STEP,
    a Hugging Face folder, or a name on the hub. What comes without its recipe takes
    `fallback` (or the defaults: ToRL's own prompt). UserError where there is none of these.
    """
    folder = record.folder(hub.resolve(path) if hub.is_name(path) else path)
    if not folder.is_dir():
        raise UserError(f"no checkpoint at {path}: give a working directory or a model folder")
    if hf.is_model(folder):
        return _published(Path(folder), fallback, path)
    workdir, step = _locate(folder)
    _no_fallback(folder, fallback)
    with contextlib.closing(Checkpoints(workdir, keep=1, read_only=True)) as checkpoints:
        step = checkpoints.latest() if step is None else step
        if step is None:
            raise UserError(f"{workdir} has no whole checkpoint yet; train first, or wait for one")
        cfg = checkpoints.meta(step).config
        shape = parts.model_config(cfg.model)
        abstract = jax.eval_shape(lambda key: initialise(shape, key), jax.random.key(0))
        return Policy(cfg, shape, checkpoints.params(step, abstract))


def _published(folder: Path, fallback: config.Config | None, path: str) -> Policy:
    shape, params = hf.load(folder)
    cfg, bare = fallback or config.Config(), "" if fallback else path
    if (folder / RECIPE).is_file():
        _no_fallback(folder, fallback)
        bare, cfg = "", config.parse(json.loads((folder / RECIPE).read_text()))
    model = dataclasses.replace(
        cfg.model, path=str(folder), tokenizer="", random=False, overrides={}
    )
    return Policy(dataclasses.replace(cfg, model=model), shape, params, bare)


def _no_fallback(folder: os.PathLike[str], fallback: config.Config | None) -> None:
    if fallback is not None:
        raise UserError(f"{folder} carries its own recipe; leave --config away")


def _locate(folder: epath.Path) -> tuple[epath.Path, int | None]:
    if (folder / "checkpoints").is_dir():
        return folder, None
    if folder.parent.name == "checkpoints" and folder.name.isdigit():
        return folder.parent.parent, int(folder.name)
    if folder.name == "checkpoints":
        return folder.parent, None
    raise UserError(
        f"{folder} is neither a working directory (it has no checkpoints/), nor a checkpoint "
        "(WORKDIR/checkpoints/STEP), nor a Hugging Face folder (it has no model_type)"
    )
