"""Calls to real HTTP servers: good ones, and those that lie, dawdle, die or are not there."""

import contextlib
import http.server
import json
import socket
import threading
import time

import pytest
import yaml

from tests.serving import serving
from torl_jax.errors import UserError
from torl_jax.tools import web
from torl_jax.tools.toolbox import LARGEST, ToolFailure
from torl_jax.tools.web import OpenAPITools

BYTES = 10_000_000
LOCK, NOW, MOST = threading.Lock(), [], []  # requests to /slow that are being answered


def operation(name, **more):
    return {"get": {"operationId": name, **more}}


ECHO = {
    "operationId": "echo",
    "parameters": [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "tags", "in": "query", "schema": {"type": "array"}},
    ],
    "requestBody": {
        "content": {"application/json": {"schema": {"properties": {"name": {"type": "string"}}}}}
    },
}
DOCUMENT = {"openapi": "3.1.0", "paths": {"/echo/{id}": {"post": ECHO}}}
HEADER = {"name": "X-Note", "in": "header", "schema": {"type": "string"}}
OTHERS = {"name": "others", "in": "query", "schema": {"type": "object"}}
DOCUMENT["paths"]["/heard"] = operation("heard", parameters=[HEADER, OTHERS])
DOCUMENT["paths"] |= {
    f"/{name}": operation(name)
    for name in (
        "text",
        "nothing",
        "broken",
        "image",
        "big",
        "slow",
        "drip",
        "endless",
        "die",
        "half",
        "garbage",
        "moved",
        "bare",
        "latin",
        "nan",
        "deep",
    )
}
STATUSES = (400, 404, 500, 401, 429, 503)
DOCUMENT["paths"] |= {f"/status/{n}": operation(f"status{n}") for n in STATUSES}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # a client that waits no longer
            super().handle()

    def send(self, body, kind="application/json", status=200):
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = {"path": self.path, "body": body.decode(), "token": self.headers.get("X-Token")}
        self.send(json.dumps(said).encode())

    def do_GET(self):
        if self.path.startswith("/status/"):
            return self.send(b'{"detail": "no"}', status=int(self.path.rpartition("/")[2]))
        return getattr(self, self.path[1:].partition(".")[0])()

    def openapi(self):
        text = yaml.safe_dump(DOCUMENT) if self.path.endswith("yaml") else json.dumps(DOCUMENT)
        self.send(text.encode())

    def text(self):
        self.send("grüß".encode(), "text/plain; charset=utf-8")

    def latin(self):
        self.send("grüß".encode("latin-1"), "text/plain; charset=latin-1")

    def heard(self):
        body = json.dumps({"cookie": self.headers.get("Cookie")}).encode()
        self.send_response(200)
        self.send_header("Set-Cookie", "session=A")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def bare(self):
        self.send(b"[1, 2]", "")

    def nothing(self):
        self.send(b"", "", 204)

    def broken(self):
        self.send(b'{"x": ')

    def nan(self):
        self.send(b'{"x": NaN}')

    def deep(self):
        self.send(b"[" * 100_000)

    def image(self):
        self.send(b"\x89PNG", "image/png")

    def big(self):
        self.send(json.dumps("x" * BYTES).encode())

    def slow(self):
        with LOCK:
            NOW.append(self)
            MOST.append(len(NOW))
        time.sleep(1.0)
        with LOCK:
            NOW.remove(self)
        self.send(b"1")

    def endless(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        while True:
            self.wfile.write(b"x" * (1 << 16))

    def drip(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(30):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def die(self):
        self.connection.shutdown(socket.SHUT_RDWR)

    def half(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"half")
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def garbage(self):
        self.wfile.write(b"\x00\x01 this is not HTTP\r\n\r\n")
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def moved(self):
        self.send_response(302)
        self.send_header("Location", "http://elsewhere.example/")
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def url():
    with serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def tools(url):
    with OpenAPITools(f"{url}/openapi.json", headers={"X-Token": "abc"}) as tools:
        yield tools


def ask(tools, operation, timeout=20.0, **parameters):
    return tools.submit(operation, parameters, timeout).result()


def test_parameters_go_where_the_document_says(tools):
    seen = ask(tools, "echo", id="a/b", tags=["x", "y"], name="n")
    assert seen.results == {
        "path": "/echo/a%2Fb?tags=x&tags=y",
        "body": '{"name": "n"}',
        "token": "abc",
    }
    assert seen.status == "ok" and 0 < seen.seconds < 20
    refused = ask(tools, "echo", id="..")
    assert refused.status == "error" and "a part of the path" in refused.results


def test_a_document_may_be_a_file_and_yaml(url, tmp_path):
    (tmp_path / "api.yaml").write_text(
        "# dates are no JSON\n"
        + yaml.safe_dump({**DOCUMENT, "info": {"version": "x"}})
        + "x-date: 2024-01-01\n"
    )
    for source, base in ((tmp_path / "api.yaml", url), (f"{url}/openapi.yaml", "")):
        with OpenAPITools(source, base) as tools:
            assert ask(tools, "text").results == "grüß"


@pytest.mark.parametrize(
    ("name", "results"),
    [("text", "grüß"), ("latin", "grüß"), ("bare", [1, 2]), ("nothing", None)],
)
def test_answers_that_are_read(tools, name, results):
    seen = ask(tools, name)
    assert (seen.status, seen.results) == ("ok", results)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", 'the server\'s answer is no JSON: {"x": '),
        ("nan", "the server's answer is no JSON: "),
        ("deep", "the server's answer is no JSON: "),
        ("image", "the server answered with image/png, which is no text"),
        ("status400", 'HTTP 400: {"detail": "no"}'),
        ("status404", "HTTP 404: "),
        ("status500", "HTTP 500: "),
    ],
)
def test_a_tool_that_fails_is_an_outcome(tools, name, words):
    seen = ask(tools, name)
    assert seen.status == "error" and seen.results.startswith(words)
    assert len(seen.results) < LARGEST + 100


