"""Draws and judges a soak's record.

python -m benchmarks.soak_report soak.jsonl --out docs/benchmarks.md
"""

import argparse
import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks import report
from benchmarks.mix import HARMLESS
from benchmarks.processes import ROLES

MODULE = "benchmarks.soak_report"
MIB = 2**20
WARM_UP = 0.1  # of the lines: caches fill, the allocator finds its size
GROWTH = 0.05  # of the memory after the warm-up, and
SLACK = 4 * MIB  # that much more, are called flat
TAIL = 3.0  # p99 below this many times the p50 of the same kind

Line = dict[str, Any]


def read(path: Path) -> tuple[Line, list[Line], Line]:
    """(head, one line for each thousand programs, end). Raises ReportError, OSError."""
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise report.ReportError(f"{path} is no record of a soak: {error}") from error
    samples = [line for line in lines if "roles" in line]
    if not lines or "command" not in lines[0] or len(samples) < 2:
        raise report.ReportError(f"{path}: {len(samples)} samples found, expected two at least")
    last = lines[-1]
    end = last if "end" in last else {"end": "it was cut off", "done": samples[-1]["done"]}
    return lines[0], samples, end


def series(samples: Sequence[Line], role: str, figure: str) -> list[float]:
    """One figure over time; 0 where no process had that role."""
    return [line["roles"].get(role, {}).get(figure, 0) for line in samples]


