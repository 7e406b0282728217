"""What a toolbox is: functions that a policy may call, each call with a time limit.

    with opened(["weather.py", "mcp:my-server --fast"]) as toolbox:
        outcome = toolbox.submit("get_weather", {"city": "Oslo"}, timeout=5.0).result()

A tool that raises, ends its process or is late is an outcome, to be read by the policy.
What is no fault of the call (a worker that does not start, a server that cannot be
reached) is a ToolFailure in the future: never an outcome.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, Protocol

from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.tools import schemas

LARGEST = 1 << 16  # characters of a result's JSON that leave the place where it was made


class ToolFailure(Exception):
    """Our own failure, not the call's."""


@dataclasses.dataclass(frozen=True)
class Function:
    """A tool as it is declared: `schema` is a JSON schema of the object of its parameters."""

    name: str
    description: str
    schema: Mapping[str, Any]

    @classmethod
    def from_openai(cls, tool: Mapping[str, Any]) -> "Function":
        """A tool of an OpenAI-style request: {"type": "function", "function": {...}}, or what is
        in its `function`. Raises ValueError.

        Its `parameters` are a JSON schema, with references into itself, or the properties of one.
        """
        known = dialogue.Tool.from_openai(tool)
        schema = tool.get("function", tool).get("parameters") or {}
        if not (isinstance(schema.get("type"), str) or "properties" in schema):
            schema = {"properties": schema}
        try:
            schema = schemas.merged(schemas.resolved(schema, schema))
            made = cls(known.name, known.description, schema)
            made.shown()
        except (TypeError, AttributeError, ValueError) as error:
            reason = f"the parameters of {known.name} are no JSON schema ({error})"
            raise ValueError(reason) from error
        return made

    def shown(self) -> dialogue.Tool:
        """As a prompt shows it; legal values, which have no place there, join the description."""
        properties = {}
        for key, value in (self.schema.get("properties") or {}).items():
            schema = value if isinstance(value, Mapping) else {}
            found = {k: v for k, v in schema.items() if v is not None or k == "default"}
            properties[key] = found
            if values := found.get("enum"):
                legal = ", ".join(map(json.dumps, values))
                found["description"] = _sentences(found.get("description"), f"One of {legal}.")
            if "type" not in found and (kinds := schemas.kinds(found)):
                found["type"] = kinds[0] if len(kinds) == 1 else kinds
        schema = {"type": "object", "properties": properties}
        return dialogue.Tool.from_openai(
            {"name": self.name, "description": self.description, "parameters": schema}
        )


def _sentences(first: Any, second: str) -> str:
    """Both, the first with its full stop."""
    said = str(first or "").strip()
    if said and said[-1] not in ".!?:;":
        said += "."
    return f"{said} {second}".strip()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call came to. `results`: what JSON holds, words where the status is not ok."""

    results: Any
    status: Literal["ok", "error", "timeout"] = "ok"
    seconds: float = 0.0


class Toolbox(Protocol):
    """Functions by name, in the order in which a prompt lists them."""

    @property
    def functions(self) -> Mapping[str, Function]: ...

    def submit(self, name: str, parameters: Mapping[str, Any], timeout: float) -> "Future[Outcome]":
        """Calls a function with parameters that its schema allows; from any thread.

        `timeout` is in seconds and counts from when the call has its worker. The future
        may raise ToolFailure.
        """
        ...

    def close(self) -> None:
        """Ends workers and connections; calls not answered yet fail."""
        ...


class Together:
    """Several toolboxes as one. Raises UserError where two have a function of one name."""

    def __init__(self, toolboxes: Sequence[Toolbox]) -> None:
        self._toolboxes = toolboxes
        self._homes: dict[str, Toolbox] = {}
        for toolbox in toolboxes:
            for name in toolbox.functions:
                if name in self._homes:
                    raise UserError(f"two tools are named {name!r}: rename one of them")
                self._homes[name] = toolbox
        self.functions: Mapping[str, Function] = {
            name: home.functions[name] for name, home in self._homes.items()
        }

    def submit(self, name: str, parameters: Mapping[str, Any], timeout: float) -> "Future[Outcome]":
        """The call, in the toolbox that has the function."""
        return self._homes[name].submit(name, parameters, timeout)

    def close(self) -> None:
        """Closes all."""
        with contextlib.ExitStack() as stack:
            for toolbox in self._toolboxes:
                stack.callback(toolbox.close)

    def __enter__(self) -> "Together":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bounded(results: Any) -> Any:
    """The results, or where their JSON is longer than LARGEST the beginning of it as text.

    Raises ValueError, TypeError or RecursionError for what JSON cannot hold.
    """
    text = json.dumps(results, allow_nan=False)
    if len(text) <= LARGEST:
        return results
    return shortened(results if isinstance(results, str) else text)


def shortened(text: str) -> str:
    """The first LARGEST characters of a text, and how many there are."""
    return text if len(text) <= LARGEST else f"{text[:LARGEST]}... ({len(text)} characters)"
