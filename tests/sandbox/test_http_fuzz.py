"""Whatever is sent, the server answers in time with one line, or closes, and goes on serving."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import Sandbox
from sandbox.service import Service, Settings
from tests.sandbox.servers import Server

SMALL = 8192  # bytes that a body may have

# Values of JSON, among them what Python writes and reads but JSON does not have.
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
junk = st.binary(max_size=300) | values.map(lambda value: json.dumps(value).encode())
codes = st.sampled_from(["", "1", "1 / 0", "print('\ud800')", "\0", "é", "if", "\ufeff1"]) | values
bodies = st.fixed_dictionaries(
    {},
    optional={
        "code": codes,
        "language": st.just("python") | values,
        "stdin": values,
        "run_timeout": st.just(0.2) | values,
        "compile_timeout": values,
        "memory_limit_MB": values,
        "seed": values,
        "files": st.dictionaries(st.text(max_size=8), st.text(max_size=8) | values) | values,
        "fetch_files": st.lists(st.text(max_size=8), max_size=3) | values,
        "request_id": values,
        "cells": st.lists(codes, max_size=2) | values,
        "cell_timeout": st.just(0.2) | values,
        "total_timeout": st.just(0.2) | values,
        "kernel": st.just("python3") | values,
        "timeout": st.just(0.2) | values,
        "echo": values,
    },
)
PATHS = st.sampled_from(["/run_code", "/run_jupyter", "/session", "/session/x/run"])

Post = Callable[[str, bytes], httpx2.Response]


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    """Posts to the application itself, which runs in a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin(box: Sandbox) -> tuple[Service, httpx2.AsyncClient]:
        service = Service(box, Settings(max_body=SMALL, max_timeout=0.5, sessions=10), None)
        transport = httpx2.ASGITransport(service.front, raise_app_exceptions=True)
        return service, httpx2.AsyncClient(transport=transport, base_url="http://x")

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    with Sandbox(workers=2, min_level="rlimits", max_level="rlimits", preload=()) as box:
        service, client = wait(begin(box))
        yield lambda path, body: wait(client.post(path, content=body))
        wait(service.drain(10))
        wait(client.aclose())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def checked(reply: httpx2.Response) -> int:
    """The status of an answer that is as every answer should be."""
    body = reply.json()
    assert isinstance(body, dict) and reply.status_code in (200, 400, 404, 413, 422, 503)
    if reply.status_code != 200:
        assert list(body) == ["detail"] and body["detail"] and "\n" not in body["detail"]
    return reply.status_code


@settings(max_examples=150, deadline=None)
@given(path=PATHS, body=bodies)
def test_any_fields_get_an_answer(post, path, body):
    status = checked(post(path, json.dumps(body).encode()))
    if path == "/run_code" and not isinstance(body.get("code"), str):
        assert status in (413, 400, 422)


