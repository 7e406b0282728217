"""How long importing takes, and how large the environment is.

    python -m benchmarks.startup --out docs/benchmarks.md

Each import is a fresh interpreter's, with bytecode; its seconds are told from inside, so that
starting the interpreter is not among them. The environment is this interpreter's own: of its
packages those that a default install brings, by the files that their own records list.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.util import cache_from_source
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.report import (
    ReportError,
    command,
    conditions,
    count,
    holding,
    spread,
    table,
    write_section,
)

MODULE = "benchmarks.startup"
IMPORTS = ("jax, flax, optax", "torl_jax", "torl_jax.trainer", "torl_jax.train")
OURS = "torl_jax"
LONGEST, LARGEST = 2.5, 700  # seconds, MB
SHOWN = 10
MB = 10**6
PROGRAM = """
import json, sys, time
start = time.perf_counter()
import {names}
print(json.dumps([time.perf_counter() - start, len(sys.modules)]))
"""


class Imported(NamedTuple):
    """What one fresh interpreter tells."""

    seconds: float
    modules: int


class Package(NamedTuple):
    """A distribution's files in bytes, not in blocks of a file system."""

    name: str
    source: int
    bytecode: int


def imported(names: str) -> Imported:
    """Imports in a new interpreter, which may write bytecode. Raises ReportError."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    program = [sys.executable, "-c", PROGRAM.format(names=names)]
    done = subprocess.run(program, capture_output=True, text=True, env=kept)
    if done.returncode != 0:
        raise ReportError(f"importing {names} failed: {done.stderr.strip()[-300:]}")
    return Imported(*json.loads(done.stdout.splitlines()[-1]))


def imports(rounds: int) -> str:
    """The table of imports; rounds are interleaved, and before them one writes the bytecode."""
    found: dict[str, list[Imported]] = {names: [] for names in IMPORTS}
    for n in range(rounds + 1):
        for names, runs in found.items():
            run = imported(names)
            if n > 0:
                runs.append(run)
    rows = []
    for names, runs in found.items():
        seconds = sorted(run.seconds for run in runs)
        verdict = ""
        if names.startswith(OURS):
            met = seconds[len(seconds) // 2] < LONGEST
            verdict = f"below {LONGEST} s: {'met' if met else 'MISSED'}"
        rows.append([f"`{names}`", spread(seconds, 2), str(runs[0].modules), verdict])
    return table(["import", "seconds (range)", "modules loaded", "target"], rows)


def needed(name: str) -> set[str]:
    """Names of all distributions that a plain `pip install` of one brings. Raises ReportError."""
    found: set[str] = set()
    todo = [Requirement(name)]
    while todo:
        wanted = todo.pop()
        extras = wanted.extras or {""}
        here = {f"{canonicalize_name(wanted.name)}[{extra}]" for extra in extras}
        if here <= found:
            continue
        found |= here | {canonicalize_name(wanted.name)}
        try:
            texts = importlib.metadata.requires(wanted.name) or []
        except importlib.metadata.PackageNotFoundError:
            raise ReportError(f"{wanted.name} is not installed, and {name} needs it") from None
        todo += [
            each
            for each in map(Requirement, texts)
            if each.marker is None or any(each.marker.evaluate({"extra": e}) for e in extras)
        ]
    return found


def packages() -> list[Package]:
    """What is installed beside this interpreter, the largest first."""
    found = []
    for distribution in importlib.metadata.distributions(path=[sysconfig.get_path("purelib")]):
        listed = {Path(str(file.locate())) for file in distribution.files or ()}
        files = {path for path in listed if path.suffix != ".pyc"}
        # By the name that Python gives it: a record need not list it.
        compiled = (Path(cache_from_source(path)) for path in files if path.suffix == ".py")
        name = canonicalize_name(distribution.name)
        found.append(Package(name, sum(map(_size, files)), sum(map(_size, compiled))))
    return sorted(found, key=lambda package: -package.source - package.bytecode)


def _size(path: Path) -> int:
    """Bytes; nought where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def environment() -> str:
    """The table of packages that a default install has, and what else there is."""
    default = needed(OURS)
    found = packages()
    ours = [package for package in found if package.name in default]
    others = [package for package in found if package.name not in default]
    source, bytecode = sum(p.source for p in ours), sum(p.bytecode for p in ours)
    rows = [
        [package.name, _mb(package.source), _mb(package.source + package.bytecode)]
        for package in ours[:SHOWN]
    ]
    rest = ours[SHOWN:]
    rows.append(
        [
            f"{len(rest)} others",
            _mb(sum(p.source for p in rest)),
            _mb(sum(p.source + p.bytecode for p in rest)),
        ]
    )
    met = source + bytecode < LARGEST * MB
    rows.append(["**all**", f"**{_mb(source)}**", f"**{_mb(source + bytecode)}**"])
    more = sum(package.source + package.bytecode for package in others)
    return "\n\n".join(
        [
            f"A default install: {len(ours)} packages. Below {LARGEST} MB: "
            f"{'met' if met else 'MISSED'}. Extras and tools that are installed too, and are not "
            f"counted: {len(others)} packages, {_mb(more)} MB.",
            table(["package", "MB", "MB with bytecode"], rows),
        ]
    )


def _mb(size: int) -> str:
    return f"{size / MB:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=count, default=5, help="of each import (%(default)s)")
    parser.add_argument(
        "--out", type=holding("startup"), metavar="FILE", help="a file with this section"
    )
    args = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    try:
        parts = [imports(args.rounds), environment()]
        facts = conditions(load, "jax", "flax", "optax")
        body = "\n\n".join([f"`{command(MODULE)}`, {args.rounds} rounds. {facts}", *parts])
        print(body)
        if args.out is not None:
            write_section(args.out, "startup", body)
    except (ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
