"""What ran when: rollouts and updates of the last steps as bars on one clock."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from torl_jax.reporting.panels import BLUE, GREEN, GREY, LEFT, ORANGE, Row, dress

STEPS = 8
LANES = (("rollout", BLUE), ("update", GREEN))


def timeline(rows: Sequence[Row]) -> Figure | None:
    """The last STEPS steps; None for a run whose clock was not written down.

    The part of a rollout in which all rows waited for tools is drawn on it, at its end,
    wherever in it that was.
    """
    known = [row for row in rows if row.get("time/at_rollout") is not None][-STEPS:]
    if not known:
        return None
    figure = Figure(figsize=(10.5, 2.3), facecolor="white")
    axes = figure.add_axes((LEFT / 7, 0.26, 0.89, 0.56))
    zero = min(min(row["time/at_rollout"], row["time/at_update"]) for row in known)
    for lane, (name, color) in enumerate(LANES):
        for row in known:
            begin, length = row[f"time/at_{name}"] - zero, row[f"time/{name}"]
            axes.barh(
                -lane, length, left=begin, height=0.62, color=color, edgecolor="white", lw=0.8
            )
            if name == "rollout" and (waited := row.get("time/tool")):
                waited = min(waited, length)
                left = begin + length - waited
                axes.barh(-lane, waited, left=left, height=0.2, color=ORANGE, lw=0)
            axes.text(
                begin + length / 2, -lane + 0.36, f"{row['step']:.0f}", ha="center", va="bottom",
                fontsize=7.5, color=GREY,
            )  # fmt: skip
    dress(axes, "Rollouts and updates, by step (orange: all rows wait for tools)", with_steps=False)
    axes.set_yticks([0, -1], [name for name, _ in LANES])
    axes.set_ylim(-1.5, 0.75)
    axes.tick_params(axis="x", labelbottom=True, labelsize=8, colors=GREY)
    axes.set_xlabel("seconds", fontsize=8, color=GREY)
    return figure
