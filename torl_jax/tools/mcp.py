"""The tools of an MCP server as a toolbox: a command on stdin and stdout, or a URL.

`workers` sessions, each with a server of its own where that is a command; a session has
one call at a time. One whose call was late is ended, with its server, and begun anew. A
server that cannot be started or reached, dies or does not speak MCP is our own failure.

Needs the extra `mcp` (the Model Context Protocol's official SDK).
"""

import asyncio
import contextlib
import dataclasses
import importlib.util
import io
import json
import logging
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TextIO

import httpx2

from sandbox.command import last_words
from torl_jax.errors import UserError
from torl_jax.tools import schemas
from torl_jax.tools.loop import Loop
from torl_jax.tools.toolbox import Function, Outcome, ToolFailure, bounded, shortened

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

START_SECONDS = 60.0
PAGES = 100  # of a list of tools
SHUT = "the tools were closed"
END_SECONDS = 5.0  # for a server to hear that its session is over
# JSON-RPC codes by which the SDK says: connection closed, request timed out, an answer that
# cannot be read, is no MCP (a redirect, a page) or knows no such session (404), no such method.
BROKEN = (-32000, -32001, -32700, -32600, -32601)
OURS = (401, 403, 407, 429)  # with all from 500 on: HTTP's answers that are no tool's


@dataclasses.dataclass
class Job:
    """A call; without a name, the question which tools there are."""

    name: str
    parameters: dict[str, Any]
    timeout: float
    answer: "Future[Any]"


class MCPTools:
    """The tools of `server`, a URL (streamable HTTP) or a command.

    `environment` joins the few variables that the SDK gives any command (PATH, HOME, ...);
    `headers` are sent to a URL. Raises UserError where the SDK is not installed or the
    server cannot be used.
    """

    def __init__(
        self,
        server: str,
        workers: int = 2,
        environment: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if importlib.util.find_spec("mcp") is None:
            raise UserError("MCP servers need the extra `mcp`: pip install 'torl_jax[mcp]'")
        if workers < 1 or not server.strip():
            raise UserError(
                f"tools: MCP server {server!r}, workers {workers}: give a command or a URL, and "
                "at least 1"
            )
        self._server, self._environment = server.strip(), dict(environment or {})
        self._headers = dict(headers or {})
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._loop = Loop("mcp-tools")
        for _ in range(workers):
            self._loop.submit(self._work())
        try:
            found = self._put(Job("", {}, START_SECONDS, Future())).result()
        except ToolFailure as error:
            self.close()
            raise UserError(f"the tools of {server} cannot be used: {error}") from error
        self.functions: Mapping[str, Function] = {each.name: each for each in found}

    def submit(self, name: str, parameters: Mapping[str, Any], timeout: float) -> "Future[Outcome]":
        """Calls the tool; see Toolbox.submit."""
        return self._put(Job(name, dict(parameters), timeout, Future()))

    def close(self) -> None:
        """Ends the sessions, and the servers that were started for them."""
        self._loop.close()
        while not self._jobs.empty():
            self._jobs.get_nowait().answer.set_exception(ToolFailure(SHUT))

    def __enter__(self) -> "MCPTools":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, job: Job) -> "Future[Any]":
        job.answer.set_running_or_notify_cancel()
        try:
            self._loop.submit(self._jobs.put(job))
        except RuntimeError:
            job.answer.set_exception(ToolFailure(SHUT))
        return job.answer

    async def _work(self) -> None:
        """The life of one session after another; the first begins with the first call."""
        while True:
            job = await self._jobs.get()
            try:
                async with self._session() as client:
                    while await self._carry_out(client, job):
                        job = await self._jobs.get()
            except ToolFailure as error:
                if job.answer.done():
                    logging.warning("an MCP session ended badly: %s", error)
                else:
                    job.answer.set_exception(error)
            finally:
                if not job.answer.done():  # we are cancelled
                    job.answer.set_exception(ToolFailure(SHUT))

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator["Client"]:
        """A session that is ready. What ends it, and is no fault of a call, is a ToolFailure."""
        from mcp import Client

        with tempfile.TemporaryFile() as raw, io.TextIOWrapper(raw) as errors:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    client = Client(await self._transport(stack, errors), cache=None)
                    async with asyncio.timeout(START_SECONDS):
                        await stack.enter_async_context(client)
                    yield client
            except Exception as error:  # the SDK lets any kind through, in groups
                said = "" if self._remote else f"; its last words: {last_words(raw)}"
                raise ToolFailure(f"{self._server}: {reason(error)}{said}") from error

    @property
    def _remote(self) -> bool:
        return self._server.startswith(("http://", "https://"))

    async def _transport(
        self, stack: contextlib.AsyncExitStack, errors: TextIO
    ) -> AbstractAsyncContextManager[Any]:
        """What carries messages to and from the server; `errors` is a command's stderr."""
        if self._remote:
            from mcp.client.streamable_http import streamable_http_client

            patience = httpx2.Timeout(START_SECONDS, read=None)  # calls have limits of their own
            hooks = {"request": [hurry], "response": [refuse]}
            client = httpx2.AsyncClient(headers=self._headers, timeout=patience, event_hooks=hooks)
            await stack.enter_async_context(client)
            return streamable_http_client(self._server, http_client=client)
        from mcp.client.stdio import StdioServerParameters, stdio_client

        command, *arguments = shlex.split(self._server)
        parameters = StdioServerParameters(
            command=command, args=arguments, env=self._environment or None
        )
        return stdio_client(parameters, errlog=errors)

    async def _carry_out(self, client: "Client", job: Job) -> bool:
        """Answers the job; False where the session must end. What it raises is our failure."""
        from mcp import MCPError

        begin = time.monotonic()
        try:
            async with asyncio.timeout(job.timeout):
                if not job.name:
                    job.answer.set_result(await listed(client))
                    return True
                outcome = answered(await client.call_tool(job.name, job.parameters))
        except TimeoutError:
            if not job.name:
                raise
            words = f"stopped: no answer within {job.timeout:g} s"
            job.answer.set_result(Outcome(words, "timeout", time.monotonic() - begin))
            return False
        except MCPError as error:
            if error.code in BROKEN or not job.name:
                raise
            outcome = Outcome(shortened(error.message), "error")
        seconds = time.monotonic() - begin
        job.answer.set_result(Outcome(outcome.results, outcome.status, seconds))
        return True


