"""RemoteSandbox with real servers, and with scripted ones for the failures that ours never has."""

import collections
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from sandbox import Busy, SandboxError, balance, endpoint
from sandbox.breaker import Breaker
from sandbox.client import RemoteSandbox
from tests.sandbox.processes import eventually
from tests.sandbox.servers import Answer, Body, Server, free_port, scripted

FINISHED = {"status": "Finished", "execution_time": 0.1, "return_code": 0, "stdout": "hi"}
SUCCESS = {"status": "Success", "message": "", "run_result": FINISHED}


def remote(*endpoints: str, **options: Any) -> RemoteSandbox:
    return RemoteSandbox(endpoints, **{"min_level": "rlimits", "patience": 30.0, **options})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def box(server: Server) -> Iterator[RemoteSandbox]:
    with remote(server.url) as box:
        yield box


def counted(
    *answers: tuple[int, Body | str], after: int | None = None
) -> tuple[collections.Counter[str], Callable[[str, Body], Answer]]:
    """The paths asked for, and an endpoint that gives these answers, the last for ever."""
    asked: collections.Counter[str] = collections.Counter()

    def answer(path: str, body: Body) -> Answer:
        asked[path] += 1
        return *answers[min(asked.total(), len(answers)) - 1], after

    return asked, answer


def test_a_result_has_all_that_a_local_one_has(box):
    code = "import sys; print(input()); print(open('a').read(), file=sys.stderr); open('b', 'w')"
    result = box.run(code, stdin="in\n", files={"a": b"\x66\x6f"}, fetch=("b", "none"))
    assert (result.status, result.exit_code) == ("ok", 0)
    assert (result.stdout, result.stderr) == ("in\n", "fo\n")
    assert dict(result.files) == {"b": b""}
    assert result.seconds > 0 and result.cpu_seconds > 0 and result.level == box.level
    assert box.run("print('x' * 200_000)").truncated_bytes > 100_000


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("raise SystemExit(3)", "error", 3),
        ("while True: pass", "timeout", -9),
        ("x = bytearray(1 << 40)", "memory", 1),
        ("import os; os.abort()", "killed", -6),
    ],
)
def test_a_programs_own_end_is_a_result(box, code, status, exit_code):
    result = box.run(code, timeout=0.5)
    assert result.status == status
    assert result.exit_code == exit_code or status == "timeout"


def test_the_seed_arrives(box):
    code = "import random; print(random.random())"
    first, second, other = (box.run(code, seed=seed).stdout for seed in (3, 3, 4))
    assert first == second != other


def test_the_report_is_the_servers(box, server):
    report = server.status()["report"]
    assert (box.level, box.report["protections"]) == (report["level"], report["protections"])
    assert box.why == report["why"] and box.report["endpoints"][server.url] == report
    assert box.load == (0, 0)


def test_many_jobs_at_once_get_their_own_answers(box):
    answers = [box.submit(f"print({n})") for n in range(60)]
    assert [answer.result().stdout for answer in answers] == [f"{n}\n" for n in range(60)]


def test_a_session_lasts_and_is_told_to_end(box, server):
    with box.session(echo=True) as session:
        session.run("x = 20")
        cells = [session.submit("x += 1; x"), session.submit("x += 1\nx")]
        assert [cell.result().stdout for cell in cells] == ["21\n", "22\n"]
        assert session.run("x = 0\nwhile True: pass", timeout=0.3).status == "timeout"
        assert session.run("x").stdout == "22\n"
        assert server.status()["sessions"] == 1
        with pytest.raises(SandboxError, match="at most 5"):
            session.run("x", timeout=6.0)
    assert eventually(lambda: server.status()["sessions"] == 0)
    with pytest.raises(SandboxError, match="session is closed"):
        session.run("x")


def test_sessions_left_open_end_with_the_client(server):
    with remote(server.url) as box:
        box.session().run("1")
        assert server.status()["sessions"] == 1
    assert eventually(lambda: server.status()["sessions"] == 0)


def test_a_full_server_is_waited_for():
    with (
        Server("--workers", "1", "--queue", "1") as server,
        remote(server.url) as one,
        remote(server.url) as two,
    ):
        code = "import time; time.sleep(0.05)"
        answers = [box.submit(code) for _ in range(10) for box in (one, two)]
        assert {answer.result().status for answer in answers} == {"ok"}
        assert server.metric('sandbox_refused_total{code="503"}') > 0


def test_a_dead_endpoint_among_two_costs_no_job(server):
    dead = f"http://127.0.0.1:{free_port()}"
    with remote(dead, server.url) as box:
        answers = [box.submit(f"print({n})") for n in range(40)]
        assert [answer.result().stdout for answer in answers] == [f"{n}\n" for n in range(40)]
        assert "ConnectError" in box.why and dead in box.why


