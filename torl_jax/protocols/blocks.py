"""Fenced Python in what a policy wrote: where blocks open, and what is in them.

compat (ToRL's released rule): a line that starts or ends with ```` ```python ```` opens
a block, and drops one that is open; a line that starts with any other fence closes
it. Indented fences do not close; other names and code on the fence's own line are
not recognised; a block that the output fence ends was never closed.

tolerant: what a reader would call a block of Python. The language may be py,
python, python3 in any case; fences may be indented (the code is dedented) and code
may share a line with either; the output fence closes as any other.
"""

import dataclasses
import re
import textwrap
from collections.abc import Callable

FENCE = "```"
OPEN = re.compile(r"`{3,}[ \t]*(?:python3?|py)(?![\w+#-])[ \t]*(?:\{[^}\n]*\})?", re.IGNORECASE)
CLOSE = re.compile(r"^[ \t]*`{3,}|`{3,}[ \t]*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block that was opened at character `start` of the text; `closed`: `code` is whole."""

    code: str
    start: int
    closed: bool


Finder = Callable[[str], list[Block]]


def compat(text: str) -> list[Block]:
    """The blocks of `text`, in order, by the released rule."""
    found: list[Block] = []
    lines: list[str] = []
    start, inside, at = 0, False, 0
    for line in text.split("\n"):
        if line.startswith("```python") or line.endswith("```python"):
            if inside:
                found.append(Block("".join(lines), start, closed=False))
            lines, start, inside = [], at, True
        elif inside and line.startswith(FENCE):
            closed = not line.startswith("```output")
            found.append(Block("".join(lines), start, closed))
            inside = False
        elif inside:
            lines.append(line + "\n")
        at += len(line) + 1
    return [*found, Block("".join(lines), start, closed=False)] if inside else found


def tolerant(text: str) -> list[Block]:
    """The blocks of `text`, in order, as a reader would see them."""
    found: list[Block] = []
    at = 0
    while opening := OPEN.search(text, at):
        again, closing = OPEN.search(text, opening.end()), CLOSE.search(text, opening.end())
        closed = closing is not None and (again is None or closing.end() <= again.start())
        end = closing.start() if closing and closed else again.start() if again else len(text)
        found.append(Block(_code(text[opening.end() : end]), opening.start(), closed))
        at = closing.end() if closing and closed else end
    return found


def _code(between: str) -> str:
    """What stands between two fences, without the indentation that the fences share."""
    first, _, rest = between.partition("\n")
    code = textwrap.dedent(rest).rstrip(" \t")
    return f"{first.strip()}\n{code}" if first.strip() else code


def last_code(blocks: list[Block]) -> str:
    """The code of the last block; "" where there is none or it was never closed."""
    return blocks[-1].code if blocks and blocks[-1].closed else ""


BLOCKS: dict[str, Finder] = {"compat": compat, "tolerant": tolerant}
