"""What one caller may cost the others: bytes, places, connections, time."""

import base64
import json
import select
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import orders
from tests.sandbox.processes import eventually
from tests.sandbox.servers import Body, Server

PING = b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n"
SLEEP = {"code": "import time; time.sleep(60)", "run_timeout": 60}


def request(path: str, body: Body, *lines: str) -> bytes:
    data = json.dumps(body).encode()
    first = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}", *lines, "", "")
    return "\r\n".join(first).encode() + data


@pytest.fixture
def alone() -> Iterator[Server]:
    """One worker, little patience."""
    with Server("--workers", "1", change="service.PATIENCE = 0.1; service.CELLS = 2") as server:
        yield server


@pytest.mark.parametrize("lines", [(), ("Connection: close",)])
def test_a_caller_who_does_not_read_is_cut_off(lines):
    with Server("--workers", "1", change="front.READ_SECONDS = 0.5") as server:
        body = {"code": "open('a', 'wb').write(bytes(8 << 20))", "fetch_files": ["a"]}
        assert len(server.post("/run_code", body)["files"]["a"]) > 8 << 20
        sock = socket.socket()
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(request("/run_code", body, *lines))
            poller = select.poll()
            poller.register(sock, 0)
            assert eventually(lambda: bool(poller.poll(0)))  # reset


def test_answers_to_many_requests_at_once_must_be_read():
    with Server("--workers", "1", change="front.READ_SECONDS = 0.5") as server:
        sock = socket.socket()
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.settimeout(0.5)
            with pytest.raises(OSError):
                for _ in range(20_000):
                    sock.sendall(PING.replace(b"ping", b"status") * 100)
            poller = select.poll()
            poller.register(sock, 0)
            assert eventually(lambda: bool(poller.poll(0)))


def test_the_server_ends_before_slow_readers_do():
    with Server("--workers", "1", change="front.READ_SECONDS = 60") as server:
        body = {"code": "open('a', 'wb').write(bytes(8 << 20))", "fetch_files": ["a"]}
        sock = socket.socket()
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(request("/run_code", body) + PING * 50)
            assert eventually(lambda: server.metric('sandbox_runs_total{status="ok"}') == 1)
            assert sock.recv(1) == b"H"
            time.sleep(0.3)  # by now the next answer waits behind it
            started = time.monotonic()
            assert server.end(signal.SIGTERM) == 0
            assert time.monotonic() - started < 40


def test_too_many_connections_are_told_to_come_again():
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))"
    with Server("--workers", "1", "--max-level", "rlimits", change=few) as server:
        assert server.http.get("/v1/ping").status_code == 200
        socks = [server.socket() for _ in range(29)]
        assert server.http.get("/v1/ping").status_code == 200
        with server.socket() as sock:
            answer = sock.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 1\r\n" in answer
        assert server.metric('sandbox_refused_total{code="503"}') == 1
        for sock in socks:
            sock.close()


