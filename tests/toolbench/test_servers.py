"""Search and judge: real servers that fail, refuse and answer garbage; records; plain words."""

import contextlib
import http.server
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving import serving
from torl_jax.errors import UserError
from torl_jax.toolbench import judge, remote, search

ANSWER = {
    "answerBox": {"title": "Rocket", "answer": "Titan\n IIIE"},
    "organic": [{"title": f"t{i}", "snippet": f"s{i}"} for i in range(9)],
}


@contextlib.contextmanager
def answering(*replies):
    """A server that gives these (status, body) in turn, the last for ever; (URL, requests)."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["content-length"])
            seen.append((self.path, dict(self.headers), json.loads(self.rfile.read(length))))
            status, body = replies[min(len(seen), len(replies)) - 1]
            if status == 0:
                self.close_connection = True
                return
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if status in (302, 308):
                self.send_header("location", body)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *args):
            pass

    with serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}", seen


@pytest.fixture
def waits():
    return []


def test_a_search_server_is_asked_as_serper_is(monkeypatch, waits):
    monkeypatch.setenv(search.KEY, "secret")
    with answering((200, ANSWER)) as (url, seen):
        server = search.Server(f"{url}/search", waits.append)
        with contextlib.closing(server):
            found = server("first rocket")
    assert found == ["Rocket: Titan IIIE", "t0: s0", "t1: s1", "t2: s2", "t3: s3"]
    path, headers, body = seen[0]
    assert path == "/search" and body == {"q": "first rocket", "num": 15}
    assert {k.lower(): v for k, v in headers.items()}["x-api-key"] == "secret" and not waits


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({}, []),
        ({"organic": []}, []),
        ({"answerBox": {"snippet": "s"}}, ["s"]),
        ({"answerBox": None, "organic": [{"title": "t"}, {"link": "x"}, 3]}, ["t"]),
    ],
)
def test_entries_of_sparse_answers(answer, found):
    assert search.entries(answer) == found


def test_passing_trouble_is_tried_again(waits):
    replies = ((0, b""), (503, b"later"), (200, b"not json"), (200, ANSWER))
    with (
        answering(*replies) as (url, seen),
        contextlib.closing(search.Server(url, waits.append)) as server,
    ):
        assert len(server("q")) == 5
    assert len(seen) == remote.TRIES == 4 and waits == [1, 2, 3]


@pytest.mark.parametrize(
    ("status", "body", "asked", "why"),
    [
        (500, b"broken", 4, "status 500: broken"),
        (429, b"", 4, "status 429"),
        (200, [1], 4, "another shape"),
        (200, {"organic": 3}, 4, "another shape"),
        (400, b"odd query", 1, "status 400: odd query"),
    ],
)
def test_lasting_trouble_is_no_answer(waits, status, body, asked, why):
    with (
        answering((status, body)) as (url, seen),
        contextlib.closing(search.Server(url, waits.append)) as server,
        pytest.raises(remote.Unavailable, match=why),
    ):
        server("q")
    assert len(seen) == asked


def test_nobody_there_is_no_answer(waits):
    with answering((200, ANSWER)) as (url, _):
        pass
    with (
        contextlib.closing(search.Server(url, waits.append)) as server,
        pytest.raises(remote.Unavailable, match="ConnectError"),
    ):
        server("q")


@pytest.mark.parametrize("status", [302, 308])
def test_a_key_goes_to_nobody_but_the_server_that_was_named(monkeypatch, waits, status):
    monkeypatch.setenv(search.KEY, "secret")
    with (
        answering((200, ANSWER)) as (other, seen),
        answering((status, f"{other}/new")) as (url, _),
        contextlib.closing(search.Server(url, waits.append)) as server,
        pytest.raises(UserError, match=f"{url} has moved: name {other}/new instead"),
    ):
        server("q")
    assert not seen and not waits


@pytest.mark.parametrize("status", [401, 403, 404])
def test_who_refuses_us_is_the_users_to_mend(waits, status):
    with (
        answering((status, b"no\nkey")) as (url, seen),
        contextlib.closing(judge.Model(f"{url}/v1/", "m", waits.append)) as model,
        pytest.raises(UserError, match=rf"refuses us \({status}: no key\)"),
    ):
        model("q", "g", "a")
    assert len(seen) == 1


def chat(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_a_model_judges(monkeypatch, waits):
    monkeypatch.setenv(judge.KEY, "secret")
    replies = [
        (200, chat("Thought: the same.\nJudgment: Yes")),
        (200, chat("Thought: another one.\nJudgment: No")),
    ]
    with (
        answering(*replies) as (url, seen),
        contextlib.closing(judge.Model(f"{url}/v1/", "some-model", waits.append)) as model,
    ):
        assert model("Who?", "James Madison", "Madison") is True
        assert model("Who?", "James Madison", "Monroe") is False
    path, headers, body = seen[1]
    assert path == "/v1/chat/completions" and body["model"] == "some-model"
    assert body["temperature"] == 0
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == "Bearer secret"
    shown = body["messages"][-1]["content"]
    assert all(word in shown for word in ("Who?", "James Madison", "Monroe"))


@pytest.mark.parametrize("reply", [chat("I think so."), chat(None), {"choices": []}, {}, []])
def test_a_judge_without_a_judgment_has_failed(waits, reply):
    with (
        answering((200, reply)) as (url, _),
        contextlib.closing(judge.Model(url, "m", waits.append)) as model,
        pytest.raises(remote.Unavailable, match="another shape"),
    ):
        model("q", "g", "a")
    assert len(waits) == remote.TRIES - 1


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Judgment: Yes", True),
        ("Thought: No.\r\nJudgment: Yes \r\n", True),
        ("Judgement: Yes", True),
        ("Judgment: No\nJudgment: Yes", True),
        ("Judgment: yes", False),
        ("Judgment: Yes.", False),
        ("Judgment: No", False),
        ("Judgment:", False),
    ],
)
def test_right_is_yes_and_nothing_else(reply, right):
    assert judge.judgment(reply) is right


@given(st.text())
def test_any_reply_is_a_judgment_or_none(text):
    with contextlib.suppress(ValueError):
        assert judge.judgment(text) in (True, False)


def test_records(tmp_path):
    searches, verdicts = tmp_path / "s.json", tmp_path / "j.json"
    searches.write_text(json.dumps({"q": ANSWER}))
    said = [{"question": "q", "answer": "a", "judgment": "Yes"}]
    said += [{"question": "q", "answer": "b", "judgment": "No"}]
    verdicts.write_text(json.dumps(said))
    web, referee = search.of(str(searches)), judge.of(str(verdicts), "m")
    assert web("q")[0] == "Rocket: Titan IIIE"
    with pytest.raises(remote.Unavailable, match="no answer to the query 'Q'"):
        web("Q")
    assert referee("q", "g", "a") is True and referee("q", "g", "b") is False
    with pytest.raises(remote.Unavailable, match="no judgment of 'c'"):
        referee("q", "g", "c")


@pytest.mark.parametrize(
    ("make", "text", "message"),
    [
        (search.Record, "[]", "holds a list, not a dict"),
        (search.Record, "{", "is no JSON"),
        (search.Record, '{"q": {"organic": 1}}', "the answer to 'q' is no object"),
        (judge.Record, "{}", "holds a dict, not a list"),
        (judge.Record, '[{"question": "q"}]', "each entry has question, answer and judgment"),
    ],
)
def test_bad_records_are_named(tmp_path, make, text, message):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        make(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        make(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("url", ["http://", "http://[", "https:///search"])
def test_bad_addresses_are_named(url):
    with pytest.raises(UserError, match=r"no address|no host"):
        search.of(url)
    with pytest.raises(UserError, match=r"no address|no host"):
        judge.of(url, "m")


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("Titan IIIE", "It was the titan iiie.", True),
        ("the Beatles", "Beatles", True),
        ("1999", "In 1999", True),
        ("1999", "19990", False),
        ("James Madison", "Madison, James", False),
        ("", "anything", False),
        ("x", "", False),
    ],
)
def test_plain_words_judge(gold, answer, right):
    assert judge.of("exact", "m")("q", gold, answer) is right
