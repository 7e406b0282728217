"""What a run leaves behind: metrics.jsonl, TensorBoard events, episodes, a progress bar.

metrics.jsonl is the record (one strict JSON object a line, null where a value
is not finite); everything else is a view of it. A run that resumes at step k
keeps the rows before k byte for byte and drops the rest, which it will make
again, so the file never tells a step twice.
"""

import contextlib
import importlib
import json
import math
import numbers
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsFloat

from etils import epath
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from torl_jax import columns, record, transcript
from torl_jax.columns import Number
from torl_jax.episode import Episode, Score
from torl_jax.errors import UserError

METRICS = "metrics.jsonl"
HEADER_EVERY = 20


class Writer:
    """Writes the metrics and sample episodes of one run; a context manager.

    `workdir` is a local folder or one in a bucket (gs://...), where TensorBoard's events arrive
    with each evaluation and at the end; `start_step` is the first step that will be
    written (rows from it on are dropped, 0 for a fresh run). `config` goes to
    Weights & Biases only. On a terminal the console shows a progress bar with
    the time left; elsewhere plain lines. Only one process of a run may write.

    Raises UserError, before anything is changed, for a workdir that cannot be reached, a
    damaged metrics.jsonl or a missing `wandb` package.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        total_steps: int,
        start_step: int,
        wandb: bool = False,
        config: Mapping[str, Any],
        console: Console | None = None,
    ):
        self.workdir = record.folder(workdir)
        self.total_steps = total_steps
        self.start_step = start_step
        self.config = dict(config)
        self.console = console or Console(highlight=False)
        self._wandb_module = import_wandb() if wandb else None
        self._rows_shown = 0

    def __enter__(self) -> "Writer":
        # It imports torch where that is installed: a second that only who writes should pay.
        from tensorboardX import SummaryWriter

        path = self.workdir / METRICS
        kept = kept_rows(path, self.start_step)
        with contextlib.ExitStack() as stack:
            self._record = stack.enter_context(record.keep(path))
            self._run = None
            if self._wandb_module is not None:
                self._run = start_wandb(
                    self._wandb_module, self.workdir, self._record.scratch, self.config
                )
                stack.push(lambda kind, *_: self._finish_wandb(failed=kind is not None))
            self._record.begin(kept)
            self._tensorboard = SummaryWriter(
                str(self._record.scratch / "tensorboard"),
                purge_step=self.start_step,
                flush_secs=2,
                # The default name holds whole seconds only: a quick restart would overwrite.
                filename_suffix=f".{time.time_ns()}",
            )
            stack.callback(self._tensorboard.close)
            self._progress = stack.enter_context(progress_bar(self.console))
            self._task = self._progress.add_task(
                "step", total=self.total_steps, completed=max(self.start_step - 1, 0)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def write(self, step: int, row: Mapping[str, SupportsFloat | None]) -> None:
        """Records the figures after `step` steps; nan and infinity become null.

        A row with only eval/ figures is printed as an evaluation and moves no progress.
        """
        figures = {name: finite(value) for name, value in row.items()}
        self._record.add(strict_json({"step": int(step), **figures}).encode() + b"\n")
        known = {name: value for name, value in figures.items() if value is not None}
        for name, value in known.items():
            self._tensorboard.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log({"step": int(step), **known})
        if columns.trained(figures):
            if self._rows_shown % HEADER_EVERY == 0:
                self._print(columns.header(figures), "bold")
            self._print(columns.step_line(step, figures))
            self._rows_shown += 1
            self._progress.update(self._task, completed=step)
        if columns.evaluated(figures):
            self._print(columns.eval_line(step, figures), "cyan")
            self._tensorboard.flush()
            self._record.publish()

    def episodes(
        self, step: int, name: str, episodes: Sequence[Episode], scores: Sequence[Score]
    ) -> None:
        """Dumps sample episodes as episodes/{name}-{step:06d}.txt and .jsonl."""
        pairs = list(zip(episodes, scores, strict=True))
        folder = self.workdir / "episodes"
        texts = [episode_text(episode, score) for episode, score in pairs]
        rows = [strict_json(episode_row(episode, score)) + "\n" for episode, score in pairs]
        stem = f"{name}-{step:06d}"
        record.replace(folder / f"{stem}.txt", "\n".join(texts).encode(errors="backslashreplace"))
        record.replace(folder / f"{stem}.jsonl", "".join(rows).encode())

    def line(self, message: str) -> None:
        """Prints a message above the progress bar."""
        self._print(message)

    def _print(self, message: str, style: str = "") -> None:
        self.console.print(Text(transcript.visible(message), style=style), soft_wrap=True)

    def _finish_wandb(self, failed: bool) -> None:
        assert self._run is not None
        self._run.finish(exit_code=int(failed))


class Silent:
    """What the other processes of a run have for a Writer: it writes and says nothing."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def write(self, step: int, row: Mapping[str, SupportsFloat | None]) -> None:
        """Nothing: process 0 writes it."""

    def episodes(
        self, step: int, name: str, episodes: Sequence[Episode], scores: Sequence[Score]
    ) -> None:
        """Nothing: process 0 writes them."""

    def line(self, message: str) -> None:
        """Nothing: process 0 says it."""


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, in order; a half-written last line is left out.

    Raises UserError if the file is missing or any other line is damaged.
    """
    path = record.folder(workdir) / METRICS
    if not path.is_file():
        raise UserError(f"no {METRICS} in {workdir}: give the --workdir of a training run")
    return [row for _, row in numbered_rows(path)]


def kept_rows(path: epath.Path, start_step: int) -> bytes:
    """The complete lines of `path` whose step is before `start_step`, byte for byte."""
    if not path.exists():
        return b""
    rows = numbered_rows(path)
    return b"".join(line for line, row in rows if row["step"] < start_step)


def numbered_rows(path: epath.Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Every complete line of a metrics file with what it says."""
    rows = []
    # What follows the last newline is empty, or a line whose writer was killed.
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise UserError(
                f"{path} line {number} is not a metrics row: expected a JSON object with a "
                f"whole number under 'step'; remove the line or use another --workdir"
            )
        rows.append((line + b"\n", row))
    return rows


