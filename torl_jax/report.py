"""Draws what a run did: `python -m torl_jax.report WORKDIR`.

Reads metrics.jsonl, config.json and the episode dumps of a run, finished or
still going, and writes report/curves.png and report/index.html (one page that
needs no network). Faint lines are the figures as measured, strong ones a
Gaussian average over about a twentieth of the run.
"""

import argparse
import base64
import datetime
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from torl_jax import record
from torl_jax.errors import UserError
from torl_jax.logs import METRICS, read_metrics
from torl_jax.transcript import visible

# Okabe and Ito's palette: told apart with any of the usual colour deficiencies.
BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#666666",
)
PHASES = (
    ("decode", "time/decode", BLUE),
    ("tool", "time/tool", ORANGE),
    ("reward", "time/reward", PINK),
    ("update", "time/update", GREEN),
)
HEADLINES = (
    ("Held-out accuracy", "eval/accuracy", "T = 1"),
    ("Held-out accuracy", "eval/greedy_accuracy", "greedy"),
    ("Code ratio", "rollout/code_ratio", "responses with code"),
    ("Code pass ratio", "rollout/pass_ratio", "blocks without error"),
    ("Reward", "rollout/reward", "training"),
    ("Response length", "rollout/response_length", "tokens"),
)
EPISODES_SHOWN = 6

Row = dict[str, Any]


class Line(NamedTuple):
    """One curve: its label, metrics key, colour; `evaluated` draws markers, unsmoothed."""

    label: str
    key: str
    color: str
    evaluated: bool = False