def test_a_large_answer_is_cut(tools):
    seen = ask(tools, "big")
    assert seen.results.startswith('"xxx') and LARGEST < len(seen.results) < LARGEST + 100
    seen = ask(tools, "endless")
    assert seen.status == "ok" and seen.results.endswith(" and more")


def test_cookies_are_not_kept(tools):
    assert ask(tools, "heard").results == ask(tools, "heard").results == {"cookie": None}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"X-Note": " a"}, "the parameter X-Note is sent in a header: "),
        ({"others": {"x" * 70_000: 1}}, "the parameters make no URL: URL too long"),
    ],
)
def test_what_a_model_wrote_and_cannot_be_sent_is_an_outcome(tools, parameters, words):
    seen = ask(tools, "heard", **parameters)
    assert seen.status == "error" and seen.results.startswith(words)


@pytest.mark.parametrize("name", ["slow", "drip"])
def test_what_takes_too_long_is_ended(tools, name):
    seen = ask(tools, name, timeout=0.4)
    assert (seen.status, seen.results) == ("timeout", "stopped: no answer within 0.4 s")


@pytest.mark.parametrize(
    "name", ["die", "half", "garbage", "moved", "status401", "status429", "status503"]
)
def test_a_server_that_fails_is_no_outcome(tools, name):
    asked = tools.submit(name, {}, 20.0)
    assert isinstance(asked.exception(), ToolFailure)
    assert ask(tools, "text").status == "ok"


def test_a_server_that_is_not_there(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port
        base = f"http://127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "api.json").write_text(json.dumps(DOCUMENT))
        with OpenAPITools(tmp_path / "api.json", base) as tools:
            asked = tools.submit("text", {}, 20.0)
            assert isinstance(asked.exception(), ToolFailure)
            assert "ConnectError" in str(asked.exception()) and base in str(asked.exception())
        with pytest.raises(UserError, match="cannot be read"):
            OpenAPITools(f"{base}/openapi.json")
        with pytest.raises(UserError, match="is no URL"):
            OpenAPITools(tmp_path / "api.json", "http://host:port")


def test_a_document_that_has_moved_is_not_followed(url):
    for headers in ({}, {"X-Token": "abc"}):
        with pytest.raises(UserError, match="have moved: name http://elsewhere"):
            OpenAPITools(f"{url}/moved", headers=headers)


def test_at_most_so_many_calls_run_at_a_time(url):
    while NOW:  # what the tests before gave up waiting for
        time.sleep(0.01)
    with OpenAPITools(f"{url}/openapi.json", workers=1) as narrow:
        MOST.clear()
        asked = [narrow.submit("slow", {}, 20.0) for _ in range(2)]
        assert [each.result().status for each in asked] == ["ok", "ok"]
        assert MOST == [1, 1]


def test_a_closed_toolbox_answers_nobody(url):
    tools = OpenAPITools(f"{url}/openapi.json")
    asked = tools.submit("slow", {}, 20.0)
    while not NOW:
        time.sleep(0.01)
    tools.close()
    tools.close()
    assert asked.cancelled()
    assert isinstance(tools.submit("text", {}, 1.0).exception(), ToolFailure)


@pytest.mark.parametrize("text", ["{", "{'a': ", "a: b: c", "- [", "!!python/object:os.system x"])
def test_what_is_no_document(tmp_path, text):
    (tmp_path / "api.yaml").write_text(text)
    with pytest.raises(UserError, match="is neither JSON nor YAML"):
        web.read(str(tmp_path / "api.yaml"), {})
    with pytest.raises(UserError, match="cannot be read"):
        web.read(str(tmp_path / "none.yaml"), {})
