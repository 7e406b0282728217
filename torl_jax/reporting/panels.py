"""Panels: curves over steps, each labelled where it ends, and what was published beside them.

Faint lines are the figures as measured, strong ones a Gaussian average over up to a
twentieth of the run.
"""

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from torl_jax.reporting.anchors import Points

# Okabe and Ito's palette: told apart with any of the usual colour deficiencies.
BLUE, ORANGE, GREEN, PINK, SKY, RED, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#000000",
)
GREY = "#666666"  # totals, and what was published

# A figure's measures in inches: a panel, the room at its right for labels, between rows.
WIDTH, LABELS, HEIGHT, GAP = 3.1, 1.75, 2.7, 0.85
LEFT, TOP, BOTTOM = 0.6, 0.5, 0.55

Row = dict[str, Any]
Label = tuple[str, str, float]  # text, colour, height


class Line(NamedTuple):
    """One curve: its label, metrics key, colour; `evaluated` draws markers, unsmoothed."""

    label: str
    key: str
    color: str
    evaluated: bool = False


def sheet(rows: int, columns: int, foot: float = 0.0, head: float = 0.0) -> tuple[Figure, GridSpec]:
    """An empty figure of rows x columns panels, with `head` and `foot` more inches for a legend."""
    width = LEFT + columns * (WIDTH + LABELS)
    height = TOP + head + rows * HEIGHT + (rows - 1) * GAP + BOTTOM + foot
    figure = Figure(figsize=(width, height), facecolor="white")
    grid = figure.add_gridspec(
        rows,
        columns,
        left=LEFT / width,
        right=1 - LABELS / width,
        top=1 - (TOP + head) / height,
        bottom=(BOTTOM + foot) / height,
        wspace=LABELS / WIDTH,
        hspace=GAP / HEIGHT,
    )
    return figure, grid


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def series(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of `key`, where it was measured: two float arrays of one length."""
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, float), np.asarray(values, float)


def smooth(values: np.ndarray) -> np.ndarray:
    """A Gaussian average along the run, its weights renormalised at the ends.

    It is narrow where the run begins, so that neither a fast rise nor a first step that
    compiles is spread over what follows.
    """
    widest = len(values) / 40
    if widest < 0.5:
        return values
    offsets = np.arange(len(values))
    sigma = np.minimum(1.5 + offsets / 8, widest)
    distances = np.abs(offsets[:, None] - offsets[None, :]) / sigma[:, None]
    weights = np.where(distances <= 3, np.exp(-0.5 * distances**2), 0.0)
    return weights @ values / weights.sum(axis=1)


def spread(heights: Sequence[float], gap: float, floor: float = -math.inf) -> list[float]:
    """`heights` moved apart, order kept, at least `gap` from one another and none below `floor`."""
    order = np.argsort(heights, kind="stable")
    wanted = np.asarray(heights, float)[order]
    # Neighbours of a cluster share one mean: pool adjacent violators on heights - i * gap.
    pools: list[list[float]] = []
    for height in wanted - gap * np.arange(len(wanted)):
        pools.append([height])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    placed = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools])
    steps = gap * np.arange(len(wanted))
    result = np.empty(len(wanted))
    result[order] = np.maximum(placed, floor) + steps
    return result.tolist()


def draw(
    axes: Axes,
    rows: Sequence[Row],
    lines: Sequence[Line],
    from_zero: bool = True,
    marks: Points = (),
    levels: Sequence[tuple[str, float]] = (),
) -> None:
    """The curves of one panel, each labelled where it ends.

    `marks`: published points; `levels`: published (name, height), drawn across the panel.
    """
    labels: list[Label] = []
    right = 0.0
    for line in lines:
        steps, values = series(rows, line.key)
        if not len(steps):
            continue
        strong = values if line.evaluated else smooth(values)
        if line.evaluated:
            size = 4 if len(steps) <= 40 else 2
            axes.plot(steps, values, color=line.color, lw=1.4, marker="o", ms=size, zorder=3)
        else:
            axes.plot(steps, values, color=line.color, lw=0.8, alpha=0.3)
            # One step makes no line: a marker keeps a run's first report from looking empty.
            dot = "o" if len(steps) == 1 else None
            axes.plot(steps, strong, color=line.color, lw=2.2, marker=dot, zorder=2)
        labels.append((f"{line.label} {number(strong[-1])}".strip(), line.color, strong[-1]))
        right = max(right, steps[-1])
    if labels:
        mark(axes, marks, right)
        labels += [level(axes, name, height) for name, height in levels]
    if from_zero and labels:
        stand_on_zero(axes)
    label_ends(axes, right, labels)


def stand_on_zero(axes: Axes) -> None:
    """The frame reaches from zero, or from what lies below, to a little above the curves."""
    low, high = min(0.0, axes.dataLim.y0), axes.dataLim.y1
    axes.set_ylim(low, max(axes.get_ylim()[1], high + 0.04 * (high - low)))


def mark(axes: Axes, points: Points, right: float, style: str = "--") -> None:
    """Published points up to step `right`: beyond it they would squeeze the run's own curve."""
    inside = [(step, value) for step, value in points if step <= right]
    if inside:
        steps, values = zip(*inside, strict=True)
        axes.plot(
            steps, values, color=GREY, ls=style, lw=1.1, marker="D", ms=5, mfc="white", zorder=4
        )  # fmt: skip


def level(axes: Axes, name: str, height: float) -> Label:
    """A published figure of no particular step, drawn across the panel; returns its label."""
    axes.axhline(height, color=GREY, ls="--", lw=1.0, zorder=1)
    return (f"{name} {number(height)}", GREY, height)


def explain(figure: Figure, texts: Sequence[tuple[str, bool]]) -> None:
    """Says under the panels what the dashed lines are: (text, whether with diamonds)."""
    handles = [
        Line2D(
            [], [], color=GREY, ls="--", lw=1.1, ms=5, mfc="white",
            marker="D" if diamonds else "none", label=text,
        )
        for text, diamonds in texts
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(LEFT / figure.get_figwidth(), 0.0),
        ncols=len(handles), fontsize=9, frameon=False, borderaxespad=0.4, labelcolor="#333333",
        borderpad=0.2, handlelength=3.2,
    )  # fmt: skip


def label_ends(axes: Axes, right: float, labels: Sequence[Label]) -> None:
    """Writes labels where the curves end, none over another."""
    if not labels:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, color=GREY, ha="center")
        return
    low, high = axes.get_ylim()
    figure = axes.get_figure(root=True)
    points = axes.get_position().height * (figure.get_figheight() if figure else 1.0) * 72
    heights = [height for _, _, height in labels]
    # Below the frame they would lie over the axis' own figures.
    places = spread(heights, gap=(high - low) * 12 / points, floor=low)
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


def words(text: str, width: int = 34) -> str:
    """A run's own text as a figure can show it: on one line, not too long, never mathematics."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    short = text if len(text) <= width else text[: width - 1] + "…"
    return short.replace("$", r"\$")


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
