"""The pages: one file of HTML each, that needs no network; every text of a run is escaped."""

import base64
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from torl_jax.logs import METRICS
from torl_jax.reporting import overlay
from torl_jax.reporting.anchors import CURVES, MORE_CALLS, Published
from torl_jax.reporting.curves import in_parts
from torl_jax.reporting.panels import Row, number, series
from torl_jax.reporting.runs import Run, differences, dumps
from torl_jax.transcript import visible

# Title, metric, note; and what they are called where the policy calls tools by name.
HEADLINES = (
    ("Held-out accuracy", "eval/accuracy", "T = 1"),
    ("Held-out accuracy", "eval/greedy_accuracy", "greedy"),
    ("Code ratio", "rollout/code_ratio", "responses with code"),
    ("Code pass ratio", "rollout/pass_ratio", "blocks without error"),
    ("Reward", "rollout/reward", "training"),
    ("Response length", "rollout/response_length", "tokens"),
)
CALLS = {
    "Code ratio": ("Call ratio", "responses with calls"),
    "Code pass ratio": ("Pass ratio", "blocks"),
}

NEAR = 5  # steps that a figure of this run is the mean of, where it stands beside the paper's


class Picture(NamedTuple):
    """A figure of a page: its file's name without suffix, heading, and what one sees."""

    stem: str
    title: str
    note: str
    png: bytes


def headlines(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Start and end of the main figures.

    Evaluations: the first and the last. Training figures: means over the first and
    the last twentieth of the run, since single steps are noisy.
    """
    cards = []
    for title, key, note in HEADLINES:
        _, values = series(rows, key)
        if len(values):
            window = 1 if key.startswith("eval/") else max(1, len(values) // 20)
            start, end = values[:window].mean(), values[-window:].mean()
            title, note = CALLS.get(title, (title, note)) if in_parts(rows) else (title, note)
            cards.append({"title": title, "note": note, "start": number(start), "end": number(end)})
    return cards


def beside(rows: Sequence[Row], published: Published) -> list[dict[str, str]]:
    """What was read off the paper's curves, and this run at the same steps (its NEAR nearest)."""
    out = []
    for key in CURVES:
        steps, values = series(rows, key)
        for step, value in published.curve(key) if len(steps) else ():
            if step <= steps[-1]:
                near = np.argsort(np.abs(steps - step), kind="stable")[:NEAR]
                own = float(values[near].mean())
                name = key.removeprefix("rollout/").replace("_", " ")
                cells = (name, str(step), number(value), number(own))
                out.append(dict(zip(("name", "step", "paper", "here"), cells, strict=True)))
    return out


def one(run: Run, pictures: Sequence[Picture], published: Published) -> str:
    """The page of one run."""
    return render(
        "report_template.html.j2",
        name=run.name,
        first=min(row["step"] for row in run.rows),
        last=max(row["step"] for row in run.rows),
        written=written([run]),
        cards=headlines(run.rows),
        pictures=pictures,
        published=published.why,
        beside=beside(run.rows, published),
        config=json.dumps(run.config, indent=2) if run.config is not None else None,
        dumps=dumps(run.workdir / "episodes"),
    )


def several(runs: Sequence[Run], pictures: Sequence[Picture], published: Published) -> str:
    """The page of several runs side by side."""
    groups = overlay.group(runs)
    return render(
        "report_runs.html.j2",
        name=" · ".join(found.name for found in groups),
        written=written(runs),
        runs=runs,
        summary=overlay.summary(groups),
        held_out=overlay.held_out(groups)[1],
        differences=differences(runs),
        pictures=pictures,
        published=f"{published.why} {MORE_CALLS}" if published.size else published.why,
    )


def written(runs: Sequence[Run]) -> str:
    """When the last row of any of the runs was written."""
    last = max((run.workdir / METRICS).stat().mtime for run in runs)
    return f"{datetime.datetime.fromtimestamp(last):%d %B %Y, %H:%M}"


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parents[1]),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["visible"] = visible
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template(template).render(**values)
