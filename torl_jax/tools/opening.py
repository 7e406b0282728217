"""From what a person names to a toolbox.

weather.py                               the functions of a Python file
petstore.yaml, https://host/api.json     an OpenAPI 3 document
petstore.yaml#http://localhost:8000      the same, with another server
mcp:COMMAND ARGUMENTS                    an MCP server on stdin and stdout
mcp:https://host/mcp                     an MCP server over HTTP
"""

import contextlib
import os
import string
from collections.abc import Mapping, Sequence

from torl_jax.errors import UserError
from torl_jax.tools.mcp import MCPTools
from torl_jax.tools.python import PythonTools
from torl_jax.tools.toolbox import Together, Toolbox
from torl_jax.tools.web import OpenAPITools

MCP = "mcp:"


def opened(
    sources: Sequence[str],
    workers: int = 2,
    environment: Sequence[str] = (),
    headers: Sequence[str] = (),
    memory_mb: int = 2048,
) -> Together:
    """The tools of all sources, each with `workers` places for calls.

    `environment` names variables that Python files and MCP commands get; `headers` are
    lines such as "Authorization: Bearer $TOKEN", where $NAME is one of these variables; each
    goes to every OpenAPI and MCP server among the sources. Raises UserError.
    """
    if not sources:
        raise UserError("no tools: name a Python file, an OpenAPI document or an MCP server")
    variables = chosen(environment)
    sent = dict(header(line, variables) for line in headers)
    with contextlib.ExitStack() as stack:
        toolboxes: list[Toolbox] = []
        for source in sources:
            toolboxes.append(_open(source, workers, variables, sent, memory_mb))
            stack.callback(toolboxes[-1].close)
        together = Together(toolboxes)
        stack.pop_all()
        return together


def _open(
    source: str,
    workers: int,
    variables: Mapping[str, str],
    headers: Mapping[str, str],
    memory_mb: int,
) -> Toolbox:
    if source.startswith(MCP):
        if not source.removeprefix(MCP).strip():
            raise UserError(
                f"tools: {source!r} names no server: write mcp:COMMAND ARGUMENTS or "
                "mcp:https://HOST/PATH"
            )
        return MCPTools(source.removeprefix(MCP), workers, variables, headers)
    if source.endswith(".py"):
        return PythonTools(source, workers, variables, memory_mb)
    document, _, base = source.partition("#")
    if not document.startswith(("http://", "https://")) and not document.endswith(
        (".json", ".yaml", ".yml")
    ):
        raise UserError(
            f"tools: {source!r} is none of FILE.py, FILE.json, FILE.yaml, http(s)://URL, "
            "mcp:COMMAND, mcp:URL"
        )
    return OpenAPITools(document, base, workers, headers)


def chosen(names: Sequence[str]) -> dict[str, str]:
    """These variables of our environment. Raises UserError for one that is not set."""
    for name in names:
        if name not in os.environ:
            raise UserError(
                f"tools: the environment variable {name} is not set: set it, or do not ask for it"
            )
    return {name: os.environ[name] for name in names}


def header(line: str, variables: Mapping[str, str]) -> tuple[str, str]:
    """Name and value of a header line. Raises UserError."""
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise UserError(f"tools: the header {line!r} is not of the form 'Name: value'")
    try:
        return name.strip(), string.Template(value.strip()).substitute(variables)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"tools: the header {line!r} has a $NAME that is not among the variables asked for "
            f"({', '.join(variables) or 'none'})"
        ) from error
