"""Real servers for tests: `python -m sandbox serve` on a free port of loopback."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[2]
Body = dict[str, Any]
Answer = tuple[int, Body | str, int | None]

# Runs the command after changes to constants that a test cannot wait for.
CHANGED = """
import sys
from sandbox import __main__, front, service
for change in sys.argv[1].split(";"):
    exec(change.strip())
sys.exit(__main__.main(sys.argv[2:]))
"""


class Server:
    """One server process; a context manager that ends it."""

    def __init__(self, *flags: str, port: int = 0, token: str = "", change: str = "") -> None:
        command = ["-c", CHANGED, change] if change else ["-m", "sandbox"]
        environment = {name: value for name, value in os.environ.items() if name != "SANDBOX_TOKEN"}
        if token:
            environment["SANDBOX_TOKEN"] = token
        common = ["--min-level", "rlimits", "--preload", "", "--port", str(port)]
        self.process = subprocess.Popen(
            [sys.executable, *command, "serve", *common, *flags],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = self.line.removeprefix("sandbox: ").partition(",")[0]
        self.http = httpx2.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=60,
            trust_env=False,
        )

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, body: Body) -> Body:
        reply = self.http.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def run(self, code: str, **fields: Any) -> Body:
        return self.post("/run_code", {"code": code, "language": "python", **fields})

    def status(self) -> Body:
        return self.http.get("/v1/status").json()

    def metric(self, name: str) -> float:
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def end(self, *signals: signal.Signals) -> int:
        """Sends the signals; returns the exit status."""
        for number in signals:
            self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.process.kill()
        self.process.communicate()


@contextmanager
def scripted(answer: Callable[[str, Body], Answer]) -> Iterator[str]:
    """An endpoint that answers as the test says: it fails as no server of ours would.

    `answer` gets path and body, and gives status, body and seconds of Retry-After or
    None; ping always works.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(*((200, "pong") if self.path == "/v1/ping" else (404, {})), None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._reply(*answer(self.path, body))

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _reply(self, status: int, body: object, after: int | None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            if after is not None:
                self.send_header("retry-after", str(after))
            self.end_headers()
            self.wfile.write(data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