def test_an_endpoint_killed_while_it_works_costs_no_job(server):
    with Server() as victim, remote(victim.url, server.url, timeout=20.0) as box:
        assert box.level
        code = "import time; time.sleep(0.2); print({})"
        answers = [box.submit(code.format(n)) for n in range(12)]
        assert eventually(lambda: victim.status()["running"] > 0)
        victim.end(signal.SIGKILL)
        assert [answer.result().stdout for answer in answers] == [f"{n}\n" for n in range(12)]


def test_a_server_that_is_replaced_is_found_again_and_sessions_with_it_are_lost():
    with Server() as server, remote(server.url) as box:
        session = box.session()
        assert session.run("x = 1").status == "ok"
        assert server.end(signal.SIGTERM) == 0
        answer = box.submit("print(7)")
        with Server(port=server.port):
            assert answer.result().stdout == "7\n"
            with pytest.raises(SandboxError, match="no such session"):
                session.run("x")


def test_a_token_is_shown_and_a_wrong_one_is_said_to_be():
    with Server(token="a-token-of-some-length") as server:
        with remote(server.url, token="a-token-of-some-length") as box:
            assert box.run("print(1)").stdout == "1\n"
        with remote(server.url, token="another-of-some-length") as box:
            with pytest.raises(SandboxError, match=r"401.*token is missing or wrong"):
                box.run("print(1)")
            with pytest.raises(SandboxError, match=r"401.*token is missing or wrong"):
                print(box.level)


def test_a_level_below_the_one_wanted_is_refused():
    with Server("--max-level", "rlimits") as server, remote(server.url) as box:
        assert (box.run("print(1)").level, box.level) == ("rlimits", "rlimits")
        words = "has level rlimits, restricted wanted; to accept less, pass min_level='rlimits'"
        with remote(server.url, min_level="restricted") as strict:
            for use in (lambda: strict.run("print(1)"), lambda: strict.level):
                with pytest.raises(SandboxError, match=words):
                    use()


def test_fusion_is_used_only_by_name_and_has_no_sessions():
    asked, answer = counted((200, SUCCESS))
    with scripted(answer) as url:
        with remote(url) as box, pytest.raises(SandboxError, match=r"tells no level.*'unknown'"):
            box.run("print('hi')")
        assert not asked
        with remote(url, min_level="unknown") as box:
            result = box.run("print('hi')")
            assert (result.status, result.stdout, result.level) == ("ok", "hi", "unknown")
        with remote(f"{url}/run_code", min_level="unknown") as box:  # as verl is told where to ask
            assert box.run("print('hi')").status == "ok"
            assert box.level == "unknown"
            with pytest.raises(SandboxError, match="SandboxFusion keeps no sessions"):
                box.session().run("1")


@pytest.mark.parametrize(
    ("fields", "status", "exit_code"),
    [
        ({"status": "TimeLimitExceeded", "return_code": None}, "timeout", -9),
        ({"return_code": 2}, "error", 2),
        ({"return_code": 1, "stderr": "Traceback...\nMemoryError\n"}, "memory", 1),
        ({"return_code": -11}, "killed", -11),
    ],
)
def test_a_programs_failure_at_fusion_is_a_result_and_not_tried_again(fields, status, exit_code):
    asked, answer = counted((200, SUCCESS | {"status": "Failed", "run_result": FINISHED | fields}))
    with scripted(answer) as url, remote(url, min_level="unknown") as box:
        result = box.run("1")
        assert (result.status, result.exit_code) == (status, exit_code)
        assert asked == {"/run_code": 1}


