"""Serves until it is told to end, or the engine has died.

SIGTERM or SIGINT: nothing more is taken, what runs has GRACE seconds, the rest is broken
off; a second one breaks it off at once.
"""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn

from sandbox.front import HEAD_BYTES, TICK, Protocol
from torl_jax.errors import UserError
from torl_jax.serving.app import App, Served
from torl_jax.serving.batch import Batch

TOKEN = "TORL_SERVE_TOKEN"
TOKEN_LENGTH = 16  # characters at least
BACKLOG = 1024
IDLE_SECONDS = 75  # longer than clients keep a connection, so that it is they who close it
GRACE = 5.0
CLOSE_SECONDS = 10.0  # for the segment that runs
TELL_SECONDS = 1.0  # for those who wait to hear that it is over

# Makes the batch; the function that it is given is to be called when the engine dies.
MakeBatch = Callable[[Callable[[], object]], Batch]


@dataclass(frozen=True)
class Address:
    """Where to listen, and the token that callers must show, if any."""

    sock: socket.socket
    token: str | None

    @classmethod
    def of(cls, host: str, port: int) -> "Address":
        """Takes the port, without listening yet. Raises UserError."""
        token = _token()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise UserError(f"--host={host} is no address of this machine ({error})") from error
        family, kind, _, _, where = found[0]
        if token is None and not ipaddress.ip_address(str(where[0])).is_loopback:
            raise UserError(
                f"--host={host} can be reached by others: put a token into the environment "
                f"variable {TOKEN}, which callers then show as their API key"
            )
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: without it every event of a stream waits for an answer.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.bind(where)
        except OSError as error:
            sock.close()
            raise UserError(
                f"cannot listen on {host}:{port} ({error.strerror}): give another --port, or 0 "
                "for a free one"
            ) from error
        return cls(sock, token)

    def __enter__(self) -> "Address":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    @property
    def url(self) -> str:
        """What clients take for their base URL."""
        host, port = self.sock.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _token() -> str | None:
    """From the environment, never from the command line, which every process can read."""
    token = os.environ.get(TOKEN, "").strip() or None
    if token is not None and (len(token) < TOKEN_LENGTH or not token.isascii()):
        raise UserError(
            f"the token in {TOKEN} has {len(token)} characters, expected at least {TOKEN_LENGTH} "
            "ASCII ones: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def serve(served: Served, make: MakeBatch, address: Address) -> int:
    """Serves; the exit code: 0, or 1 where the engine died."""
    return asyncio.run(_serve(served, make, address))


async def _serve(served: Served, make: MakeBatch, address: Address) -> int:
    loop = asyncio.get_running_loop()
    dead, told, hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()
    batch = make(lambda: loop.call_soon_threadsafe(dead.set))
    app = App(served, batch, address.token)
    config = uvicorn.Config(
        app.front,
        http=Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=2,  # all is answered by then, this is for closing
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if told.is_set() else told).set())
    serving = asyncio.ensure_future(server.serve(sockets=[address.sock]))
    while not server.started and not serving.done():
        await asyncio.sleep(TICK)
    print(_greeting(served, batch, address), flush=True)
    await _first(serving, asyncio.ensure_future(dead.wait()), asyncio.ensure_future(told.wait()))
    if not dead.is_set():
        batch.refuse()
        await _first(_until_idle(batch), asyncio.ensure_future(hurry.wait()))
        await asyncio.to_thread(batch.close, CLOSE_SECONDS)
    # Who waited has now been told why there is no answer.
    await asyncio.sleep(TELL_SECONDS if dead.is_set() else TICK)
    await app.front.drain(TELL_SECONDS)
    server.should_exit = True
    await serving
    return int(dead.is_set())


async def _first(*waits: asyncio.Future) -> None:
    """Returns when one of them is done; the others are cancelled, but for the first."""
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits[1:]:
        wait.cancel()


def _until_idle(batch: Batch) -> "asyncio.Future[None]":
    async def look() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                while not batch.idle:
                    await asyncio.sleep(TICK)

    return asyncio.ensure_future(look())


def _greeting(served: Served, batch: Batch, address: Address) -> str:
    tools = f"tools: {' '.join(served.tools)}, " if served.tools else ""
    return (
        f"serve: {address.url}, model {served.name}, markup {served.markup}, {batch.slots} slots "
        f"of {served.context} tokens, sandbox level: {served.level}, {tools}"
        f"{'token required' if address.token else 'no token'}"
    )


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: the signals are ours."""
        yield
