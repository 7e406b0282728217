"""The HTTP server as a process of its own, from its first line to its exit status."""

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.sandbox.processes import all_gone, descendants, eventually
from tests.sandbox.servers import ROOT, Server

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def refused(*flags: str, code: str = "") -> str:
    """The one line with which the command refuses to start."""
    command = ["-c", code] if code else ["-m", "sandbox"]
    done = subprocess.run(
        [sys.executable, *command, "serve", "--preload", "", "--min-level", "rlimits", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    return done.stderr


def test_the_first_line_says_what_is_served(server):
    assert server.line.startswith("sandbox: http://127.0.0.1:")
    assert "2 workers, level " in server.line and server.line.endswith("no token\n")
    assert server.http.get("/v1/ping").text == '"pong"'


def test_a_program_is_answered_as_fusion_does(server):
    code = "import sys; print(input()); print(open('d/in').read()); open('out', 'w').write('x')"
    answer = server.run(
        code,
        stdin="typed\n",
        files={"d/in": base64.b64encode(b"given").decode(), "not": None},
        fetch_files=["./out", "none"],
        request_id="7f",
    )
    run = answer["run_result"]
    assert (answer["status"], answer["message"], answer["compile_result"]) == ("Success", "", None)
    assert (run["status"], run["return_code"], run["stderr"]) == ("Finished", 0, "")
    assert run["stdout"] == "typed\ngiven\n" and run["execution_time"] > 0
    assert answer["files"] == {"./out": base64.b64encode(b"x").decode()}
    assert answer["request_id"] == "7f" and answer["executor_pod_name"] is None
    assert answer["sandbox"]["status"] == "ok" and answer["sandbox"]["memory_mb"] == 512


@pytest.mark.parametrize(
    ("code", "inner", "return_code", "status"),
    [
        ("print(1); raise SystemExit(3)", "Finished", 3, "error"),
        ("print(1, flush=True)\nwhile True: pass", "TimeLimitExceeded", None, "timeout"),
        ("print(1); x = bytearray(1 << 40)", "Finished", 1, "memory"),
        ("import os; print(1, flush=True); os.abort()", "Finished", -6, "killed"),
    ],
)
def test_every_end_of_a_program_has_its_shape(server, code, inner, return_code, status):
    answer = server.run(code, run_timeout=0.5)
    run = answer["run_result"]
    assert (answer["status"], run["status"], run["return_code"]) == ("Failed", inner, return_code)
    assert run["stdout"] == "1\n" and answer["sandbox"]["status"] == status
    assert bool(answer["message"]) == (status in ("memory", "killed"))


def test_the_same_program_with_the_same_seed_prints_the_same(server):
    code = "import random; print(random.random())"
    first, second, other = (server.run(code, seed=seed)["run_result"] for seed in (1, 1, 2))
    assert first["stdout"] == second["stdout"] != other["stdout"]


def test_a_notebook_keeps_its_state_shows_values_and_goes_on_after_errors(server):
    cells = ["a = 20", "a + 1", "print(a)\n'x'", "import sys; sys.stderr.write('s'); 1 / 0", "a"]
    answer = server.post("/run_jupyter", {"cells": cells, "request_id": 5})
    assert (answer["status"], answer["driver"]["status"]) == ("Success", "Finished")
    assert [cell["display"] for cell in answer["cells"]] == [
        [],
        [{"text/plain": "21"}],
        [{"text/plain": "'x'"}],
        [],
        [{"text/plain": "20"}],
    ]
    assert answer["cells"][2]["stdout"] == "20\n" and answer["cells"][3]["stderr"][0] == "s"
    (error,) = answer["cells"][3]["error"]
    assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
    assert answer["request_id"] == 5


def test_a_notebooks_time_outs_are_real(server):
    cells = ["a = 1", "a = 2\nprint(a, flush=True)\nwhile True: pass", "a"]
    answer = server.post("/run_jupyter", {"cells": cells, "cell_timeout": 0.3})
    assert (answer["status"], answer["driver"]["status"]) == ("Failed", "TimeLimitExceeded")
    assert answer["cells"][1]["stdout"] == "2\n"
    assert answer["cells"][1]["error"][0]["ename"] == "TimeLimitExceeded"
    assert answer["cells"][2]["display"] == [{"text/plain": "1"}]  # the state before it was killed
    late = server.post("/run_jupyter", {"cells": ["while True: pass", "1"], "total_timeout": 0.3})
    assert late["driver"]["status"] == "TimeLimitExceeded" and len(late["cells"]) == 1


def test_a_notebooks_files_are_put_in_and_fetched(server):
    size = 100_000
    answer = server.post(
        "/run_jupyter",
        {
            "cells": ["data = open('d/in', 'rb').read()", "open('out', 'wb').write(data * 10)"],
            "files": {"d/in": base64.b64encode(bytes(size // 10)).decode()},
            "fetch_files": ["out", "none", "d"],
        },
    )
    assert answer["status"] == "Success"
    assert {name: len(base64.b64decode(data)) for name, data in answer["files"].items()} == {
        "out": size
    }


def test_a_session_lasts_until_it_is_deleted(server):
    key = server.post("/session", {"echo": True})["session"]
    path = f"/session/{key}/run"
    assert server.post(path, {"code": "x = 20"})["run_result"]["stdout"] == ""
    assert server.post(path, {"code": "x + 1"})["run_result"]["stdout"] == "21\n"
    late = server.post(path, {"code": "x = 0\nwhile True: pass", "timeout": 0.3})
    assert late["run_result"]["status"] == "TimeLimitExceeded"
    assert server.post(path, {"code": "x"})["run_result"]["stdout"] == "20\n"
    assert server.http.delete(f"/session/{key}").status_code == 200
    gone = server.http.post(path, json={"code": "x"})
    assert gone.status_code == 404 and "no such session" in gone.json()["detail"]


def test_a_cell_asked_for_twice_with_one_id_runs_once(server):
    path = f"/session/{server.post('/session', {})['session']}/run"
    server.post(path, {"code": "n = 0"})
    cell = {"code": "n += 1; import time; time.sleep(0.3); print(n)", "request_id": "one"}
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: server.post(path, cell), range(2)))
    both.append(server.post(path, cell))
    assert [answer["run_result"]["stdout"] for answer in both] == ["1\n"] * 3
    assert server.post(path, cell | {"request_id": "two"})["run_result"]["stdout"] == "2\n"


def test_sessions_are_bounded_and_expire():
    with Server("--sessions", "1", "--idle", "1") as server:
        key = server.post("/session", {})["session"]
        full = server.http.post("/session", json={})
        assert full.status_code == 503 and full.headers["retry-after"] == "1"
        # In use it does not expire, idle it does.
        for seconds in (0.6, 0.6, 1.5):
            server.post(f"/session/{key}/run", {"code": f"import time; time.sleep({seconds})"})
        count = len(descendants(server.process.pid))
        assert eventually(lambda: server.status()["sessions"] == 0)
        assert eventually(lambda: len(descendants(server.process.pid)) < count)
        assert server.http.post(f"/session/{key}/run", json={"code": "1"}).status_code == 404
        server.post("/session", {})


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (
            "/run_code",
            {"code": "1", "language": "cpp"},
            422,
            "language is 'cpp', expected 'python'",
        ),
        ("/run_code", {}, 422, "code is missing, expected a string"),
        ("/run_code", {"code": "1", "run_timeout": 1e4}, 422, "more than 0 and at most 120"),
        (
            "/run_code",
            {"code": "1", "files": {"../x": ""}},
            422,
            "not inside the working directory",
        ),
        ("/run_code", {"code": "1", "files": {"x": "?"}}, 422, "not base64"),
        ("/run_code", {"code": "1", "files": {"x": "", "./x": ""}}, 422, "two names for 'x'"),
        ("/run_code", {"code": "1", "fetch_files": ["x", ".//x"]}, 422, "two names for one file"),
        ("/run_jupyter", {"cells": [], "fetch_files": ["x", "y/../x"]}, 422, "two names"),
        ("/run_code", {"code": "1", "fetch_files": ["x"] * 257}, 422, "expected at most 256"),
        ("/run_code", {"code": "1", "request_id": "x" * 257}, 422, "at most 256 characters"),
        ("/run_code", {"code": "1", "x": [{}] * 100_002}, 400, "more than 100000 values"),
        ("/run_code", {"code": "1", "memory_limit_MB": "much"}, 422, "memory_limit_MB is 'much'"),
        ("/run_jupyter", {"cells": "1"}, 422, "expected a list of strings"),
        ("/run_jupyter", {"cells": ["1"], "kernel": "ir"}, 422, "expected 'python3'"),
        ("/session/none/run", {"code": "1"}, 404, "no such session"),
        ("/nowhere", {}, 404, "POST /nowhere: Not Found"),
        ("/v1/ping", {}, 405, "POST /v1/ping: Method Not Allowed"),
    ],
)
def test_a_wrong_request_is_one_line(server, path, body, status, words):
    reply = server.http.post(path, json=body)
    assert reply.status_code == status
    assert words in reply.json()["detail"] and "\n" not in reply.json()["detail"]


def test_a_memory_limit_above_ours_is_bounded_and_the_answer_says_so(server):
    answer = server.run("x = bytearray(700 << 20)", memory_limit_MB=1024)
    assert answer["sandbox"]["status"] == "memory" and answer["sandbox"]["memory_mb"] == 512


def test_web_pages_are_turned_away(server):
    reply = server.http.post(
        "/run_code", json={"code": "1"}, headers={"origin": "http://127.0.0.1:8080"}
    )
    assert reply.status_code == 403


def test_a_token_is_asked_for(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with Server("--host", "0.0.0.0", "--token-file", str(file)) as server:
        assert server.line.endswith("token required\n")
        url = f"http://127.0.0.1:{server.port}"
        for value in ("", "Bearer", f"Bearer {TOKEN}x", TOKEN, f"Bearer {TOKEN[:-1]}", "\xff"):
            headers = [(b"authorization", value.encode("latin-1"))] if value else []
            reply = httpx2.post(f"{url}/run_code", json={"code": "1"}, headers=headers)
            assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
            assert httpx2.get(f"{url}/metrics", headers=headers).status_code == 401
        assert httpx2.get(f"{url}/v1/ping").status_code == 200
        known = {"authorization": f"bearer {TOKEN}"}  # schemes have no case
        reply = httpx2.post(f"{url}/run_code", json={"code": "print(1)"}, headers=known)
        assert reply.json()["status"] == "Success"


def test_what_cannot_be_served_is_one_line(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SANDBOX_TOKEN", raising=False)
    assert "put a token into" in refused("--host", "0.0.0.0")
    assert "Address already in use" in refused("--port", str(server.port))
    (tmp_path / "short").write_text("abc")
    assert "expected at least 16" in refused("--token-file", str(tmp_path / "short"))
    assert "No such file" in refused("--token-file", str(tmp_path / "none"))
    for flag, value, least, most in (
        ("--port", "99999", "0", "65535"),
        ("--workers", "0", "1", "4096"),
        ("--max-timeout", "nan", "0.001", "86400"),
        ("--max-timeout", "-1", "0.001", "86400"),
        ("--max-body-mb", "inf", "0.001", "64"),
        ("--queue", "-5", "0", "1e+06"),
        ("--sessions", "257", "0", "256"),
        ("--idle", "inf", "0.001", "1e+06"),
    ):
        assert f"{flag} is {value}, expected {least} to {most}" in refused(flag, value)
    absent = "import sys; sys.modules['uvicorn'] = None; from sandbox import __main__ as m; "
    assert "pip install" in refused(code=absent + "sys.exit(m.main())")


def test_a_full_queue_is_503_and_a_long_wait_504():
    with Server("--workers", "1", "--queue", "1", change="service.PATIENCE = 0.1") as server:
        with ThreadPoolExecutor(8) as threads:
            slow = threads.submit(server.run, "import time; time.sleep(2)")
            assert eventually(lambda: server.status()["running"] == 1)
            short = threads.submit(
                server.http.post, "/run_code", json={"code": "1", "compile_timeout": 0.7}
            )
            assert eventually(lambda: server.status()["waiting"] == 1)
            full = server.http.post("/run_code", json={"code": "1"})
            assert full.status_code == 503 and full.headers["retry-after"] == "1"
            assert short.result().status_code == 504
            assert slow.result()["status"] == "Success"
        assert server.metric('sandbox_refused_total{code="503"}') == 1
        assert server.run("print(1)")["status"] == "Success"


def test_callers_who_hang_up_leave_no_job_behind():
    with Server("--workers", "1") as server:
        body = json.dumps({"code": "import time; time.sleep(60)", "run_timeout": 1.0}).encode()
        head = f"POST /run_code HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        socks = [server.socket() for _ in range(6)]
        for sock in socks:
            sock.sendall(head.encode() + body)
        assert eventually(lambda: server.status()["waiting"] == 5)
        for sock in socks:
            sock.close()
        assert eventually(lambda: server.status()["waiting"] == 0)
        assert server.run("print(1)")["run_result"]["stdout"] == "1\n"
        # A place is free a moment after its program's answer.
        assert eventually(lambda: server.status()["running"] == 0)
        assert server.status()["waiting"] == 0
        assert server.metric('sandbox_runs_total{status="timeout"}') == 1
        assert "sandbox_refused_total{" not in server.http.get("/metrics").text


def test_sigterm_answers_what_runs_and_turns_away_the_rest():
    with Server("--workers", "1") as server, ThreadPoolExecutor(4) as threads:
        running = threads.submit(server.run, "import time; time.sleep(1); print(1)")
        assert eventually(lambda: server.status()["running"] == 1)
        waiting = threads.submit(server.http.post, "/run_code", json={"code": "1"})
        assert eventually(lambda: server.status()["waiting"] == 1)
        family = descendants(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        assert waiting.result().status_code == 503
        assert server.http.get("/v1/ping").status_code == 503
        assert running.result()["run_result"]["stdout"] == "1\n"
        assert server.end() == 0
        assert family and all_gone(family)


def test_a_second_signal_ends_at_once():
    with Server("--workers", "1") as server, ThreadPoolExecutor(1) as threads:
        code = "import time; time.sleep(60)"
        caller = threads.submit(server.run, code, run_timeout=60)
        assert eventually(lambda: server.status()["running"] == 1)
        family = descendants(server.process.pid)
        started = time.monotonic()
        assert server.end(signal.SIGINT, signal.SIGTERM) == 1
        assert time.monotonic() - started < 30  # the program would have taken 60 s
        # The caller is told, or sees the connection close: an answer it is not.
        error = caller.exception()
        assert isinstance(error, httpx2.TransportError) or (
            error is None and caller.result()["status"] == "SandboxError"
        )
        assert family and all_gone(family)


def test_answers_do_not_wait_for_acknowledgements(server):
    # Two small writes and a delayed acknowledgement would cost 40 ms each time, but the first ones.
    times = []
    for _ in range(60):
        started = time.monotonic()
        server.http.get("/v1/ping")
        times.append(time.monotonic() - started)
    assert min(times[40:]) < 0.03


def test_metrics_count_what_happened():
    with Server() as server:
        for code in ("1", "1", "1 / 0"):
            server.run(code)
        server.http.post("/run_code", json={})
        assert server.metric('sandbox_runs_total{status="ok"}') == 2
        assert server.metric('sandbox_runs_total{status="error"}') == 1
        assert server.metric("sandbox_run_seconds_count") == 3
        assert server.metric('sandbox_refused_total{code="422"}') == 1
        assert server.metric("sandbox_errors_total") == 0
        level = server.status()["report"]["level"]
        assert server.metric(f'sandbox_level{{level="{level}"}}') == 1
