"""What evaluation reads of a reply: its last tool block, one JSON value a line.

The reward reads the first block, the released evaluation scripts the last one. Both end a block
that is never closed at the end of the text.

This package is part of the words world: no jax.
"""

import json
from typing import Any

from torl_jax.protocols.toolrl import OPEN, STOP


def last_block(text: str) -> str | None:
    """What stands between the last opening tag and the next closing one; None without a block."""
    _, opened, rest = text.rpartition(OPEN)
    return rest.partition(STOP)[0] if opened else None


def values(lines: str) -> list[Any]:
    """The JSON values of `lines`, one a line; a line that is none is left out."""
    found = []
    for line in lines.split("\n"):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):  # RecursionError: brackets nested thousands deep
            continue
    return found