def edges(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the tenth after the warm-up and of the last tenth."""
    tenth = max(1, round(WARM_UP * len(values)))
    rest = values[tenth:] or values
    return statistics.median(rest[:tenth]), statistics.median(rest[-tenth:])


def verdicts(samples: Sequence[Line], end: Line) -> list[tuple[str, bool, str]]:
    """(claim, whether it holds, the figures)."""
    found = []
    present = [role for role in ROLES if any(series(samples, role, "processes"))]
    for role in present:
        first, last = edges(series(samples, role, "pss"))
        flat = last <= first * (1 + GROWTH) + SLACK
        text = f"PSS {first / MIB:.1f} -> {last / MIB:.1f} MiB"
        found.append((f"memory of {role} is flat", flat, text))
    for name, figure in (("descriptors", "descriptors"), ("processes", "processes")):
        pairs = [edges(series(samples, role, figure)) for role in present]
        text = ", ".join(
            f"{role} {first:g} -> {last:g}"
            for role, (first, last) in zip(present, pairs, strict=True)
        )
        found.append((f"{name} stay as many", all(last <= first for first, last in pairs), text))
    first, last = edges([line["left_in_tmp"] for line in samples])
    found.append(("nothing piles up in /tmp", last <= first, f"{first:g} -> {last:g} entries"))
    wrong, errors = (sum(line[name] for line in samples) for name in ("wrong", "errors"))
    found.append(("no SandboxError", errors == 0, f"{errors}"))
    found.append(("no unexpected result", wrong == 0, f"{wrong}"))
    left = end.get("left_alive")
    found.append(("nothing outlives the sandbox", left == 0, f"{left} processes"))
    for kind, values in latencies(samples).items():
        p50, p99 = (report.quantile(values, share) for share in (0.5, 0.99))
        text = f"{p50:.1f} ms, {p99:.1f} ms: {p99 / p50:.1f} times"
        found.append((f"p99 below {TAIL:g} p50, {kind}", p99 < TAIL * p50, text))
    return found


def latencies(samples: Sequence[Line]) -> dict[str, list[float]]:
    """Milliseconds by kind, of all harmless programs."""
    found: dict[str, list[float]] = {kind: [] for kind in HARMLESS}
    for line in samples:
        for kind, values in line["latencies"].items():
            found[kind] += values
    return {kind: values for kind, values in found.items() if values}


def section(head: Line, samples: Sequence[Line], end: Line, plot: Path) -> str:
    """Markdown."""
    seconds, cpu = samples[-1]["seconds"], samples[-1]["cpu"]
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    for line in samples:
        for kind, counts in line["statuses"].items():
            statuses[kind].update(counts)
    rows = [
        [kind, ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))]
        for kind, counts in sorted(statuses.items(), key=lambda item: item[0] not in HARMLESS)
    ]
    judged = [
        [claim, "yes" if holds else "**NO**", text] for claim, holds, text in verdicts(samples, end)
    ]
    new = Counter({role: sum(series(samples[1:], role, "new")) for role in ROLES})
    renewed = ", ".join(f"{count:g} {role}" for role, count in new.items() if count) or "none"
    told = [text for line in samples for text in line["wrong_kept"] + line["errors_kept"]]
    parts = [
        f"    {head['command']}\n    python -m {MODULE} {' '.join(sys.argv[1:])}",
        head["conditions"].partition("; load")[0] + ".",
        f"Level {head['level']}, {head['workers']} workers and as many programs under way. "
        f"{end['done']} of {head['wanted']} programs ({end['end']}) in {seconds / 60:.0f} minutes, "
        f"{end['done'] / seconds:.0f}/s, {1e3 * cpu / end['done']:.1f} ms of processor time each. "
        f"New processes seen from one sample to the next: {renewed}.",
        report.table(("claim", "holds", "figures"), judged),
        report.table(("kind", "results"), rows),
        *(
            ["Not as expected:\n\n" + "\n".join(f"    {text}" for text in told[:10])]
            if told
            else []
        ),
        f"![memory, descriptors and latency over the run]({plot.name})",
    ]
    return "\n\n".join(parts)


def draw(samples: Sequence[Line], path: Path) -> None:
    """Memory, descriptors and processes, latencies over the number of programs."""
    colours = (report.GREY, report.ORANGE, report.BLUE, report.GREEN, report.PINK)
    done = [line["done"] for line in samples]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for role, colour in zip(ROLES, colours, strict=True):
        if not any(series(samples, role, "processes")):
            continue
        held = [value / MIB for value in series(samples, role, "pss")]
        left.plot(done, held, color=colour, label=role)
        middle.plot(done, series(samples, role, "descriptors"), color=colour, label=role)
        middle.plot(done, series(samples, role, "processes"), color=colour, linestyle=":")
    left.set_ylabel("PSS, MiB")
    middle.set_ylabel("descriptors (dotted: processes)")
    shades = (report.BLUE, report.GREEN, report.ORANGE, report.PINK, report.SKY, report.RED)
    for kind, colour in zip(HARMLESS, (*shades, report.GREY), strict=True):
        for share, style in ((0.5, "-"), (0.99, ":")):
            lines = [line for line in samples if line["latencies"].get(kind)]
            values = [report.quantile(line["latencies"][kind], share) for line in lines]
            label = kind if share == 0.5 else None
            places = [line["done"] for line in lines]
            right.plot(places, values, color=colour, linestyle=style, linewidth=1, label=label)
    right.set_ylabel("ms, p50 (dotted: p99)")
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(NullFormatter())
    right.set_ylim(top=right.get_ylim()[1] * 4)  # room for the legend
    for axes in (left, middle, right):
        axes.set_xlabel("programs")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False, ncols=2, loc="upper left")
    for axes in (left, middle):
        axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.25)
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 with one line on stderr or where a claim does not hold."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("record", type=Path, help="what benchmarks.soak wrote")
    parser.add_argument("--out", type=Path, metavar="FILE", help="replaces its section here")
    parser.add_argument(
        "--plot", type=Path, default=Path("docs/sandbox_soak.png"), help="(%(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        head, samples, end = read(arguments.record)
        draw(samples, arguments.plot)
        body = section(head, samples, end, arguments.plot)
        print(body)
        if arguments.out is not None:
            report.write_section(arguments.out, "soak", body)
    except (report.ReportError, OSError) as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 1
    return 0 if all(holds for _, holds, _ in verdicts(samples, end)) else 1


if __name__ == "__main__":
    sys.exit(main())