def finite(value: SupportsFloat | None) -> Number:
    """A number for JSON: whole numbers stay whole, nan and infinity become None."""
    if value is None or isinstance(value, numbers.Integral):
        return None if value is None else int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def strict_json(value: Any) -> str:
    """One line of JSON; ValueError rather than NaN, and lone surrogates escaped."""
    return json.dumps(value, allow_nan=False)


def episode_text(episode: Episode, score: Score) -> str:
    """An episode as it stands in the .txt dump."""
    name = transcript.visible(f"{episode.problem.id} · sample {episode.sample}")
    gold = transcript.visible(f"gold answer: {episode.problem.answer}")
    return f"── {name} · {gold} ──\n{transcript.plain(episode, score)}"


def episode_row(episode: Episode, score: Score) -> dict[str, Any]:
    """An episode as it stands in the .jsonl dump."""
    problem = episode.problem
    return {
        "problem": {"id": problem.id, "source": problem.source, "answer": problem.answer},
        "sample": episode.sample,
        "segments": [
            {"author": transcript.NAMES[s.author], "text": s.text, "tokens": list(s.tokens)}
            for s in episode.segments
        ],
        "turns": [
            {
                "code": turn.call.text if turn.call else None,
                "status": turn.observation.status if turn.observation else None,
                "passed": turn.observation.passed if turn.observation else None,
                "seconds": finite(turn.observation.seconds) if turn.observation else None,
                "observation": turn.observation.text if turn.observation else None,
            }
            for turn in episode.turns
        ],
        "end": episode.end.value,
        "error": episode.error,
        "lost": list(episode.lost),
        "score": {
            "total": finite(score.total),
            "correct": bool(score.correct),
            "parts": {name: finite(value) for name, value in score.parts.items()},
            "failure": score.failure,
        },
        "verdict": transcript.verdict(episode, score),
    }


def progress_bar(console: Console) -> Progress:
    """Steps done, time spent and time left; silent where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        expand=True,
        refresh_per_second=2,
        # A step may take minutes; the default window of 30 s would never see two of them.
        speed_estimate_period=3600,
    )


def import_wandb() -> ModuleType:
    """The optional `wandb` package."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UserError(
            f"logging to Weights & Biases needs a package that cannot be imported ({error}): "
            f"run `pip install wandb` or turn it off"
        ) from error


def start_wandb(
    wandb: ModuleType, workdir: epath.Path, scratch: Path, config: dict[str, Any]
) -> Any:
    """Starts the run whose id is kept in `workdir`, or goes on with it."""
    id_file = workdir / "wandb_id.txt"
    if not id_file.exists():
        record.replace(id_file, uuid.uuid4().hex[:12].encode())
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "torl_jax"),
            id=id_file.read_text().strip(),
            name=workdir.resolve().name,
            dir=str(scratch),
            config=config,
            resume="allow",
        )
    except wandb.Error as error:
        raise UserError(
            f"Weights & Biases did not start ({' '.join(str(error).split())}): run `wandb login`, "
            f"set WANDB_MODE=offline or turn it off"
        ) from error
    # wandb's own step never goes back, but a resumed run makes some steps again.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run