def test_what_is_no_request_is_counted_too(alone):
    with alone.socket() as sock:
        sock.sendall(b"JUNK\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert alone.metric('sandbox_refused_total{code="400"}') == 1


def test_a_failure_of_ours_is_counted_when_nobody_hears_of_it():
    killer = "import os, time; time.sleep(0.3); os.kill(os.getppid(), 9)"
    with Server("--workers", "1", "--max-level", "rlimits") as server:
        with server.socket() as sock:
            sock.sendall(request("/run_code", {"code": killer}))
            assert eventually(lambda: server.status()["running"] == 1)
        assert eventually(lambda: server.metric("sandbox_errors_total") == 1)
        assert server.run(killer)["status"] == "SandboxError"
        assert server.metric("sandbox_errors_total") == 2


@pytest.mark.parametrize("more", [1, 2000])
def test_a_caller_who_sent_more_requests_hangs_up_like_any_other(alone, more):
    with alone.socket() as running, alone.socket() as waiting:
        running.sendall(request("/run_code", SLEEP))
        assert eventually(lambda: alone.status()["running"] == 1)
        waiting.sendall(request("/run_code", SLEEP | {"compile_timeout": 60}))
        assert eventually(lambda: alone.status()["waiting"] == 1)
        waiting.sendall(PING * more)
        time.sleep(0.1)  # the second request arrives by itself
        waiting.close()
        assert eventually(lambda: alone.status()["waiting"] == 0)


def test_a_session_is_not_left_to_one_who_has_gone(alone):
    for _ in range(3):
        with alone.socket() as sock:
            sock.sendall(request("/session", {}))
    alone.post("/session", {})
    assert alone.status()["sessions"] == 1


def test_a_cell_takes_a_place_like_a_program(alone):
    path = f"/session/{alone.post('/session', {})['session']}/run"
    with ThreadPoolExecutor(1) as threads:
        cell = {"code": "import time; time.sleep(2)"}
        threads.submit(alone.post, path, cell)
        assert eventually(lambda: alone.status()["running"] == 1)
        late = alone.http.post("/run_code", json={"code": "1", "compile_timeout": 0.2})
        assert late.status_code == 504


def test_cells_that_wait_are_counted_and_bounded(alone):
    path = f"/session/{alone.post('/session', {})['session']}/run"
    for n in range(3):  # one runs, two wait: their callers do not
        with alone.socket() as sock:
            code = f"import time; time.sleep({0 if n else 2}); print({n})"
            sock.sendall(request(path, {"code": code, "request_id": n}))
            assert eventually(lambda n=n: alone.status()["waiting"] == n)
    full = alone.http.post(path, json={"code": "1", "request_id": 3})
    assert full.status_code == 503 and full.headers["retry-after"] == "1"
    last = alone.post(path, {"code": "", "request_id": 2})  # asked again: its own answer
    assert last["run_result"]["stdout"] == "2\n"
    assert alone.status()["waiting"] == 0
    assert alone.post(path, {"code": "print(3)", "request_id": 3})["run_result"]["stdout"] == "3\n"


def test_a_cell_that_found_no_place_can_be_asked_for_again(alone):
    path = f"/session/{alone.post('/session', {})['session']}/run"
    cell = {"code": "print(1)", "timeout": 0.2, "request_id": "a"}
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(alone.run, "import time; time.sleep(1.5)")
        assert eventually(lambda: alone.status()["running"] == 1)
        assert alone.http.post(path, json=cell).status_code == 504
        slow.result()
    assert alone.post(path, cell)["run_result"]["stdout"] == "1\n"


def test_nobody_waits_for_longer_than_was_promised():
    with Server("--workers", "1", change="service.PATIENCE = 0.1; service.GRACE = -1.9") as server:
        answer = server.run("import time; time.sleep(0.7)", run_timeout=1)
        assert answer["status"] == "SandboxError" and "within 0.1 s" in answer["message"]
        assert server.metric("sandbox_errors_total") == 1
        assert eventually(lambda: server.metric('sandbox_runs_total{status="ok"}') == 1)
        path = f"/session/{server.post('/session', {})['session']}/run"
        cell = {"code": "import time; time.sleep(1.6); print(1)", "timeout": 2, "request_id": 1}
        assert server.http.post(path, json=cell | {"timeout": 0.7}).status_code == 504
        assert eventually(lambda: server.status()["running"] == 0)
        answer = server.post("/run_jupyter", {"cells": [cell["code"]], "total_timeout": 1})
        assert answer["status"] == "SandboxError" and "within 0.1 s" in answer["message"]


def test_the_status_says_how_long_an_answer_may_take(alone):
    limits = alone.status()["limits"]
    assert (limits["patience"], limits["grace"]) == (0.1, 30.0)
    assert limits["max_body"] == 16 << 20 and limits["fetch_files"] == 256


SLOW_FILES = (
    "import os, time; f = os.path.isfile; os.path.isfile = lambda p: time.sleep(0.3) or f(p)"
)


def test_a_notebooks_files_share_one_deadline():
    with Server("--workers", "1", change="service.cells.FILES_SECONDS = 1") as server:
        body = {"cells": [SLOW_FILES], "fetch_files": [f"a{n}" for n in range(10)]}
        late = server.http.post("/run_jupyter", json=body)
        assert late.status_code == 422 and "not fetched within 1 s" in late.json()["detail"]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["print('x' * 40_000)"] * 3, "printed more than 100000"),
        (["for n in 'ab': open(n, 'w').write(60_000 * n)"], "file 'b' is too long"),
    ],
)
def test_a_notebooks_answer_is_bounded(cells, words):
    with Server("--workers", "1", change="service.cells.MOST_BYTES = 100_000") as server:
        reply = server.http.post("/run_jupyter", json={"cells": cells, "fetch_files": ["a", "b"]})
        assert reply.status_code == 422 and words in reply.json()["detail"]
        assert eventually(lambda: server.status()["running"] == 0)


def test_bodies_are_bounded_together():
    with Server("--max-body-mb", "0.01", change="service.BODIES = 2") as server:
        whole = request("/run_code", {"code": "#" + "x" * 9000})
        socks = [server.socket() for _ in range(2)]
        for sock in socks:
            sock.sendall(whole[:-1])
        time.sleep(0.2)
        full = server.http.post("/run_code", json={"code": "#" + "x" * 9000})
        assert full.status_code == 503 and full.headers["retry-after"] == "1"
        assert server.run("1")["status"] == "Success"
        for sock in socks:
            sock.close()
        body = {"code": "#" + "x" * 9000}
        assert eventually(lambda: server.http.post("/run_code", json=body).status_code == 200)


@pytest.mark.parametrize("text", ["{},", '"",', '"a\\\\",', '"\\"",', "1,"])
def test_a_body_of_countless_values_is_refused_before_it_is_decoded(text):
    values = text * 200_000
    with pytest.raises(orders.BadRequest, match="more than 100000 values"):
        orders.decode(f'{{"x": [{values}0]}}'.encode())


@given(
    st.recursive(
        st.integers() | st.text(alphabet='a,"\\é\n[{', max_size=6),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    )
)
def test_commas_in_strings_are_no_values(value):
    def commas(value: object) -> int:
        if not isinstance(value, dict | list):
            return 0
        inner = value.values() if isinstance(value, dict) else value
        return max(0, len(value) - 1) + sum(map(commas, inner))

    assert orders._values(json.dumps(value).encode()) == commas(value)


def test_a_cell_too_long_for_a_frame_is_answered():
    with Server("--workers", "1", "--max-body-mb", "64") as server:
        path = f"/session/{server.post('/session', {})['session']}/run"
        body = json.dumps({"code": "#" + "é" * (12 << 20)}, ensure_ascii=False).encode()
        answer = server.http.post(path, content=body).json()
        assert answer["status"] == "SandboxError" and "frame" in answer["message"]


def test_large_code_and_files_are_no_countless_values(alone):
    code = "#" + '{"a": [1, 2]}, ' * 200_000 + "\nprint(open('f').read(1))"
    files = {"f": base64.b64encode(b"," * (1 << 20)).decode()}
    assert alone.run(code, files=files)["run_result"]["stdout"] == ",\n"
