"""The calls in a tool block: one JSON object a line, `{"name": ..., "parameters": {...}}`.

Lines end at "\n" only, as the reward reads them; blank ones are passed over. Of a key
that is given twice the last counts, other keys beside the two are not looked at. What
cannot be a call is told in words, for the policy to read.
"""

import dataclasses
import json
from typing import Any, NoReturn

FORM = 'write one {"name": ..., "parameters": {...}} a line'


@dataclasses.dataclass(frozen=True)
class Asked:
    """A line of a block: a call, or a `fault` (then not "") and the name as far as it is known."""

    name: str
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    fault: str = ""


def parse(text: str, most: int) -> list[Asked]:
    """The calls of a block, in order; lines beyond the first `most` are one fault together."""
    lines = [line for line in text.split("\n") if line.strip()]
    asked = [_line(line) for line in lines[:most]]
    if left := len(lines) - most:
        fault = f"{left} more lines were not carried out: a block may have {most}"
        return [*asked, Asked("", fault=fault)] if left > 0 else asked
    return asked


def _line(line: str) -> Asked:
    try:
        found = json.loads(line, parse_constant=_no_number)
        # A lone surrogate is no text, and 1e999 has become what JSON cannot say.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError | _NoNumber) else "unreadable"
        return Asked("", fault=f"not JSON ({reason}); {FORM}")
    if not isinstance(found, dict):
        return Asked("", fault=f"not an object; {FORM}")
    name, parameters = found.get("name"), found.get("parameters")
    if not isinstance(name, str):
        return Asked("", fault=f'no "name", or none that is a text; {FORM}')
    if not isinstance(parameters, dict):
        return Asked(
            name, fault='no "parameters", or none that are an object; {} where there are none'
        )
    return Asked(name, parameters)


class _NoNumber(ValueError):
    pass


def _no_number(name: str) -> NoReturn:
    raise _NoNumber(f"{name} is no JSON number")