@settings(max_examples=100, deadline=None)
@given(path=PATHS, body=junk)
def test_any_bytes_get_an_answer(post, path, body):
    checked(post(path, body))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "body is not JSON"),
        (b"[" * 3000, "body is"),
        (b'{"a":' * 500, "body is"),
        (b'{"code": "1', "body is not JSON"),
        (b'{"code": "\xff"}', "body is not JSON: 'utf-8' codec"),
        (b'{"code": "1", "run_timeout": NaN}', "NaN is not JSON"),
        (b'{"code": "1", "run_timeout": 1e999}', "run_timeout is inf"),
        (b'{"code": "1", "run_timeout": %s}' % (b"9" * 2000), "run_timeout is 999"),
        (b'{"code": "1", "seed": %s}' % (b"9" * 4000), "seed is 999"),
        (b'{"code": "1", "seed": %s}' % (b"9" * 5000), "body is not JSON: Exceeds"),
        (b'{"code": "1", "run_timeout": true}', "run_timeout is True"),
        (b'{"code": "1", "files": {"/etc/x": ""}}', "not inside the working directory"),
        (b'{"code": "1", "files": {"a/../../x": ""}}', "not inside the working directory"),
        (b'{"code": "1", "fetch_files": ["a\\u0000"]}', "not inside the working directory"),
        (b"[]", "body is a JSON list, expected an object"),
        (b'"%s"' % (b"x" * SMALL), "body has more than 8192 bytes"),
    ],
)
def test_known_traps_are_named(post, body, words):
    reply = post("/run_code", body)
    assert 400 <= checked(reply) < 500 and words in reply.json()["detail"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    quick = "front.HEAD_SECONDS = 0.5; front.DISCARD_SECONDS = 0.5; service.BODY_SECONDS = 0.5"
    with Server("--max-body-mb", "0.01", change=quick) as server:
        yield server
        assert server.run("print(1)")["status"] == "Success"


def talk(server: Server, *parts: bytes, pause: float = 0.0, close: bool = False) -> bytes:
    """What comes back for these bytes until the server closes; `close`: we end our side first."""
    with server.socket() as sock:
        for part in parts:
            sock.sendall(part)
            time.sleep(pause)
        if close:
            sock.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
        return received


def head(*lines: str, path: str = "/run_code") -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", *lines, "", "")).encode("latin-1")


BODY = b'{"code": "print(1)"}'


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], 400),  # TLS
        ([b"GET /\r\n\r\n"], 400),
        ([b"GET / HTTP/1.1\r\n\r\n"], 400),  # no Host
        ([head("Content-Length: 5", "Content-Length: 6"), b"12345"], 400),
        ([head("Content-Length: -1")], 400),
        ([head("Content-Length: 99999999999999999999999")], 400),
        ([head("Content-Length: x")], 400),
        ([head("Transfer-Encoding: chunked"), b"zz\r\n"], 400),
        ([head("X: " + "y" * 20_000, "Connection: close")], 431),
        ([head("X:\0y")], 400),
        ([head(f"Content-Length: {10**9}")], 413),
        ([head(f"Content-Length: {10**9}", "Expect: 100-continue")], 413),
        (
            [head("Transfer-Encoding: chunked"), b"99\r\n" + b"x" * 153 + b"\r\n"],
            408,
        ),
        ([head("Content-Length: 30000", "Connection: close"), b"x" * 30_000], 413),
        ([head("Content-Length: 100"), BODY], 408),  # the rest never comes
        ([head("Transfer-Encoding: chunked"), b"5\r\nab"], 408),
        ([b"POST /run_code HTTP/1.1\r\nHost: x\r\n"], 408),  # headers never end
        ([], 408),
        ([head("Content-Length: 20", "Connection: close"), BODY], 200),
        ([head("Content-Length: 1000", "Origin: http://evil"), BODY], 403),
        ([head("Content-Length: 1000", path="/nowhere"), BODY], 404),
        ([b"DELETE /session/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    ],
)
def test_broken_framing_is_answered_and_the_connection_closed(server, sent, status):
    answer = talk(server, *sent)
    final = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert final.startswith(b"HTTP/1.1 %d " % status), answer
    lines = final.partition(b"\r\n\r\n")[2]
    assert (b"detail" in lines) == (status != 200) and isinstance(json.loads(lines), dict)


def test_headers_without_end_are_cut_off(server):
    lines = [b"X: " + b"y" * 1000 + b"\r\n"] * 40
    try:
        answer = talk(server, head()[:-2], *lines)
    except ConnectionError:  # closed while we were still sending
        return
    assert answer.startswith(b"HTTP/1.1 400 ") and b"16384 bytes of headers" in answer


def test_a_trickle_is_ended(server):
    started = time.monotonic()
    for sent in (head("Content-Length: 1000"), b"POST /run_code HTTP/1.1\r\nX: "):
        with server.socket() as sock:
            sock.sendall(sent)
            sock.settimeout(0.1)
            received = b""
            while b"detail" not in received:  # a byte now and then buys no time
                sock.sendall(b"x")
                try:
                    received += sock.recv(4096)
                except TimeoutError:
                    continue
            assert received.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("cut", [1, 20, 60, 70])
def test_a_request_cut_short_leaves_nothing(server, cut):
    request = head("Content-Length: 20") + BODY
    assert len(request) > 70
    assert talk(server, request[:cut], close=True) == b""


def test_requests_sent_together_are_answered_in_order(server):
    requests = [
        head(f"Content-Length: {len(body)}") + body
        for body in (json.dumps({"code": f"print({n})"}).encode() for n in range(3))
    ]
    last = b"GET /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = talk(server, b"".join(requests) + last)
    places = [answer.index(b'"stdout":"%d\\n"' % n) for n in range(3)] + [answer.index(b'"pong"')]
    assert places == sorted(places)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_any_bytes_on_a_socket_are_survived(server, noise, framed):
    answer = talk(server, head("Content-Length: 20") + noise if framed else noise, close=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
