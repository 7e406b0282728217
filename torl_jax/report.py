"""Draws what runs did: `python -m torl_jax.report WORKDIR [WORKDIR ...]`.

Reads metrics.jsonl, config.json and the episode dumps of runs, finished or still
going. For one run it writes report/index.html (one page that needs no network) and
its pictures: curves.png, benchmarks.png and code.png, the counterparts of ToRL's
figures 4 and 5. For several, runs.png (figure 6) and a page that compares them.
"""

import argparse
import sys
from collections.abc import Sequence

from etils import epath

from torl_jax import record
from torl_jax.errors import UserError
from torl_jax.reporting import curves, overlay, page, runs, timeline
from torl_jax.reporting.anchors import Published, published
from torl_jax.reporting.page import Picture
from torl_jax.reporting.panels import to_png
from torl_jax.reporting.runs import Run

HELP = """Draw the training curves of a run and one self-contained page with curves, config and
sample episodes (index.html). Several runs are drawn over one another; those of one name are
seeds, drawn as their mean with the range between the lowest and the highest. Works while runs
are going on."""


FIGURE_5 = (
    "Counterpart of the paper's figure 5. A block past the call budget, never closed, or "
    "with another after it in its turn is written but not executed."
)


def pictures_of(run: Run, beside: Published) -> list[Picture]:
    """The figures of one run, those that it has measured something for."""
    calls = curves.in_parts(run.rows)
    drawn = (
        ("curves", "Curves", "", curves.overview(run.rows, beside)),
        (
            "timeline",
            "What ran when",
            "With config.pipeline.depth=1 a rollout runs beside the update of the step before.",
            timeline.timeline(run.rows),
        ),
        (
            "parts",
            "Parts of the reward",
            "Under a schedule (dynamic, two stages) their ranges move with the step.",
            curves.parts_figure(run.rows),
        ),
        (
            "benchmarks",
            "Held-out accuracy by benchmark",
            "Counterpart of the paper's figure 4. The mean is unweighted.",
            curves.benchmark_figure(run.rows, beside),
        ),
        (
            "code",
            "How the policy calls tools" if calls else "How the policy uses code",
            "" if calls else FIGURE_5,
            curves.code_figure(run.rows, beside),
        ),
    )
    return [
        Picture(stem, title, note, to_png(figure))
        for stem, title, note, figure in drawn
        if figure is not None
    ]


def report(found: Sequence[Run], out: epath.Path, beside: Published) -> list[epath.Path]:
    """Writes pictures and page of one run, or of several, to `out`; returns the files.

    Raises UserError where that cannot be written.
    """
    if len(found) == 1:
        pictures = pictures_of(found[0], beside)
        html = page.one(found[0], pictures, beside)
    else:
        drawn = to_png(overlay.compare(found, beside))
        pictures = [Picture("runs", "Curves", "Counterpart of the paper's figure 6.", drawn)]
        html = page.several(found, pictures, beside)
    files = {out / f"{picture.stem}.png": picture.png for picture in pictures}
    files[out / "index.html"] = html.encode(errors="backslashreplace")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            record.replace(path, data)
    except OSError as error:
        raise UserError(
            f"cannot write the report to {out} ({error}): give another --out"
        ) from error
    return list(files)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; the exit code is 2 where the user has something to mend."""
    parser = argparse.ArgumentParser(prog="python -m torl_jax.report", description=HELP)
    parser.add_argument(
        "workdir", nargs="+", help="the --workdir given to torl_jax.train; several are compared"
    )
    parser.add_argument(
        "--names",
        metavar="A,B",
        help="what to call the runs, one name for each (default: their folders' names)",
    )
    parser.add_argument(
        "--published",
        choices=("auto", "always", "never"),
        default="auto",
        help="draw the paper's numbers; auto: only beside runs of Qwen2.5-Math-1.5B or 7B, since "
        "they say nothing of another model",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write (default: WORKDIR/report; of several runs, comparison beside the "
        "first one)",
    )
    given = parser.parse_args(arguments)
    try:
        found = runs.load(given.workdir, given.names)
        first = found[0].workdir
        beside = first / "report" if len(found) == 1 else first.parent / "comparison"
        out = record.folder(given.out) if given.out else beside
        files = report(found, out, published(given.published, [run.config for run in found]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*files, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
