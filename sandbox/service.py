"""The HTTP interface's handlers: programs, notebooks, sessions.

    POST   /run_code, /run_jupyter           SandboxFusion's
    POST   /session, /session/ID/run         an interpreter that lasts, for sandbox.client
    DELETE /session/ID
    GET    /v1/ping, /v1/status, /metrics

A program holds its place until it has ended, also where its caller has hung up.
"""

import asyncio
import dataclasses
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox import cells, fusion, orders
from sandbox.box import Sandbox
from sandbox.front import Front, Gone, read_body, refusal, reply, unless_gone
from sandbox.gate import Ending, Full, Gate, Late
from sandbox.metrics import CONTENT_TYPE, Metrics
from sandbox.orders import BadRequest, Body, line
from sandbox.results import Busy, Result, SandboxError
from sandbox.session import Session

# Callers give a program run + compile + 10 s. What has not begun after this many seconds
# more than the compile time-out would be answered to nobody.
PATIENCE = 5.0
BODY_SECONDS = 30.0
FETCH_SECONDS = 10.0  # for what surrounds a notebook's cells
FETCH_BYTES = 8 << 20
STATUSES: dict[type[Exception], int] = {Full: 503, Busy: 503, Ending: 503, Late: 504}
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the server allows. `idle` and `max_timeout` in seconds."""

    workers: int = 2
    memory_mb: int = 512
    max_timeout: float = 120.0
    max_body: int = 16 << 20
    queue: int = 256
    sessions: int = 64
    idle: float = 600.0


@dataclasses.dataclass
class Held:
    """A session, its default deadline, and the answer to its last cell."""

    session: Session
    timeout: float
    turn: asyncio.Lock
    expiry: asyncio.TimerHandle | None = None
    last_id: str | int | None = None
    last: "asyncio.Task[Body] | None" = None

    def answer(self, request_id: str | int | None) -> "asyncio.Task[Body] | None":
        """The last cell where it is asked for again: an answer was lost, it must run once."""
        return self.last if request_id is not None and request_id == self.last_id else None


class Service:
    """Runs what requests ask for in `box`. To be made inside the event loop that serves it."""

    def __init__(self, box: Sandbox, settings: Settings, token: str | None) -> None:
        self._box = box
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        # Twice the workers: a worker never waits for this loop to hand it the next job.
        self._gate = Gate(2 * settings.workers, settings.queue)
        self._held: dict[str, Held] = {}
        self._tasks: set[asyncio.Future[Any]] = set()  # the loop itself keeps none alive
        self._level = box.level
        self._gauges = {
            "running": lambda: box.load[0],
            "waiting": lambda: self._gate.waiting + box.load[1],
            "sessions": lambda: len(self._held),
        }
        self._metrics = Metrics(self._level, self._gauges)
        self.front = Front(self._routes(), token, self._metrics.refused)

    async def drain(self, seconds: float) -> None:
        """Takes no more, answers what runs, ends the sessions."""
        self._gate.close()
        await self.front.drain(seconds)
        for key in list(self._held):
            self._end(key)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    def _routes(self) -> Starlette:
        routes = [
            Route("/v1/ping", self._ping, methods=["GET"]),
            Route("/v1/status", self._status, methods=["GET"]),
            Route("/metrics", self._tell_metrics, methods=["GET"]),
            Route("/run_code", self._posted(self._run_code), methods=["POST"]),
            Route("/run_jupyter", self._posted(self._run_jupyter), methods=["POST"]),
            Route("/session", self._posted(self._open), methods=["POST"]),
            Route("/session/{key}/run", self._posted(self._run_cell), methods=["POST"]),
            Route("/session/{key}", self._delete, methods=["DELETE"]),
        ]
        refused = (*STATUSES, BadRequest, HTTPException, Gone)
        handlers: dict[Any, Any] = dict.fromkeys(refused, _refuse)
        return Starlette(routes=routes, exception_handlers=handlers)

    def _posted(
        self, handler: Callable[[Request, Body], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def read_and_handle(request: Request) -> Response:
            body = await read_body(request, self._settings.max_body, BODY_SECONDS)
            return await handler(request, orders.decode(body))

        return read_and_handle

    async def _ping(self, request: Request) -> Response:
        return Response('"pong"', media_type="application/json")

    async def _tell_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def _status(self, request: Request) -> Response:
        report = await asyncio.to_thread(lambda: self._box.report)  # it may wait for a new daemon
        return reply(
            {
                **{name: read() for name, read in self._gauges.items()},
                "workers": self._settings.workers,
                "limits": dataclasses.asdict(self._settings),
                "report": report,
            }
        )

    async def _run_code(self, request: Request, body: Body) -> Response:
        program = orders.program(body, self._settings.max_timeout)
        answer = await unless_gone(request, self._program(program))
        return _echoing(answer, program.request_id)

    async def _program(self, program: orders.Program) -> Body:
        submit = partial(
            self._box.submit,
            program.code,
            stdin=program.stdin,
            timeout=program.timeout,
            seed=program.seed,
            files=program.files,
            fetch=tuple(program.fetch.values()),
        )
        await self._gate.enter(program.patience + PATIENCE)
        try:
            future = submit()
        except SandboxError as error:
            self._gate.leave()
            return self._failure(error)
        # The place is the program's, not its caller's, who may hang up long before.
        future.add_done_callback(partial(self._loop.call_soon_threadsafe, self._ended))
        try:
            result = await asyncio.wrap_future(future)
        except SandboxError as error:
            return self._failure(error)
        return fusion.reply(result, program.fetch, self._settings.memory_mb)

    def _ended(self, future: "Future[Result]") -> None:
        self._gate.leave()
        if not future.cancelled() and future.exception() is None:
            self._metrics.ran(future.result())

    def _failure(self, error: SandboxError) -> Body:
        """Our own failure, told as Fusion tells it. What is only a full queue goes on as such."""
        if isinstance(error, Busy):
            raise error
        self._metrics.failed()
        return fusion.failure(line(error))

    async def _run_jupyter(self, request: Request, body: Body) -> Response:
        notebook = orders.notebook(body, self._settings.max_timeout)
        answer = await unless_gone(request, self._notebook(notebook))
        return _echoing(answer, notebook.request_id)

    async def _notebook(self, asked: orders.Notebook) -> Body:
        await self._gate.enter(asked.total_timeout + PATIENCE)
        try:
            session = self._box.session(timeout=max(asked.total_timeout, FETCH_SECONDS), echo=True)
            try:
                return await self._run_cells(session, asked)
            finally:
                await asyncio.to_thread(session.close)
        except SandboxError as error:
            return self._failure(error)
        finally:
            self._gate.leave()

    async def _run_cells(self, session: Session, asked: orders.Notebook) -> Body:
        mark = secrets.token_hex(16)
        begun = await _cell(session, cells.start(mark, asked.files), FETCH_SECONDS)
        if begun.status != "ok":
            last = begun.stderr.rstrip().rpartition("\n")[2]
            raise BadRequest(f"files could not be put in place: {begun.status} {last}")
        results: list[Result] = []
        replies: list[Body] = []
        left = asked.total_timeout
        for code in asked.cells:
            if left <= 0:
                break
            result = await _cell(session, code, min(left, asked.cell_timeout or left))
            left -= result.seconds
            self._metrics.ran(result)
            stdout, values = cells.shown(result.stdout, mark)
            results.append(result)
            replies.append(fusion.cell_reply(result, values, stdout))
        answer = fusion.notebook_reply(replies, results, len(results) < len(asked.cells))
        answer["files"] = {
            name: fusion.base64_text(data)
            for name, place in asked.fetch.items()
            if (data := await _fetch(session, place)) is not None
        }
        return answer

    async def _open(self, request: Request, body: Body) -> Response:
        timeout, seed, echo = orders.session(body, self._settings.max_timeout)
        if len(self._held) >= self._settings.sessions:
            raise Full(f"{len(self._held)} sessions are open already")
        try:
            session = self._box.session(timeout=self._settings.max_timeout, seed=seed, echo=echo)
        except SandboxError as error:
            return reply(self._failure(error))
        key = secrets.token_urlsafe(16)
        self._held[key] = Held(session, timeout, asyncio.Lock())
        self._touch(key)
        return reply({"session": key, "idle": self._settings.idle, "level": self._level})

    async def _run_cell(self, request: Request, body: Body) -> Response:
        key = request.path_params["key"]
        held = self._found(key)
        code, timeout, request_id = orders.cell(body, self._settings.max_timeout)
        task = held.answer(request_id)
        if task is None:
            task = self._keep(self._hold(key, held, code, timeout or held.timeout))
            held.last_id, held.last = request_id, task
        return _echoing(await unless_gone(request, _wait(task)), request_id)

    async def _hold(self, key: str, held: Held, code: str, timeout: float) -> Body:
        """One cell, when its turn comes. It goes on if its caller hangs up: the state needs it."""
        async with held.turn:
            if held.expiry is not None:
                held.expiry.cancel()
            try:
                result = await _cell(held.session, code, timeout)
            except SandboxError as error:
                self._end(key)
                return self._failure(error)
            finally:
                self._touch(key)
        self._metrics.ran(result)
        return fusion.reply(result, {}, self._settings.memory_mb)

    async def _delete(self, request: Request) -> Response:
        key = request.path_params["key"]
        self._found(key)
        self._end(key)
        return reply({})

    def _found(self, key: str) -> Held:
        if key not in self._held:
            raise BadRequest("no such session: closed, idle for too long, or another server's", 404)
        return self._held[key]

    def _touch(self, key: str) -> None:
        """From now on the session may be idle for a while."""
        if (held := self._held.get(key)) is not None:
            if held.expiry is not None:
                held.expiry.cancel()
            held.expiry = self._loop.call_later(self._settings.idle, self._end, key)

    def _end(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            if held.expiry is not None:
                held.expiry.cancel()
            self._keep(asyncio.to_thread(held.session.close))

    def _keep(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _cell(session: Session, code: str, timeout: float) -> Result:
    return await asyncio.wrap_future(session.submit(code, timeout))


async def _fetch(session: Session, place: str) -> bytes | None:
    """A file of the session's, or None. Raises BadRequest where it is too long."""
    data = bytearray()
    while True:
        result = await _cell(session, cells.fetch(place, len(data)), FETCH_SECONDS)
        if result.truncated_bytes:
            raise SandboxError("output_kb is too small to fetch files, expected at least 64")
        chunk = cells.fetched(result.stdout)
        if chunk is None:
            return None
        data += chunk
        if len(chunk) < cells.CHUNK:
            return bytes(data)
        if len(data) > FETCH_BYTES:
            raise BadRequest(f"file {line(repr(place))} has more than {FETCH_BYTES} bytes")


async def _wait(task: "asyncio.Task[T]") -> T:
    return await asyncio.shield(task)


async def _refuse(request: Request, error: Exception) -> Response:
    """Any refusal as one line of JSON."""
    if isinstance(error, Gone):
        return Response(status_code=499)  # nobody reads it
    status = getattr(error, "status", None) or STATUSES.get(type(error), 500)
    if isinstance(error, HTTPException):
        return refusal(f"{request.method} {request.url.path}: {error.detail}", error.status_code)
    return refusal(str(error), status)


def _echoing(answer: Body, request_id: str | int | None) -> Response:
    return reply(answer if request_id is None else {**answer, "request_id": request_id})
