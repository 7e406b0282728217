"""Which zygote a program is forked from: the smallest that has imported what it names.

A fork of a small process is cheaper, and most programs need no sympy. The tiers are the
beginnings of the list of preloaded modules: (), (numpy), (numpy, sympy) and so on. A
wrong guess costs time, never correctness: every module can be imported in every tier.
"""

import re
from collections.abc import Sequence

# At the start of a line or after ; or : and one line at most, so that it runs in linear time.
IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*(?:from[ \t]+([\w.]+)|import[ \t]+([\w., \t]+))", re.MULTILINE
)


def imported(source: str) -> set[str]:
    """Top-level names of modules that the source seems to import."""
    found = set()
    for single, several in IMPORT.findall(source):
        for name in [single] if single else several.split(","):
            found.add(name.strip().partition(" ")[0].partition(".")[0])
    return found


def tier(source: str, preload: Sequence[str]) -> int:
    """The number of preloaded modules that the program's zygote should have."""
    names = imported(source)
    tops = [name.partition(".")[0] for name in preload]
    return max((n for n, top in enumerate(tops, 1) if top in names), default=0)