@pytest.mark.parametrize(
    "failure",
    [
        (200, {"status": "SandboxError", "message": "no\nkernel"}),
        (500, {"detail": "oops"}),
        (503, "no retry-after, so it is a proxy without a server behind it"),
        (200, "not an object"),
        (200, {"status": "Success"}),
    ],
)
def test_an_endpoints_failure_is_tried_again_and_then_an_error(failure, monkeypatch):
    monkeypatch.setattr(balance, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(endpoint, "Breaker", partial(Breaker, rest=0.01))
    asked, answer = counted(failure, failure, (200, SUCCESS))
    with scripted(answer) as url, remote(url, min_level="unknown") as box:
        assert box.run("1").stdout == "hi"
        assert asked == {"/run_code": 3}
    asked, answer = counted(failure)
    with scripted(answer) as url, remote(url, min_level="unknown") as box:
        with pytest.raises(SandboxError, match="4 attempts failed") as caught:
            box.run("1")
        assert asked == {"/run_code": 4} and "\n" not in str(caught.value)


def test_an_endpoint_that_asks_for_patience_is_given_it():
    busy = [(code, {}) for code in (503, 504, 429, 503, 503, 503)]
    asked, answer = counted(*busy, (200, SUCCESS), after=0)
    with scripted(answer) as url, remote(url, min_level="unknown") as box:
        assert box.run("1").stdout == "hi"  # more often than an endpoint may fail
        assert asked == {"/run_code": 7}


def test_a_level_that_changes_is_noticed_with_the_next_answer():
    ours = {"status": "ok", "exit_code": 0, "cpu_seconds": 0.1, "truncated_bytes": 0, "level": "no"}
    _, answer = counted((200, SUCCESS | {"sandbox": ours}))
    with (
        scripted(answer) as url,
        remote(url, min_level="unknown") as box,
        pytest.raises(SandboxError, match="has level 'no', which this client does not know"),
    ):
        box.run("1")


def test_the_next_attempt_goes_elsewhere(monkeypatch):
    held = threading.Event()
    arrived: list[Body] = []

    def slow(path: str, body: Body) -> Answer:
        if body["code"] == "slow":
            arrived.append(body)
            held.wait(30)
        return 200, SUCCESS, None

    monkeypatch.setattr(endpoint, "Breaker", partial(Breaker, failures=100))
    asked, answer = counted((500, {}))
    with (
        scripted(answer) as bad,
        scripted(slow) as good,
        remote(good, bad, min_level="unknown") as box,
    ):
        assert box.level == "unknown"  # both have been looked at
        jobs = [box.submit("slow") for _ in range(2)]  # both end up at the good one
        assert eventually(lambda: len(arrived) == 2)
        before = asked.total()
        assert box.run("1").stdout == "hi"  # the bad one has less to do, and is asked once
        assert asked.total() == before + 1
        held.set()
        assert [job.result().stdout for job in jobs] == ["hi", "hi"]


def test_what_is_wrong_with_the_request_is_not_tried_again():
    asked, answer = counted((422, {"detail": "no"}))
    with scripted(answer) as url, remote(url, min_level="unknown") as box:
        with pytest.raises(SandboxError, match="answered 422"):
            box.run("1")
        assert asked == {"/run_code": 1}


def test_an_endpoint_that_fails_is_left_alone_and_comes_back():
    asked: list[float] = []

    def answer(path: str, body: Body) -> Answer:
        asked.append(time.monotonic())
        return (500, {}, None) if len(asked) <= 3 else (200, SUCCESS, None)

    with scripted(answer) as url, remote(url, min_level="unknown", places=1) as box:
        jobs = [box.submit("1") for _ in range(6)]
        assert [job.result().stdout for job in jobs] == ["hi"] * 6
        # Three in a row opened the breaker: it rested for a second, then one job went ahead.
        assert len(asked) == 9 and asked[3] - asked[2] > 0.95


def test_nobody_there_is_an_error_after_the_patience():
    dead = f"http://127.0.0.1:{free_port()}"
    with remote(dead, patience=0.5) as box:
        with pytest.raises(SandboxError, match=r"no endpoint was of use.*ConnectError"):
            box.run("1")
        with pytest.raises(SandboxError, match="no endpoint was of use"):
            box.session().run("1")
        with pytest.raises(SandboxError, match="no endpoint was of use"):
            print(box.why)


def test_another_server_at_the_address_is_not_taken_for_one():
    with (
        scripted(lambda path, body: (200, {}, None)) as url,
        remote(f"{url}/elsewhere") as box,
        pytest.raises(SandboxError, match="elsewhere/v1/ping answered 404"),
    ):
        box.run("1")


def test_close_answers_what_is_left_and_no_more_is_taken(server):
    box = remote(server.url, queue=4)
    answers = [box.submit("import time; time.sleep(60)", timeout=1.0) for _ in range(4)]
    with pytest.raises(Busy, match="4 jobs are unanswered"):
        box.submit("1")
    before = threading.active_count()
    box.close()
    for answer in answers:
        assert isinstance(answer.exception(timeout=5), SandboxError)
    assert threading.active_count() < before
    for use in (lambda: box.run("1"), lambda: box.level, lambda: box.session().run("1")):
        with pytest.raises(SandboxError, match="closed"):
            use()
    box.close()


@pytest.mark.parametrize(
    ("endpoints", "options"),
    [
        ([], {}),
        ("no address", {}),
        ("ftp://host", {}),
        (["http://a", "http://a"], {}),
        ("http://a", {"min_level": "most"}),
        ("http://a", {"timeout": 0}),
        ("http://a", {"timeout": float("nan")}),
    ],
)
def test_wrong_options_are_refused(endpoints, options):
    with pytest.raises(SandboxError, match=r"expected|twice"):
        RemoteSandbox(endpoints, **options)
