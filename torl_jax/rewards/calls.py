"""Tool calls as JSON lines: what a gold text and an output call.

One JSON value a line, no blank line, no fence, nothing over several lines: any line that
is no JSON voids the whole block (as released). What JSON leaves open is Python's `json`:
of equal keys the last counts, NaN and Infinity are numbers. Two limits are ours or the
interpreter's, so that a verdict hangs on the text alone: values nest at most `DEEPEST`
deep, and an integer has at most 4,300 digits.
"""

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from torl_jax.rewards import shapes

DEEPEST = 256  # lists and objects inside one another; the interpreter's own limit shifts
CACHED = 4096  # golds kept parsed

STEP = re.compile("^" + shapes.THINK, re.MULTILINE)


class Unreadable(ValueError):
    """A block of calls cannot be read; says which line and why, in one line."""


class MalformedGold(ValueError):
    """A gold text's own calls cannot be read; says why, in one line."""


@dataclass(frozen=True)
class Gold:
    """A gold text, read: which shape it asks for, and its calls as parsed.

    `whole`: each call is an object with `name` and `parameters`, whatever these are; other
    golds are met by the same list of calls or not at all. `plain`: a text and an object, too.
    `names` in order, of a whole gold.
    """

    kind: tuple[bool, bool]  # has a tool block, has a response
    calls: list[Any]
    whole: bool
    plain: bool
    names: list[Any]
    first: dict[Any, int]  # by name, where it can be hashed: the number of its first call

    @classmethod
    def of(cls, kind: tuple[bool, bool], calls: list[Any]) -> "Gold":
        whole = all(type(call) is dict and {"name", "parameters"} <= call.keys() for call in calls)
        plain = whole and all(
            type(call["name"]) is str and type(call["parameters"]) is dict for call in calls
        )
        names = [call["name"] for call in calls] if whole else []
        first = {}
        for number, name in enumerate(names):
            if not isinstance(name, (dict, list)) and name == name:  # NaN equals no name
                first.setdefault(name, number)
        return cls(kind, calls, whole, plain, names, first)

    def place(self, name: Any) -> int:
        """The number of the first call of this name; -1 where there is none."""
        if isinstance(name, (dict, list)):
            return next((i for i, own in enumerate(self.names) if own == name), -1)
        return self.first.get(name, -1)


def read(body: str) -> list[Any]:
    """The values of a block's lines. Raises Unreadable."""
    return [_parse(number, line) for number, line in enumerate(shapes.lines(body), 1)]


@functools.lru_cache(CACHED)
def read_gold(gold: str) -> Gold:
    """A gold text of one step. Raises MalformedGold. The result is shared: do not change it."""
    kind = (shapes.TOOLS in gold, shapes.RESPONSE in gold)
    return Gold.of(kind, _gold_calls(gold))


@functools.lru_cache(CACHED)
def read_gold_steps(gold: str) -> Gold:
    """The calls of all steps of a gold text in order. Raises MalformedGold, as `read_gold`."""
    steps = split_steps(gold)
    calls = []
    for number, step in enumerate(steps, 1):
        try:
            calls += _gold_calls(step)
        except MalformedGold as error:
            place = f"step {number} of {len(steps)}: " if len(steps) > 1 else ""
            raise MalformedGold(f"{place}{error}") from None
    return Gold.of((shapes.TOOLS in gold, shapes.RESPONSE in gold), calls)


def split_steps(gold: str) -> list[str]:
    """A gold text's steps; each begins with a thought at the start of a line."""
    starts = [found.start() for found in STEP.finditer(gold)][1:]
    return [gold[start:end] for start, end in zip([0, *starts], [*starts, len(gold)], strict=True)]


def _gold_calls(step: str) -> list[Any]:
    """The calls of one step's first block, which may lack its closing tag."""
    if shapes.TOOLS not in step:
        return []
    try:
        return read(shapes.first_block(step))
    except Unreadable as error:
        hint = ""
        if shapes.TOOLS in step.rpartition(shapes.THINK_END)[0]:
            hint = f" (the thought names {shapes.TOOLS}; see without_thought)"
        raise MalformedGold(f"gold calls: {error}{hint}") from None


def _parse(number: int, line: str) -> Any:
    try:
        value = json.loads(line)
    except RecursionError:
        raise Unreadable(f"line {number} nests more than {DEEPEST} deep") from None
    except ValueError as error:  # also: too many digits
        raise Unreadable(f"line {number} is no JSON: {error}") from None
    if line.count("[") + line.count("{") > DEEPEST and _too_deep(value):
        raise Unreadable(f"line {number} nests more than {DEEPEST} deep")
    return value


def _too_deep(value: Any) -> bool:
    """Level by level, so that depth costs no stack."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(inner, (dict, list)) for inner in level)
