"""Single moments of the sandbox: time-outs, the first result, a killed slot, memory at rest."""

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks import processes, report
from benchmarks.contenders import Failed
from benchmarks.throughput import CLIENTS, FACTOR, PRINT
from sandbox import Sandbox

DEADLINE = 1.0
ALLOWED_LATE = 0.15  # seconds
LOOP = "while True: pass"
DEAF = """
import signal
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_IGN)
while True: pass
"""
TIERS = ((), ("numpy",), ("numpy", "sympy"))


def timeouts(runs: int) -> str:
    """How much later than its deadline an endless program is answered."""
    rows = []
    with Sandbox(workers=CLIENTS, min_level="rlimits") as box:
        box.run(PRINT)
        level = box.level
        for name, code in (("`while True: pass`", LOOP), ("the same, deaf to signals", DEAF)):
            late = _overshoots(box, code, runs if code == LOOP else max(CLIENTS, runs // 4))
            figures = [
                f"{1e3 * report.quantile([row[column] for row in late], share):.1f}"
                for column, share in ((0, 0.5), (0, 0.99), (0, 1.0), (1, 0.99))
            ]
            kept = report.quantile([waited for waited, _ in late], 0.99) < ALLOWED_LATE
            target = f"p99 below {1e3 * ALLOWED_LATE:.0f} ms: {'met' if kept else 'MISSED'}"
            rows.append([name, str(len(late)), *figures, target])
    head = ("program", "runs", "p50 ms late", "p99", "most", "p99 less waiting", "target")
    return (
        f"Level {level}, deadline {DEADLINE:g} s, {CLIENTS} at a time. Late is what a caller waits "
        "beyond the deadline. A program that was ready but had no processor gets that time added "
        f"to its deadline; the last figure leaves it out.\n\n{report.table(head, rows)}"
    )


def _overshoots(box: Sandbox, code: str, runs: int) -> list[tuple[float, float]]:
    """Seconds late, and the same less the time without a processor."""

    def one(_: int) -> tuple[float, float]:
        before = time.perf_counter()
        result = box.run(code, timeout=DEADLINE)
        late = time.perf_counter() - before - DEADLINE
        if result.status != "timeout":
            raise Failed(f"status {result.status}, expected timeout: {result.stderr[-300:]!r}")
        return late, late - max(0.0, result.seconds - result.cpu_seconds)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(one, range(runs)))


def start(rounds: int) -> str:
    """From the constructor to a first result, and from a killed slot to the next one."""
    tasks = [
        ("first result, stdlib alone", (), PRINT),
        ("first result, numpy", ("numpy",), f"import numpy\n{PRINT}"),
        ("first result, numpy and sympy", ("numpy", "sympy"), FACTOR),
        ("first print, numpy and sympy preloaded", ("numpy", "sympy"), PRINT),
    ]
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, preload, code in tasks:
            times.setdefault(name, []).append(_first_result(preload, code))
        for name, seconds in _after_kill().items():
            times.setdefault(name, []).append(seconds)
    rows = [
        [name, report.spread([1e3 * value for value in values], 0), str(len(values))]
        for name, values in times.items()
    ]
    return report.table(("what", "ms: median (range)", "runs"), rows)


def _first_result(preload: Sequence[str], code: str) -> float:
    before = time.perf_counter()
    with Sandbox(workers=CLIENTS, min_level="rlimits", preload=preload) as box:
        result = box.run(code)
        seconds = time.perf_counter() - before
    if result.status != "ok":
        raise Failed(f"status {result.status}, expected ok: {result.stderr[-300:]!r}")
    return seconds


def _after_kill() -> dict[str, float]:
    """From the death of the idle slots to the next result."""
    with Sandbox(workers=1, min_level="rlimits") as box:
        for code in (PRINT, FACTOR):
            box.run(code)
        found = {}
        for name, code in (("print", PRINT), ("sympy", FACTOR)):
            for pid, role in processes.roles(processes.settle()).items():
                if role == "slot":
                    os.kill(pid, signal.SIGKILL)
            before = time.perf_counter()
            box.run(code)
            found[f"next {name} after kill -9 of every slot"] = time.perf_counter() - before
    return found


def memory(counts: Sequence[int]) -> str:
    """What the sandbox's processes hold when every worker has run every tier, then rests."""
    rows, level = [], ""
    for count in counts:
        with Sandbox(workers=count, min_level="rlimits") as box:
            level = box.level
            _fill(box, count)
            _, *ours = processes.roles(processes.settle()).items()  # all but this process
            held = [processes.memory(pid) for pid, _ in ours]
        # A sum of PSS counts a shared page once, a sum of RSS once for each process.
        rss, pss = (sum(column) / 2**20 for column in zip(*held, strict=True))
        roles = Counter(role for _, role in ours)
        numbers = ", ".join(f"{number} {role}" for role, number in roles.items())
        rows.append([str(count), f"{pss:.0f}", f"{rss:.0f}", numbers])
    head = ("workers", "PSS MiB", "RSS MiB", "processes")
    return f"Level {level}.\n\n{report.table(head, rows)}"


def _fill(box: Sandbox, count: int) -> None:
    """Keeps all workers busy at once, tier by tier."""
    for modules in TIERS:
        lines = [*(f"import {module}" for module in modules), "import time", "time.sleep(0.5)"]
        for future in [box.submit("\n".join(lines), timeout=60.0) for _ in range(count)]:
            if (result := future.result()).status != "ok":
                raise Failed(f"status {result.status}, expected ok: {result.stderr[-300:]!r}")