def series(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of `key`, where it was measured: two float arrays of one length."""
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, float), np.asarray(values, float)


def smooth(values: np.ndarray) -> np.ndarray:
    """A Gaussian average along the run, narrower weights at its ends renormalised."""
    sigma = len(values) / 40
    if sigma < 0.5:
        return values
    offsets = np.arange(len(values))
    weights = np.exp(-0.5 * ((offsets[:, None] - offsets[None, :]) / sigma) ** 2)
    return weights @ values / weights.sum(axis=1)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """`heights` moved apart, order kept, so that neighbours are at least `gap` apart."""
    order = np.argsort(heights, kind="stable")
    wanted = np.asarray(heights, float)[order]
    # Neighbours of a cluster share one mean: pool adjacent violators on heights - i * gap.
    pools: list[list[float]] = []
    for height in wanted - gap * np.arange(len(wanted)):
        pools.append([height])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    placed = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools])
    result = np.empty(len(wanted))
    result[order] = placed + gap * np.arange(len(wanted))
    return result.tolist()


def draw(axes: Axes, rows: Sequence[Row], lines: Sequence[Line], from_zero: bool = True) -> None:
    """The curves of one panel, each labelled where it ends."""
    labels = []
    right = 0.0
    for line in lines:
        steps, values = series(rows, line.key)
        if not len(steps):
            continue
        strong = values if line.evaluated else smooth(values)
        if line.evaluated:
            axes.plot(steps, values, color=line.color, lw=1.4, marker="o", ms=4, zorder=3)
        else:
            axes.plot(steps, values, color=line.color, lw=0.8, alpha=0.3)
            # One step makes no line: a marker keeps a run's first report from looking empty.
            dot = "o" if len(steps) == 1 else None
            axes.plot(steps, strong, color=line.color, lw=2.2, marker=dot, zorder=2)
        labels.append((f"{line.label} {number(strong[-1])}".strip(), line.color, strong[-1]))
        right = max(right, steps[-1])
    if from_zero:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    label_ends(axes, right, labels)


def draw_times(axes: Axes, rows: Sequence[Row]) -> None:
    """Seconds a step in each phase, stacked; a step that leaves the frame is named."""
    timed = [row for row in rows if any(row.get(key) is not None for _, key, _ in PHASES)]
    if not timed:
        label_ends(axes, 0.0, [])
        return
    steps = [row["step"] for row in timed]
    stack = np.array([[row.get(key) or 0.0 for row in timed] for _, key, _ in PHASES])
    axes.stackplot(steps, stack, colors=[color for _, _, color in PHASES], lw=0, alpha=0.85)
    totals = stack.sum(axis=0)
    frame = min(totals.max(), 1.6 * np.percentile(totals, 90))
    axes.set_ylim(0, 1.08 * frame if frame > 0 else 1.0)
    peak = int(totals.argmax())
    if totals[peak] > 1.08 * frame:
        note = f"step {steps[peak]} took {number(totals[peak])} s (off the scale)"
        axes.text(0.04, 0.94, note, transform=axes.transAxes, fontsize=8, color=GREY, va="top")
    recent = stack[:, -max(1, len(timed) // 20) :].mean(axis=1)
    middles = np.cumsum(recent) - recent / 2
    labels = [
        (f"{name} {seconds:.2f} s", color, middle)
        for (name, _, color), seconds, middle in zip(PHASES, recent, middles, strict=True)
    ]
    label_ends(axes, steps[-1], labels)


def label_ends(axes: Axes, right: float, labels: Sequence[tuple[str, str, float]]) -> None:
    """Writes (text, colour, height) labels where the curves end, none over another."""
    if not labels:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, color=GREY, ha="center")
        return
    low, high = axes.get_ylim()
    figure = axes.get_figure(root=True)
    points = axes.get_position().height * (figure.get_figheight() if figure else 1.0) * 72
    places = spread([height for _, _, height in labels], gap=(high - low) * 12 / points)
    for (text, color, _), place in zip(labels, places, strict=True):
        axes.annotate(
            text,
            (right, place),
            xytext=(7, 0),
            textcoords="offset points",
            color=color,
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )


def number(value: float) -> str:
    """A figure for people: three digits or so, no exponent for everyday sizes."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def curves(rows: Sequence[Row]) -> Figure:
    """The six panels of a run."""
    figure = Figure(figsize=(15, 7.6), facecolor="white")
    grid = figure.add_gridspec(
        2, 3, left=0.04, right=0.925, top=0.93, bottom=0.07, wspace=0.52, hspace=0.32
    )
    panels = {
        "Reward": [Line("", "rollout/reward", BLUE)],
        "Accuracy": [
            Line("train", "rollout/accuracy", SKY),
            Line("held out, T=1", "eval/accuracy", BLUE, evaluated=True),
            Line("held out, greedy", "eval/greedy_accuracy", RED, evaluated=True),
        ],
        "Code": [
            Line("code ratio", "rollout/code_ratio", BLUE),
            Line("pass ratio", "rollout/pass_ratio", GREEN),
        ],
        "Response length (tokens)": [
            Line("total", "rollout/response_length", GREY),
            Line("model", "rollout/model_tokens", BLUE),
            Line("tool", "rollout/tool_tokens", ORANGE),
        ],
    }
    cells = (grid[0, 0], grid[0, 1], grid[0, 2], grid[1, 0])
    for (title, lines), cell in zip(panels.items(), cells, strict=True):
        axes = figure.add_subplot(cell)
        draw(axes, rows, lines, from_zero=title != "Reward")
        dress(axes, title)
    halves = grid[1, 1].subgridspec(2, 1, hspace=0.45)
    upper, lower = halves[0], halves[1]
    for half, line, title in (
        (upper, Line("", "train/entropy", BLUE), "Entropy (nats a token)"),
        (lower, Line("", "train/grad_norm", RED), "Gradient norm"),
    ):
        axes = figure.add_subplot(half)
        draw(axes, rows, [line])
        dress(axes, title, with_steps=half is lower)
    axes = figure.add_subplot(grid[1, 2])
    draw_times(axes, rows)
    dress(axes, "Seconds a step")
    return figure


def dress(axes: Axes, title: str, with_steps: bool = True) -> None:
    """The look all panels share; `with_steps` names the steps under the panel."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color="#222222")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(colors=GREY, labelsize=8.5, length=3)
    axes.grid(axis="y", color="#EEEEEE", lw=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    if with_steps:
        axes.set_xlabel("step", loc="right", fontsize=8, color=GREY, labelpad=1)
    else:
        axes.tick_params(labelbottom=False)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))


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
            cards.append({"title": title, "note": note, "start": number(start), "end": number(end)})
    return cards


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


def load_config(path: epath.Path) -> str | None:
    """config.json, indented; None if the run left none."""
    if not path.is_file():
        return None
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=2)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): mend or remove the file") from error


def page(workdir: epath.Path, rows: Sequence[Row], png: bytes) -> str:
    """The HTML page; every text of the run is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["visible"] = visible
    written = datetime.datetime.fromtimestamp((workdir / METRICS).stat().mtime)
    return environment.get_template("report_template.html.j2").render(
        name=workdir.resolve().name,
        first=min(row["step"] for row in rows),
        last=max(row["step"] for row in rows),
        written=f"{written:%d %B %Y, %H:%M}",
        cards=headlines(rows),
        curves=base64.b64encode(png).decode(),
        config=load_config(workdir / "config.json"),
        dumps=dumps(workdir / "episodes"),
    )


def report(workdir: epath.Path, out: epath.Path) -> None:
    """Writes curves.png and index.html of the run in `workdir` to `out`.

    Raises UserError for a folder without metrics or one that cannot be written.
    """
    if not workdir.is_dir():
        raise UserError(f"no folder {workdir}: give the --workdir of a training run")
    rows = read_metrics(workdir)
    if not rows:
        raise UserError(f"{workdir / METRICS} has no complete row yet: try again after a step")
    buffer = io.BytesIO()
    curves(rows).savefig(buffer, format="png", dpi=130)
    html = page(workdir, rows, buffer.getvalue())
    try:
        out.mkdir(parents=True, exist_ok=True)
        record.replace(out / "curves.png", buffer.getvalue())
        record.replace(out / "index.html", html.encode(errors="backslashreplace"))
    except OSError as error:
        raise UserError(
            f"cannot write the report to {out} ({error}): give another --out"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; the exit code is 2 where the user has something to mend."""
    parser = argparse.ArgumentParser(
        prog="python -m torl_jax.report",
        description="Draw the training curves of a run (curves.png) and one self-contained page "
        "with curves, config and sample episodes (index.html). Works while the run is going on.",
    )
    parser.add_argument("workdir", help="the --workdir given to torl_jax.train")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: WORKDIR/report)")
    given = parser.parse_args(arguments)
    try:
        workdir = record.folder(given.workdir)
        out = record.folder(given.out) if given.out else workdir / "report"
        report(workdir, out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out / "curves.png", out / "index.html", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
