"""API-Bank as ToolRL measures it: one call a dialogue, read softly (arXiv 2504.13958, table 2).

The files hold 399, 67 and 131 items for the levels 1, 2 and 3: a system message, a user message
and the call that is right. Both messages go to the model as they stand.

    parsed   the JSON lines of the last tool block, of the whole reply where there is no block;
             lines that are no JSON are left out
    right    some parsed call has exactly the gold name and the gold parameters; an object without
             a name or without parameters is taken for parameters, with the name assumed right;
             a line that is a number, a text, true, false or null voids the whole reply

Accuracy is told for each level, and over all items (the micro-average over 597).

Where the released scripts differ: they score a rerun's new replies only where the last one was
wrong; here an item has one reply.

This module is part of the words world: no jax.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.protocols.toolrl import STOP
from torl_jax.toolbench.blocks import last_block, values

NAME = "api_bank"
SIZES: Mapping[str, int] = {"level-1": 399, "level-2": 67, "level-3": 131}
LEVEL = re.compile(r"(?:level|lv)[-_ ]?([123])(?!\d)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Item:
    """A dialogue, and the call that is right after it."""

    id: str
    level: str
    system: str
    user: str
    gold: Mapping[str, Any]

    @property
    def problem(self) -> Problem:
        """As the sampler takes it."""
        answer = json.dumps(self.gold)
        return Problem(
            f"{NAME}:{self.id}", self.user, answer, source=self.level, system=self.system
        )


def parse(reply: str) -> list[Any]:
    """What `reply` calls for: any JSON values, in order."""
    block = last_block(reply)
    return values(reply.partition(STOP)[0] if block is None else block)


def soft_match(parsed: Sequence[Any], gold: Mapping[str, Any]) -> bool:
    """Whether some parsed call is the gold one ({"name", "parameters"})."""
    if any(not isinstance(value, dict | list) for value in parsed):
        return False
    return any(_matches(value, gold) for value in parsed)


def _matches(value: Any, gold: Mapping[str, Any]) -> bool:
    if "name" in value and "parameters" in value and isinstance(value, dict):
        return value["name"] == gold["name"] and value["parameters"] == gold["parameters"]
    return value == gold["parameters"]


def read(path: str, most: int = sys.maxsize) -> list[Item]:
    """The items of a folder's level files, or of one such file: of each level the first `most`.

    A file's name says its level (level-1.json, level-1-api_processed.json). UserError for files
    that are not there, that name one level twice, or that hold something else.
    """
    found: dict[str, Path] = {}
    for file in _files(Path(path)):
        level = f"level-{LEVEL.findall(file.stem)[-1]}"
        if level in found:
            raise UserError(
                f"{found[level]} and {file} are both {level} of API-Bank: leave one in {path}"
            )
        found[level] = file
    return [item for level in sorted(found) for item in _items(found[level], level)[:most]]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{NAME}={path} does not exist; give the folder of API-Bank's level files")
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    named = [file for file in files if LEVEL.search(file.stem)]
    if not named:
        raise UserError(
            f"{NAME}={path} names no level; give a folder with files like level-1.json, or one"
        )
    return named


def _items(file: Path, level: str) -> list[Item]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON ({error}); fetch it again") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{file} is no list of items; give API-Bank's processed files")
    return [_item(row, level, index, file) for index, row in enumerate(rows)]


def _item(row: Any, level: str, index: int, file: Path) -> Item:
    """One item; its answer is an object, or a list that holds one."""
    where = f"{file} item {index}"
    if not isinstance(row, dict) or not {"system", "user", "answer"} <= row.keys():
        raise UserError(f"{where} lacks system, user or answer; give API-Bank's processed files")
    answer = row["answer"]
    gold = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    if not (
        isinstance(gold, dict)
        and isinstance(gold.get("name"), str)
        and isinstance(gold.get("parameters"), dict)
    ):
        raise UserError(f"{where}: the answer is no single call with name and parameters")
    if not isinstance(row["system"], str) or not isinstance(row["user"], str):
        raise UserError(f"{where}: system and user are no texts")
    call = {"name": gold["name"], "parameters": gold["parameters"]}
    return Item(f"{level}/{index}", level, row["system"], row["user"], call)


def whole(items: Sequence[Item]) -> frozenset[str]:
    """The levels that are all there; "overall" too where all three are."""
    count = {level: sum(item.level == level for item in items) for level in SIZES}
    found = {level for level, size in SIZES.items() if count[level] == size}
    return frozenset(found | {"overall"} if found == SIZES.keys() else found)


def notes(items: Sequence[Item]) -> list[str]:
    """What a person should know of the items before believing their figures."""
    count = {level: sum(item.level == level for item in items) for level in SIZES}
    lines = [
        f"{NAME}: {level} has {count[level]} items here, the published one {size}"
        for level, size in SIZES.items()
        if count[level] != size
    ]
    if lines:
        total = sum(SIZES.values())
        lines.append(f"{NAME}: overall is over {len(items)} items, not over the paper's {total}")
    return lines
