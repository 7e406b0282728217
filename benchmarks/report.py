"""What every section of docs/benchmarks.md needs: the machine, tables, quantiles, markers."""

import argparse
import importlib.metadata
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

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


class ReportError(Exception):
    """What keeps a section from being written, in one line."""


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: a value that was measured. Raises ValueError for none."""
    if not values:
        raise ValueError("no values, expected at least one")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median, and the range in brackets."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def conditions(load_before: float, *packages: str) -> str:
    """One paragraph: when, on what, and how busy it was. Loads are one-minute averages."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return (
        f"{time.strftime('%Y-%m-%d')}; {cores()} of {os.cpu_count()} cores ({processor()}), "
        f"{memory_gib():.0f} GiB, Linux {platform.release()}, {platform.machine()}; "
        f"{', '.join([f'Python {platform.python_version()}', *versions])}; "
        f"{'root' if os.geteuid() == 0 else 'an ordinary user'}; "
        f"load {load_before:.2f} before, {os.getloadavg()[0]:.2f} after."
    )


def command(module: str) -> str:
    """The command line that started this process, as one would type it."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """The processor's name, or its architecture where the kernel tells no name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def replace_section(text: str, name: str, body: str) -> str:
    """`text` with what stands between the two markers of `name` replaced by `body`."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ReportError(f"found no one place for this section: add the lines {start} and {end}")
    head, _, rest = text.partition(start)
    tail = rest.partition(end)[2]
    return f"{head}{start}\n\n{body.strip()}\n\n{end}{tail}"


def holding(name: str) -> Callable[[str], Path]:
    """For argparse: a file that has the section of this name, known before anything is measured."""

    def path(text: str) -> Path:
        try:
            replace_section(Path(text).read_text("utf-8"), name, "")
        except (ReportError, OSError) as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}") from None
        return Path(text)

    return path


def count(text: str) -> int:
    """For argparse: a number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} found, expected a number of 1 or more")
    return int(text)


def write_section(path: Path, name: str, body: str) -> None:
    """Replaces a section of a file. Raises ReportError, OSError."""
    try:
        text = replace_section(path.read_text("utf-8"), name, body)
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from None
    path.write_text(text, "utf-8")
