"""A real MCP server, by command and by URL, and every way for it to fail."""

import contextlib
import http.server
import json
import os
import shlex
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.serving import serving
from torl_jax.errors import UserError
from torl_jax.tools import mcp
from torl_jax.tools.mcp import MCPTools
from torl_jax.tools.toolbox import LARGEST, ToolFailure

pytest.importorskip("mcp", reason="needs the extra mcp: pip install 'torl_jax[mcp]'")

SERVER = Path(__file__).with_name("mcp_server.py")
COMMAND = shlex.join([sys.executable, str(SERVER)])


@pytest.fixture(scope="module")
def local():
    with MCPTools(COMMAND, workers=1, environment={"TOKEN": "abc"}) as tools:
        yield tools


@pytest.fixture(scope="module")
def remote():
    with listening() as url, MCPTools(url, workers=2) as tools:
        yield tools


@contextlib.contextmanager
def listening(ill=None, *, port=0, stateless=False):
    """The same server over HTTP, in a thread; while `ill` has an answer, that is what it says."""
    import uvicorn

    from tests.tools.mcp_server import server

    app = server.streamable_http_app(stateless_http=stateless)

    async def maybe(scope, receive, send):
        if scope["type"] != "http" or not ill:
            await app(scope, receive, send)
            return
        status, body, *kind = ill[0]
        headers = [(b"content-type", kind[0] if kind else b"application/json")]
        headers += [(b"location", b"http://elsewhere.example/")] if status == 302 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    running = uvicorn.Server(uvicorn.Config(maybe, log_level="error"))
    with socket.create_server(("127.0.0.1", port)) as sock:
        thread = threading.Thread(target=running.run, args=([sock],), daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/mcp"
        running.should_exit = running.force_exit = True
        thread.join()


def ask(tools, tool, timeout=30.0, **parameters):
    return tools.submit(tool, parameters, timeout).result(40)


def test_its_tools_are_functions(local, remote):
    for tools in (local, remote):
        add = tools.functions["add"]
        assert add.description == "Adds two numbers."
        assert add.schema["required"] == ["a"]
        assert add.shown().parameters["b"] == {"description": "", "type": "integer", "default": 1}
        assert len(tools.functions) == 10


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_calls_are_answered(kind, request):
    tools = request.getfixturevalue(kind)
    assert ask(tools, "add", a=2).results == {"result": 3}
    assert ask(tools, "text", said="grüß").results == "grüß"
    assert ask(tools, "text", said='{"x": [1]}').results == {"x": [1]}
    assert ask(tools, "text", said="7").results == "7"
    for said in ('{"x": NaN}', "[1e999]"):
        assert ask(tools, "text", said=said).results == said
    assert ask(tools, "parts").results == ["one", "two"]
    failed = ask(tools, "fail")
    assert failed.status == "error" and "fail" in failed.results
    wrong = ask(tools, "add", a="x")
    assert wrong.status == "error" and "integer" in wrong.results
    large = ask(tools, "big").results
    assert large.startswith('{"result": "xxx') and len(large) < LARGEST + 100
    asked = [tools.submit("add", {"a": n}, 30.0) for n in range(5)]
    assert [each.result().results["result"] for each in asked] == [1, 2, 3, 4, 5]


def test_the_environment_is_what_was_asked_for(local, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    assert ask(local, "variable", name="TOKEN").results == {"result": "abc"}
    assert ask(local, "variable", name="SECRET").results == {"result": None}


def test_a_server_that_hangs_is_ended_and_begun_anew(local):
    before = ask(local, "pid").results["result"]
    seen = ask(local, "hang", timeout=0.5)
    assert (seen.status, seen.results) == ("timeout", "stopped: no answer within 0.5 s")
    after = ask(local, "pid").results["result"]
    assert after != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_a_late_call_over_http_is_given_up(remote):
    seen = ask(remote, "wait", timeout=0.3, seconds=20)
    assert seen.status == "timeout"
    assert ask(remote, "add", a=1).results == {"result": 2}


def test_a_server_that_dies_is_no_outcome_and_is_begun_anew(local):
    error = local.submit("die", {}, 30.0).exception()
    assert isinstance(error, ToolFailure)
    assert "Connection closed" in str(error) and "the last thing that I say" in str(error)
    assert ask(local, "add", a=1).results == {"result": 2}


def test_a_server_that_goes_away_and_comes_back():
    with contextlib.ExitStack() as first:
        url = first.enter_context(listening())
        tools = MCPTools(url, workers=1)
        assert ask(tools, "add", a=1).results == {"result": 2}
    assert isinstance(tools.submit("add", {"a": 1}, 30.0).exception(), ToolFailure)
    port = int(url.rpartition(":")[2].partition("/")[0])
    with tools, listening(port=port):
        assert ask(tools, "add", a=1).results == {"result": 2}


class Sessions(http.server.BaseHTTPRequestHandler):
    """A server of the protocol's older kind, which knows its callers by their sessions."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, status, result=None, **headers):
        body = b"{}" if result is None else json.dumps(result).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.say(405)

    def do_DELETE(self):
        if self.server.hangs:
            self.server.released.wait(60)
        self.say(200)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        session, known = self.headers.get("Mcp-Session-Id"), self.server.known
        reply = {"jsonrpc": "2.0", "id": asked.get("id")}
        if "id" not in asked:
            self.say(202)
        elif asked["method"] == "initialize":
            self.server.begun += 1
            known.add(str(self.server.begun))
            result = {
                "protocolVersion": asked["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "old", "version": "1"},
            }
            self.say(200, reply | {"result": result}, mcp_session_id=str(self.server.begun))
        elif session is None:
            self.say(200, reply | {"error": {"code": -32601, "message": "no session"}})
        elif session not in known:
            self.say(404)
        elif asked["method"] == "tools/list":
            tools = [{"name": "which", "inputSchema": {"type": "object"}}]
            self.say(200, reply | {"result": {"tools": tools}})
        else:
            if self.server.hangs:
                self.server.released.wait(60)
            self.say(200, reply | {"result": {"content": [{"type": "text", "text": session}]}})


@contextlib.contextmanager
def sessions():
    """(server, tools of one worker)."""
    with serving(Sessions) as server:
        server.known, server.begun, server.hangs = set(), 0, False
        server.released = threading.Event()
        try:
            yield server, MCPTools(f"http://127.0.0.1:{server.server_port}/mcp", workers=1)
        finally:
            server.released.set()


def test_a_server_that_has_forgotten_the_session_is_begun_with_anew():
    with sessions() as (server, tools), tools:
        first = ask(tools, "which").results
        server.known.clear()
        assert isinstance(tools.submit("which", {}, 30.0).exception(), ToolFailure)
        assert int(ask(tools, "which").results) > int(first)


@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.parametrize(
    "answer", [(404, b"{}"), (302, b""), (200, b"<html>", b"text/html"), (202, b"")]
)
def test_what_is_no_mcp_any_more_is_no_outcome(answer, stateless):
    ill = []
    with listening(ill, stateless=stateless) as url, MCPTools(url, workers=1) as tools:
        ill[:] = [answer]
        assert isinstance(tools.submit("add", {"a": 1}, 30.0).exception(), ToolFailure)
        ill.clear()
        assert ask(tools, "add", a=1).results == {"result": 2}


def test_a_server_that_hangs_on_holds_up_neither_the_next_call_nor_the_end(monkeypatch):
    monkeypatch.setattr(mcp, "END_SECONDS", 0.2)
    with sessions() as (server, tools):
        server.hangs = True
        assert ask(tools, "which", timeout=0.2).status == "timeout"
        assert ask(tools, "which", timeout=0.2).status == "timeout"
        waiting = tools.submit("which", {}, 600.0)
        ended = threading.Thread(target=tools.close, daemon=True)
        ended.start()
        assert isinstance(waiting.exception(20), ToolFailure)
        ended.join(20)
        assert not ended.is_alive()


def test_a_server_that_falls_ill_over_http_is_no_outcome():
    ill = []
    with listening(ill) as url, MCPTools(url, workers=1) as tools:
        for answer in ((500, b"no"), (503, b""), (401, b""), (429, b"{}"), (200, b'{"x')):
            ill[:] = [answer]
            assert isinstance(tools.submit("add", {"a": 1}, 30.0).exception(), ToolFailure), answer
        ill.clear()
        assert ask(tools, "add", a=1).results == {"result": 2}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-command-at-all", "FileNotFoundError"),
        (shlex.join([sys.executable, "-c", "import sys; sys.exit('not today')"]), "not today"),
        (shlex.join([sys.executable, "-c", "print('hello')"]), "Connection closed"),
        ("'", "ValueError: No closing quotation"),
        ("http://127.0.0.1:9/mcp", "ConnectError"),
    ],
)
def test_a_server_that_cannot_be_used_is_the_users_to_mend(command, words):
    with pytest.raises(UserError) as caught:
        MCPTools(command, workers=1)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="at least 1"):
        MCPTools(COMMAND, workers=0)


class Garbage(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        self.send_response(500 if self.path == "/500" else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"this is no JSON-RPC")


@pytest.mark.parametrize("path", ["/200", "/500"])
def test_a_url_that_speaks_no_mcp(path):
    with serving(Garbage) as server, pytest.raises(UserError, match="cannot be used"):
        MCPTools(f"http://127.0.0.1:{server.server_port}{path}", workers=1)


def test_calls_fail_with_a_closed_toolbox_and_its_server_ends():
    tools = MCPTools(COMMAND, workers=1)
    server = ask(tools, "pid").results["result"]
    asked = [tools.submit("wait", {"seconds": 60.0}, 90.0) for _ in range(3)]
    tools.close()
    tools.close()
    assert all(isinstance(each.exception(), ToolFailure) for each in asked)
    assert isinstance(tools.submit("add", {"a": 1}, 1.0).exception(), ToolFailure)
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
