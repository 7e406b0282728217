"""Programs per second of several contenders, side by side: rounds, tables, a plot."""

import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks import processes, report
from benchmarks.contenders import Contender, Failed, Run

CLIENTS = 2
PRINT = "print(6 * 7)"
STDLIB = """
import json, re
rows = [{"name": f"item {n}", "price": n * n % 97} for n in range(250)]
text = json.dumps(rows)
prices = [int(found) for found in re.findall(r'"price": (\\d+)', text)]
print(sum(prices), len(json.loads(text)))
"""
NUMPY = """
import numpy
matrix = numpy.arange(10000.0).reshape(100, 100) % 7 + 50 * numpy.eye(100)
print(round(float(numpy.linalg.solve(matrix, numpy.ones(100)).sum()), 6))
"""
# Not among what the sandbox runs while it warms up: no answer may come from a cache.
FACTOR = """
from sympy import factor, symbols
x = symbols("x")
print(factor(x**6 - 7 * x**4 + 14 * x**2 - 8))
"""
INTEGRATE = """
from sympy import cos, factor, integrate, symbols
x = symbols("x")
print(factor(x**6 - 7 * x**4 + 14 * x**2 - 8), integrate(x**2 * cos(3 * x), x))
"""


class Workload(NamedTuple):
    """A program, and the modules that it imports."""

    name: str
    modules: str
    code: str


WORKLOADS = (
    Workload("print", "none", PRINT),
    Workload("json and re", "stdlib", STDLIB),
    Workload("300 kB of output", "none", "print('x' * 300_000)"),
    Workload("print with numpy", "numpy", f"import numpy\n{PRINT}"),
    Workload("linear solve", "numpy", NUMPY),
    Workload("print with sympy", "sympy", f"import sympy\n{PRINT}"),
    Workload("factor", "sympy", FACTOR),
    Workload("factor and integrate", "sympy", INTEGRATE),
)
TARGETS = (("print", 6.0), ("factor", 25.0), ("factor and integrate", 25.0))


@dataclass
class Measured:
    """One contender on one workload, over all rounds. Latencies in seconds."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def row(self) -> list[str]:
        p50, p99 = (1e3 * report.quantile(self.latencies, share) for share in (0.5, 0.99))
        digits = 1 if statistics.median(self.rates) < 20 else 0
        return [
            report.spread(self.rates, digits),
            f"{p50:.1f}",
            f"{p99:.1f}",
            f"{1e3 * statistics.median(self.cpu):.1f}" if self.cpu else "unknown",
            str(len(self.latencies)),
        ]


Table = dict[tuple[str, str], Measured]  # by workload and contender


def measure(contenders: Sequence[Contender], rounds: int, seconds: float) -> Table:
    """All rounds, interleaved: a busy minute of the machine meets every contender."""
    expected = {workload: contenders[0].run(workload.code) for workload in WORKLOADS}
    for workload in WORKLOADS:
        for contender in contenders:  # nobody's first, colder run counts
            drive(contender.run, workload.code, expected[workload], 0.0)
    found: Table = {}
    for _ in range(rounds):
        for workload in WORKLOADS:
            for contender in contenders:
                measured = found.setdefault((workload.name, contender.name), Measured())
                before = processes.cpu_seconds(os.getpid())
                done = drive(contender.run, workload.code, expected[workload], seconds)
                used = processes.cpu_seconds(os.getpid()) - before
                measured.rates.append(done.rate)
                measured.latencies += done.latencies
                if contender.counts_cpu:
                    measured.cpu.append(used / len(done.latencies))
    return found


class Driven(NamedTuple):
    rate: float  # programs per second
    latencies: list[float]


def drive(run: Run, code: str, expected: str, seconds: float) -> Driven:
    """CLIENTS threads run `code` again and again for `seconds`, at least once each."""

    def client() -> tuple[float, list[float]]:
        latencies, start = [], time.perf_counter()
        while not latencies or time.perf_counter() < start + seconds:
            before = time.perf_counter()
            printed = run(code)
            latencies.append(time.perf_counter() - before)
            if printed != expected:
                raise Failed(f"printed {printed[:100]!r}, expected {expected[:100]!r}")
        return time.perf_counter() - start, latencies

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [future.result() for future in [pool.submit(client) for _ in range(CLIENTS)]]
    # Each client by its own clock: one that ends first does not count as idle.
    return Driven(
        sum(len(latencies) / elapsed for elapsed, latencies in clients),
        [latency for _, latencies in clients for latency in latencies],
    )


def tables(found: Table, names: Sequence[str], strongest: str, rivals: Sequence[str]) -> str:
    """Markdown: one row for each workload and contender, then the ratios to `rivals`.

    The targets are for the ratio to the first of them.
    """
    head = ("program", "imports", "how", "programs/s", "p50 ms", "p99 ms", "CPU ms each", "runs")
    rows = []
    for workload in WORKLOADS:
        for name in names:
            row = found[workload.name, name].row()
            label = (workload.name, workload.modules) if name == names[0] else ("", "")
            rows.append([*label, name, *row])
    ratios = []
    for workload in WORKLOADS:
        wanted = dict(TARGETS).get(workload.name)
        against = [_ratio(found, workload.name, strongest, name) for name in rivals]
        verdict = "" if wanted is None else _verdict(wanted, statistics.median(against[0]))
        ratios.append([workload.name, *(report.spread(values, 2) for values in against), verdict])
    head_2 = ("program", *(f"{strongest} / {name}" for name in rivals), "target")
    return f"{report.table(head, rows)}\n\n{report.table(head_2, ratios)}"


def _ratio(found: Table, workload: str, ours: str, theirs: str) -> list[float]:
    """Round by round, so that a busy minute weighs on both sides."""
    pairs = zip(found[workload, ours].rates, found[workload, theirs].rates, strict=True)
    return [mine / other for mine, other in pairs]


def _verdict(wanted: float, found: float) -> str:
    return f"at least {wanted:g}: {'met' if found >= wanted else 'MISSED'}"


def plot(found: Table, names: Sequence[str], path: Path) -> None:
    """Grouped bars on a logarithmic scale: medians, with the range of the rounds."""
    hues = (report.ORANGE, report.PINK, report.RED, report.BLUE, report.SKY, report.GREEN)
    colours = (report.GREY, "#AAAAAA", *hues)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        rates = [found[workload.name, name].rates for workload in WORKLOADS]
        middle = [statistics.median(values) for values in rates]
        below = [high - min(values) for high, values in zip(middle, rates, strict=True)]
        above = [max(values) - low for low, values in zip(middle, rates, strict=True)]
        places = [group + (index + 0.5) * width - 0.4 for group in range(len(WORKLOADS))]
        bars = axes.bar(
            places,
            middle,
            width,
            yerr=(below, above),
            label=name,
            color=colours[index % len(colours)],
            error_kw={"elinewidth": 0.8, "capsize": 1.5},
        )
        axes.bar_label(bars, fmt="%.3g", fontsize=6, padding=2)
    axes.set_yscale("log")
    axes.set_ylabel(f"programs per second, {CLIENTS} clients")
    axes.set_xticks(range(len(WORKLOADS)), [workload.name for workload in WORKLOADS], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(names), fontsize=8, frameon=False, loc="upper center")
    axes.set_ylim(top=axes.get_ylim()[1] * 2)
    figure.savefig(path, dpi=130)
