"""What stands between the network and the handlers: who may ask, how much, how slowly.

uvicorn and h11 read HTTP; here are the limits that they leave open (headers or a body
that never end, answers that nobody reads, too many connections), the token, and errors
as one line of JSON.
"""

import asyncio
import contextlib
import hmac
import http
import logging
import resource
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import h11
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sandbox import fusion
from sandbox.orders import BadRequest

HEAD_SECONDS = 10.0  # from the first byte (of a connection: from its start) to the headers' end
HEAD_BYTES = 16 << 10
READ_SECONDS = 20.0  # for a caller to read an answer
LINGER_SECONDS = 1.0
TICK = 0.02
DISCARD_SECONDS = 2.0
DISCARD_BYTES = 64 << 20
OPEN = ("/v1/ping",)  # needs no token: balancers carry none, and it tells nothing
GONE = 499  # the status of an answer that nobody reads

log = logging.getLogger("sandbox.server")
T = TypeVar("T")


class Gone(Exception):
    """The caller has hung up."""


def reply(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(fusion.encode(body), status, headers, "application/json")


def refusal(message: str, status: int) -> Response:
    """One line of JSON that says what was wrong."""
    return reply({"detail": " ".join(message.split())}, status, _advice(status))


def _advice(status: int) -> dict[str, str]:
    if status == 401:
        return {"www-authenticate": "Bearer"}
    return {"retry-after": "1"} if status in (503, 504) else {}


class Front:
    """The outermost application: checks who asks and counts what is being served."""

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        refused: Callable[[int], None],
        refusal: Callable[[str, int], Response] = refusal,
    ) -> None:
        """`refused` hears the status of each refusal, `refusal` words those of its own."""
        self.draining = False
        self.refused = refused
        self._app, self._refusal = app, refusal
        self._token = None if token is None else token.encode()
        self._exchanges: set[_Exchange] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = _Exchange(scope, receive, send, self.refused)
        self._exchanges.add(exchange)
        try:
            await self._answer(scope, exchange)
        finally:
            self._exchanges.discard(exchange)

    async def drain(self, seconds: float) -> None:
        """Answers 503 to whatever comes and waits for answers, not for those who read them."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not all(exchange.started for exchange in self._exchanges):
                    await asyncio.sleep(TICK)

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        if (response := self._turn_away(scope)) is not None:
            await response(scope, exchange.receive, exchange.send)
            return
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            log.exception("a request failed: %s %s", scope["method"], scope["path"])
            if not exchange.started:
                failed = self._refusal("the server failed; its log says how", 500)
                await failed(scope, exchange.receive, exchange.send)

    def _turn_away(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
            return self._refusal(f"headers have more than {HEAD_BYTES} bytes", 431)
        if b"origin" in headers:
            # Only browsers send it: a page that somebody merely visits must not run programs here.
            return self._refusal("requests of web pages are not served", 403)
        if self.draining and scope["path"] != "/metrics":
            return self._refusal("the server is ending", 503)
        if self._token is None or scope["path"] in OPEN:
            return None
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            words = "token is missing or wrong, expected Authorization: Bearer TOKEN"
            return self._refusal(words, 401)
        return None


class _Exchange:
    """One request and its answer.

    An answer that comes before the end of the body is held back for a little: a caller that
    is still sending would not see it. If the body goes on, the connection closes, or it
    would be kept for as long as somebody cares to send a byte now and then.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, refused: Callable[[int], None]
    ) -> None:
        names = {name for name, _ in scope["headers"]}
        self._ended = not names & {b"content-length", b"transfer-encoding"}
        self._asks = b"expect" in names  # it sends the body only when we begin to read
        self._receive = receive
        self._send = send
        self._refused = refused
        self.started = False

    async def receive(self) -> Message:
        self._asks = False
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._ended = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            if message["status"] >= 400 and message["status"] != GONE:
                self._refused(message["status"])
            if not self._ended and not self._asks and message["status"] != 408:
                await self._discard()
            if not self._ended:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await self._send(message)

    async def _discard(self) -> None:
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self._ended and size < DISCARD_BYTES:
                    size += len((await self.receive()).get("body", b""))


async def read_body(
    request: Request, limit: int, seconds: float, take: Callable[[int], None]
) -> bytes:
    """The body, at most `limit` bytes within `seconds`; `take` is told of each part.

    Raises BadRequest, Gone, and what `take` raises.
    """
    body = bytearray()
    declared = request.headers.get("content-length", "0")
    size = int(declared) if declared.isdecimal() and len(declared) < 19 else 0
    try:
        async with asyncio.timeout(seconds):
            while max(size, len(body)) <= limit:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                take(len(message.get("body", b"")))
                body += message.get("body", b"")
                if not message.get("more_body", False) and len(body) <= limit:
                    return bytes(body)
    except TimeoutError:
        raise BadRequest(f"body did not end within {seconds:g} s", 408) from None
    raise BadRequest(f"body has more than {limit} bytes", 413)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. Where the caller hangs up it is cancelled, and Gone raised."""
    job = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            return job.result()
        raise Gone
    finally:
        for task in (job, gone):
            task.cancel()
        await asyncio.gather(job, gone, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 with an end to slow headers and slow readers, and so many connections."""

    head_timer: asyncio.TimerHandle | None = None
    read_timer: asyncio.TimerHandle | None = None
    over = False  # what still comes is thrown away

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        # Whatever the kernel does not take at once starts the timer, also in what is closed.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2:
            self.refuse(503, "too many connections")
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        if not self.over:
            super().data_received(data)
            self._watch_head()
            self._read_on()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.read_timer = self.loop.call_later(READ_SECONDS, self.cut_off)

    def resume_writing(self) -> None:
        self._cancel_read()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self._cancel_read()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, f"not an HTTP/1.1 request with at most {HEAD_BYTES} bytes of headers")

    def refuse(self, status: int, message: str) -> None:
        """An answer to what never became a request."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = fusion.encode({"detail": message})
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
                *_advice(status).items(),
            ]
            reason = http.HTTPStatus(status).phrase
            response = h11.Response(status_code=status, headers=headers, reason=reason)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            if isinstance(front := self.config.app, Front):
                front.refused(status)
        # Closed at once, what the caller is still sending would cost it the answer.
        self.over = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _read_on(self) -> None:
        """Keeps reading behind a whole request, or its caller could hang up unnoticed."""
        if self.conn.their_state is h11.DONE and self.conn.our_state is not h11.DONE:
            if len(self.conn.trailing_data[0]) > HEAD_BYTES:
                self.over = True
                self.cycle.keep_alive = False
            self.flow.resume_reading()

    def cut_off(self) -> None:
        """Ends the connection, also where its caller has not read everything."""
        # Without this the kernel would keep trying for minutes to hand over what it has.
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _cancel_read(self) -> None:
        if self.read_timer is not None:
            self.read_timer.cancel()
            self.read_timer = None

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._cancel()
        elif self.head_timer is None:
            words = f"headers did not end within {HEAD_SECONDS:g} s"
            self.head_timer = self.loop.call_later(HEAD_SECONDS, self.refuse, 408, words)

    def _cancel(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None
