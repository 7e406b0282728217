"""A run's record as the report reads it, and several runs under names of the user's."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from torl_jax import record
from torl_jax.errors import UserError
from torl_jax.logs import METRICS, read_metrics
from torl_jax.reporting.panels import Row

EPISODES_SHOWN = 6


class Run(NamedTuple):
    """One run: its name in the report, its folder, its metrics, its config if it left one."""

    name: str
    workdir: epath.Path
    rows: list[Row]
    config: dict[str, Any] | None


def load(workdirs: Sequence[str], names: str | None = None) -> list[Run]:
    """The runs in these folders; `names`: one for each, separated by commas.

    Raises UserError for a folder without metrics, one given twice, or names that do not fit.
    """
    folders = [record.folder(workdir) for workdir in workdirs]
    places = [folder.resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{folder} is given twice: a run is no second seed of itself")
    if names is None:
        chosen = [place.name for place in places]
    else:
        chosen = [name.strip() for name in names.split(",")]
        if len(chosen) != len(folders) or not all(chosen):
            raise UserError(
                f"--names={names} has {len([name for name in chosen if name])} names for "
                f"{len(folders)} runs: give one for each, separated by commas"
            )
    return [
        Run(name, f, rows_of(f), load_config(f)) for name, f in zip(chosen, folders, strict=True)
    ]


def rows_of(workdir: epath.Path) -> list[Row]:
    """The metrics of a run; UserError where there are none."""
    if not workdir.is_dir():
        raise UserError(f"no folder {workdir}: give the --workdir of a training run")
    rows = read_metrics(workdir)
    if not rows:
        raise UserError(f"{workdir / METRICS} has no complete row yet: try again after a step")
    return rows


def load_config(workdir: epath.Path) -> dict[str, Any] | None:
    """config.json; None if the run left none."""
    path = workdir / "config.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): mend or remove the file") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object: mend or remove the file")
    return found


def dumps(folder: epath.Path) -> list[dict[str, Any]]:
    """The first and the last dump of sample episodes, by step; fewer if there are fewer."""
    found: dict[int, list[epath.Path]] = {}
    for path in sorted(folder.glob("*-[0-9]*.jsonl")):
        found.setdefault(int(path.stem.rpartition("-")[2]), []).append(path)
    chosen = sorted({min(found), max(found)}) if found else []
    return [
        {"step": step, "name": path.stem.rpartition("-")[0], "episodes": load_dump(path)}
        for step in chosen
        for path in found[step]
    ]


def load_dump(path: epath.Path) -> list[dict[str, Any]]:
    """The first episodes of one dump."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[:EPISODES_SHOWN]]
    except ValueError as error:
        raise UserError(f"{path} is not an episode dump ({error}): remove the file") from error


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as "section.key": value."""
    if not isinstance(config, dict) or (prefix and not config):
        return {prefix: config}
    inner = [flat(value, f"{prefix}.{key}" if prefix else key) for key, value in config.items()]
    return {path: value for part in inner for path, value in part.items()}


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(key, its values by run) of the config keys that runs do not share."""
    configs = [flat(run.config) if run.config else {} for run in runs]
    out = []
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [json.dumps(config[key]) if key in config else "-" for config in configs]
        if len(set(values)) > 1:
            out.append((key, values))
    return out