async def hurry(request: httpx2.Request) -> None:
    """Bounds the goodbye to a server: one that hangs must not hold up its session's end."""
    if request.method == "DELETE":
        request.extensions["timeout"] = httpx2.Timeout(END_SECONDS).as_dict()


async def refuse(response: httpx2.Response) -> None:
    """Raises ToolFailure for a status that the SDK would tell as if a tool had failed."""
    if response.status_code >= 500 or response.status_code in OURS:
        raise ToolFailure(f"HTTP {response.status_code} {response.reason_phrase}".rstrip())


async def listed(client: "Client") -> list[Function]:
    """All tools of a server. Raises ValueError where it cannot list them to an end."""
    found: list[Function] = []
    cursor = None
    for _ in range(PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            schema = schemas.merged(schemas.resolved(tool.input_schema, tool.input_schema))
            found.append(Function(tool.name, " ".join((tool.description or "").split()), schema))
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise ValueError(f"its list of tools has more than {PAGES} pages")


def answered(made: "CallToolResult") -> Outcome:
    """What a tool's result says: its structured content, or its texts."""
    texts = [
        part.text if part.type == "text" else f"[{part.type}, which is no text]"
        for part in made.content
    ]
    if made.is_error:
        return Outcome(shortened("\n".join(texts)), "error")
    results = made.structured_content
    if results is None:
        results = _value(texts[0]) if len(texts) == 1 else texts or None
    try:
        return Outcome(bounded(results))
    except (ValueError, TypeError, RecursionError) as error:
        return Outcome(f"the server's answer is no JSON: {error}", "error")


def reason(error: BaseException) -> str:
    """The first of what a group of exceptions holds, in a line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ToolFailure):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def _value(text: str) -> Any:
    """The object or list that a text spells, or the text; NaN is no JSON."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict | list) else text
