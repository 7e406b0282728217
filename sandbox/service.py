"""The HTTP interface's handlers: programs, notebooks, sessions.

    POST   /run_code, /run_jupyter           SandboxFusion's
    POST   /session, /session/ID/run         an interpreter that lasts, for sandbox.client
    DELETE /session/ID
    GET    /v1/ping, /v1/status, /metrics

A program holds its place until it has ended, also where its caller has hung up.

Whoever has a place is answered within twice its time-out (waiting for a processor may
double that) and GRACE seconds, whatever happens; GET /v1/status tells the numbers.
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
from sandbox.front import GONE, READ_SECONDS, Front, Gone, read_body, refusal, reply, unless_gone
from sandbox.gate import Bodies, Ending, Full, Gate, Late
from sandbox.metrics import CONTENT_TYPE, Metrics
from sandbox.orders import BadRequest, Body, line
from sandbox.results import Busy, Result, SandboxError
from sandbox.session import Session

# Callers give a program run + compile + 10 s. What has not begun after this many seconds
# more than the compile time-out would be answered to nobody.
PATIENCE = 5.0
GRACE = 30.0  # a slot that starts, fetched files, a second attempt
BODY_SECONDS = 30.0
BODIES = 16  # of the greatest length that may be held at a time
LARGE = 1 << 20  # bytes from which a body is decoded beside the loop
CELLS = 8  # of one session that may wait for those before
HANG_UP_SECONDS = 0.02  # in which a caller who does not stay for the answer is noticed
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
    cells: "set[asyncio.Task[Body]]" = dataclasses.field(default_factory=set)
    last_id: str | int | None = None
    last: "asyncio.Task[Body] | None" = None

    @property
    def waiting(self) -> int:
        """Cells that wait for those before."""
        return max(0, len(self.cells) - 1)

    def answer(self, request_id: str | int | None) -> "asyncio.Task[Body] | None":
        """The last cell where it is asked for again: an answer was lost, it must run once."""
        if request_id is None or request_id != self.last_id or self.last is None:
            return None
        refused = self.last.done() and (self.last.cancelled() or self.last.exception() is not None)
        return None if refused else self.last


class Service:
    """Runs what requests ask for in `box`. To be made inside the event loop that serves it."""

    def __init__(self, box: Sandbox, settings: Settings, token: str | None) -> None:
        self._box = box
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        # No place without a worker: whoever has one begins at once.
        self._gate = Gate(settings.workers, settings.queue)
        self._bodies = Bodies(BODIES * settings.max_body)
        self._held: dict[str, Held] = {}
        self._tasks: set[asyncio.Future[Any]] = set()  # the loop itself keeps none alive
        self._level = box.level
        self._gauges = {
            "running": lambda: box.load[0],
            "waiting": self._waiting,
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
            with self._bodies.hold() as take:
                return await handler(request, await self._read(request, take))

        return read_and_handle

    async def _read(self, request: Request, take: Callable[[int], None]) -> Body:
        body = await read_body(request, self._settings.max_body, BODY_SECONDS, take)
        if len(body) < LARGE:
            return orders.decode(body)
        return await asyncio.to_thread(orders.decode, body)

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
                "limits": {
                    **dataclasses.asdict(self._settings),
                    "fetch_files": orders.MOST_FETCHED,
                    "values": orders.MOST_VALUES,
                    "upload": BODY_SECONDS,
                    "patience": PATIENCE,
                    "grace": GRACE,
                    "download": READ_SECONDS,
                },
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
            result = await _in_time(asyncio.wrap_future(future), program.timeout)
        except SandboxError as error:
            if not future.done():  # else it is counted already, also for callers who have gone
                self._metrics.failed()
            return fusion.failure(line(error))
        return fusion.reply(result, program.fetch, self._settings.memory_mb)

    def _ended(self, future: "Future[Result]") -> None:
        self._gate.leave()
        if future.exception() is None:
            self._metrics.ran(future.result())
        else:
            self._metrics.failed()

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
            session = self._box.session(
                timeout=max(asked.total_timeout, cells.FILES_SECONDS), echo=True
            )
            try:
                work = cells.run_all(session, asked, self._metrics.ran)
                return await _in_time(work, asked.total_timeout)
            finally:
                await asyncio.to_thread(session.close)
        except SandboxError as error:
            return self._failure(error)
        finally:
            self._gate.leave()

    async def _open(self, request: Request, body: Body) -> Response:
        timeout, seed, echo = orders.session(body, self._settings.max_timeout)
        await unless_gone(request, asyncio.sleep(HANG_UP_SECONDS))
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
        timeout = timeout or held.timeout
        task = held.answer(request_id)
        if task is None:
            if held.waiting >= CELLS:
                raise Full(f"{held.waiting} cells of the session wait already")
            task = self._keep(self._cell_in_turn(key, held, code, timeout))
            held.last_id, held.last = request_id, task
            held.cells.add(task)
            task.add_done_callback(held.cells.discard)
        most = PATIENCE + 3 * timeout + GRACE
        return _echoing(await unless_gone(request, _wait(task, most)), request_id)

    async def _cell_in_turn(self, key: str, held: Held, code: str, timeout: float) -> Body:
        """One cell, when its turn comes. It goes on if its caller hangs up: the state needs it."""
        with self._bodies.hold() as take:
            take(len(code))
            async with held.turn:
                self._found(key)
                if held.expiry is not None:
                    held.expiry.cancel()
                try:
                    return await self._cell_with_place(key, held, code, timeout)
                finally:
                    self._touch(key)

    async def _cell_with_place(self, key: str, held: Held, code: str, timeout: float) -> Body:
        await self._gate.enter(timeout + PATIENCE)
        try:
            result = await cells.run(held.session, code, timeout)
        except SandboxError as error:
            self._end(key)
            return self._failure(error)
        finally:
            self._gate.leave()
        self._metrics.ran(result)
        return fusion.reply(result, {}, self._settings.memory_mb)

    def _waiting(self) -> int:
        cells_waiting = sum(held.waiting for held in self._held.values())
        return self._gate.waiting + self._box.load[1] + cells_waiting

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


async def _in_time(work: Awaitable[T], timeout: float) -> T:
    """What comes of a job with this time-out. Raises SandboxError where it takes for ever."""
    most = 2 * timeout + GRACE
    try:
        async with asyncio.timeout(most):
            return await work
    except TimeoutError:
        raise SandboxError(f"the sandbox has not answered within {most:g} s") from None


async def _wait(task: "asyncio.Task[T]", seconds: float) -> T:
    """What the task returns; it goes on where it takes longer. Raises Late."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)
    except TimeoutError:
        words = f"the cell has not ended within {seconds:g} s: ask again with its request_id"
        raise Late(words) from None


async def _refuse(request: Request, error: Exception) -> Response:
    """Any refusal as one line of JSON."""
    if isinstance(error, Gone):
        return Response(status_code=GONE)
    status = getattr(error, "status", None) or STATUSES.get(type(error), 500)
    if isinstance(error, HTTPException):
        return refusal(f"{request.method} {request.url.path}: {error.detail}", error.status_code)
    return refusal(str(error), status)


def _echoing(answer: Body, request_id: str | int | None) -> Response:
    return reply(answer if request_id is None else {**answer, "request_id": request_id})
