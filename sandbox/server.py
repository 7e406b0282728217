"""python -m sandbox serve: programs run for callers on the network, as SandboxFusion does.

Ends on SIGTERM or SIGINT, after it has answered what runs; a second one ends it at once.
"""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from sandbox.box import Sandbox
from sandbox.front import HEAD_BYTES, TICK, Protocol
from sandbox.results import SandboxError
from sandbox.service import GRACE, Service, Settings

TOKEN = "SANDBOX_TOKEN"
TOKEN_LENGTH = 16  # characters at least
IDLE_SECONDS = 75  # longer than clients keep a connection, so that it is they who close it
BACKLOG = 1024
HURRY_SECONDS = 1.0
SLOW_SECONDS = 3.0  # for answers that are being read when all else has ended


@dataclass(frozen=True)
class Address:
    """Where to listen, and the file with the token that callers need."""

    host: str = "127.0.0.1"
    port: int = 8080
    token_file: str | None = None


def serve(box: Sandbox, address: Address, settings: Settings) -> int:
    """Serves until it is told to end. Returns the exit code: 0, or 1 where it had to hurry.

    Raises SandboxError (no token where one is needed, the level is not reached), OSError.
    """
    token = _token(address.token_file)
    family, where, open_to_all = _resolve(address)
    if token is None and open_to_all:
        raise SandboxError(
            f"host is {address.host}, which others can reach: put a token into the "
            f"environment variable {TOKEN} or name a file with --token-file"
        )
    with socket.create_server(where, family=family, backlog=BACKLOG) as sock:
        # Connections inherit it. asyncio sets it only where a socket names its protocol, and
        # without it every answer waits 40 ms for the other side's acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        level = box.level  # waits here, where a signal still ends us
        return asyncio.run(_serve(box, settings, token, sock, level))


async def _serve(
    box: Sandbox, settings: Settings, token: str | None, sock: socket.socket, level: str
) -> int:
    service = Service(box, settings, token)
    config = uvicorn.Config(
        service.front,
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
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=2,  # all is answered by then, this is for closing
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    server = _Server(config)
    hurry = asyncio.Event()
    _on_signals(service, server, settings, hurry)
    host, port = sock.getsockname()[:2]
    print(
        f"sandbox: http://{f'[{host}]' if ':' in host else host}:{port}, "
        f"{settings.workers} workers, level {level}, "
        f"{'token required' if token else 'no token'}",
        flush=True,
    )
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    hurried = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({serving, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    hurried_up = not serving.done()
    await asyncio.to_thread(box.close)  # what still runs is now answered: SandboxError
    if hurried_up:
        await service.front.drain(HURRY_SECONDS)
        server.should_exit = server.force_exit = True
    await serving
    return int(hurried_up)


def _on_signals(
    service: Service, server: uvicorn.Server, settings: Settings, hurry: asyncio.Event
) -> None:
    """The first signal drains, the second hurries."""
    loop = asyncio.get_running_loop()
    draining: list[asyncio.Task[None]] = []

    async def drain() -> None:
        # Waiting for a processor may double a program's deadline.
        await service.drain(2 * settings.max_timeout + GRACE)
        await _wait_for_readers(server)
        server.should_exit = True

    def told() -> None:
        if draining:
            hurry.set()
        else:
            draining.append(loop.create_task(drain()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)


async def _wait_for_readers(server: uvicorn.Server) -> None:
    """A little; who has not read the answer by then is cut off."""
    seconds = SLOW_SECONDS
    while slow := [
        found
        for found in server.server_state.connections
        if isinstance(found, Protocol) and found.read_timer is not None
    ]:
        if seconds <= 0:
            for connection in slow:
                connection.cut_off()
            return
        seconds -= TICK
        await asyncio.sleep(TICK)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: the signals are ours."""
        yield


def _token(file: str | None) -> str | None:
    """From the file, else from the environment, else none. Never from the command line,
    which every process of the machine can read. Raises SandboxError, OSError.
    """
    token = os.environ.get(TOKEN) if file is None else Path(file).read_text("utf-8")
    if token is None:
        return None
    token = token.strip()
    source = TOKEN if file is None else file
    if len(token) < TOKEN_LENGTH or not token.isascii() or not token.isprintable():
        raise SandboxError(
            f"token in {source} has {len(token)} characters, expected at least {TOKEN_LENGTH} "
            "printable ASCII ones: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int], bool]:
    """Family and address to listen on, and whether it is more than loopback."""
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, where = found[0]
    host, port = str(where[0]), int(where[1])
    return family, (host, port), not ipaddress.ip_address(host).is_loopback
