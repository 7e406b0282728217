"""The real server, asked by the official `openai` client."""

import contextlib
import dataclasses
import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from configs import quickstart
from sandbox import Sandbox, SandboxError
from tests.serving_openai.server import MODEL, NAMED, ROOT, TINY, Server, ask, plain, streamed
from tests.tools import sample
from torl_jax import config
from torl_jax.errors import UserError
from torl_jax.model import hf
from torl_jax.protocols.toolrl import ToolRL
from torl_jax.serve import adapted, hands
from torl_jax.serving.server import Address


@pytest.fixture(scope="module")
def no_programs():
    """Why no program runs here; "" where they do."""
    try:
        with Sandbox(workers=1, min_level="rlimits", preload=()) as box:
            return "" if box.level else "no level"
    except SandboxError as error:
        return str(error)


@pytest.fixture
def sandboxed(no_programs):
    if no_programs:
        pytest.skip(f"no sandbox on this machine: {no_programs}")


@pytest.fixture(scope="module")
def server(cache, no_programs):
    flags = ("--sandbox_level=off",) if no_programs else ()
    with Server(*NAMED, *flags, cache=cache) as server:
        yield server
        code, err = server.end()
        assert (code, err) == (0, "")


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def test_the_model_is_listed(client, server, no_programs):
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len) == (MODEL, 128)
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="only 'tiny' is"):
        client.models.retrieve("another/one")
    health = server.get("/health").json()
    assert health["status"] == "ok" and health["slots"] == 4
    assert health["executes_tools"] == (not no_programs)
    assert ", model tiny, markup torl, 4 slots of 128 tokens, " in server.line
    assert f"sandbox level: {health['sandbox_level']}" in server.line


def test_a_chat(client):
    answer = ask(client, "What is 3+4?", temperature=0)
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and "boxed{7}" in choice.message.content
    assert choice.finish_reason == "stop"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens < 40 and answer.model == MODEL


def test_plain_completions_of_several_prompts(client):
    prompts = [f"User: What is {q}?\nAssistant:\n" for q in ("3+4", "12+25")]
    whole = plain(client, prompts, n=2, temperature=0, max_tokens=40)
    assert [c.index for c in whole.choices] == [0, 1, 2, 3]
    texts = [c.text for c in whole.choices]
    assert texts[0] == texts[1] and "{7}" in texts[0] and "{37}" in texts[2]
    assert whole.usage.prompt_tokens == sum(
        plain(client, prompt, max_tokens=1).usage.prompt_tokens for prompt in prompts
    )
    short = plain(client, max_tokens=3, temperature=0)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3
    assert texts[2].startswith(short.choices[0].text)


@pytest.mark.parametrize("stop", [None, ["9}", "ti"], ["\\boxed"]])
@pytest.mark.parametrize("call", [ask, plain])
def test_a_stream_says_the_same(client, call, stop):
    fields = {"n": 3, "seed": 12, "max_tokens": 40} | ({"stop": stop} if stop else {})
    whole = call(client, **fields)
    stream = call(client, **fields, stream=True, stream_options={"include_usage": True})
    texts, reasons, usage = streamed(stream)
    for choice in whole.choices:
        said = choice.message.content if call is ask else choice.text
        assert "".join(texts[choice.index]) == said
        assert reasons[choice.index] == (choice.finish_reason, choice.stop_reason)
        assert not any(s in said for s in stop or ())
    assert usage == whole.usage
    assert max(map(len, texts.values())) > 4 or stop


def test_samples_differ_and_a_seed_repeats_them(client):
    many = [[c.message.content for c in ask(client, n=6, seed=s).choices] for s in (1, 1, 2)]
    assert many[0] == many[1] != many[2] and len(set(many[0])) > 1
    # The first samples are the same, however many are asked for.
    assert [c.message.content for c in ask(client, n=2, seed=1).choices] == many[0][:2]
    unseeded = [ask(client, temperature=1.5).choices[0].message.content for _ in range(6)]
    assert len(set(unseeded)) > 1


def test_a_seed_says_the_same_under_load(client):
    fields = {"seed": 7, "n": 3, "temperature": 0.9, "top_p": 0.9, "extra_body": {"top_k": 20}}
    alone = [c.message.content for c in ask(client, **fields).choices]
    done = threading.Event()

    def noise(i):
        while not done.is_set():
            ask(client, f"What is {i}+{i}?", n=2, temperature=2.0 * (i % 2), top_p=0.5)

    with ThreadPoolExecutor(3) as pool:
        noises = [pool.submit(noise, i) for i in range(3)]
        try:
            for _ in range(5):
                assert [c.message.content for c in ask(client, **fields).choices] == alone
        finally:
            done.set()
        for each in noises:
            each.result()


def test_thirty_at_once_over_four_slots(client):
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda i: ask(client, f"What is {i}+2?", temperature=0), range(30)))
    alone = ask(client, "What is 7+2?", temperature=0)
    assert answers[7].choices[0].message.content == alone.choices[0].message.content
    right = [f"{{{i + 2}}}" in a.choices[0].message.content for i, a in enumerate(answers)]
    assert sum(right) > 15  # it was pretrained on two-digit sums


def test_programs_run_where_they_are_asked_for(client, sandboxed):
    asked = {"n": 16, "seed": 3}
    executed = ask(client, **asked, extra_body={"execute_tools": True}).choices
    ran = [c for c in executed if "```output\n9807\n```\n" in c.message.content]
    assert ran and any("\\boxed{9807}" in c.message.content for c in ran)
    # Without, the turn ends where the output would stand, and says so.
    bare = ask(client, **asked).choices
    for with_tool, without in zip(executed, bare, strict=True):
        before, called, _ = with_tool.message.content.partition("```output")
        assert without.message.content == before
        assert without.stop_reason == ("```output" if called else None)
    stream = ask(client, **asked, extra_body={"execute_tools": True}, stream=True)
    texts, _, _ = streamed(stream)
    assert ["".join(texts[c.index]) for c in executed] == [c.message.content for c in executed]


def test_plain_completions_run_programs_too(client, sandboxed):
    prompt = "User: What is 6*7?\nAssistant:\n```python\nprint(6*7)\n```\n```"
    asked = {"temperature": 0, "max_tokens": 60}
    # The block stands in the prompt, which is not the policy's: nothing to run.
    assert plain(client, prompt, **asked).choices[0].text.startswith("output\n")
    found = plain(
        client, n=16, seed=3, prompt="User: What is 347*28+91?\nAssistant:\n", max_tokens=60,
        extra_body={"execute_tools": True},
    )  # fmt: skip
    assert any("```output\n9807\n```\n" in choice.text for choice in found.choices)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"max_tokens": 1000}, r"the context is 128 tokens; the prompt has \d+ and max_tokens is"),
        ({"messages": [{"role": "user", "content": "1+" * 90}]}, "the answer needs 1 more"),
        ({"messages": [{"role": "system", "content": "x"}]}, "single questions"),
        ({"logprobs": True}, "does not offer"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "does not call tools"),
        ({"temperature": 3}, "expected a number from 0 to 2"),
        ({"what": 3}, "unknown field 'what'"),
    ],
)
def test_bad_requests(client, more, words):
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        ask(client, extra_body=more)
    assert caught.value.type == "invalid_request_error" and caught.value.param


def test_other_refusals(client, server):
    with pytest.raises(openai.NotFoundError, match="'gpt-4' is not served here") as caught:
        client.completions.create(model="gpt-4", prompt="x")
    assert caught.value.code == "model_not_found"

    def post(path, data, **headers):
        url = server.url + path
        return httpx2.post(url, content=data, headers=headers, trust_env=False, timeout=60)

    assert post("/completions", b"{").status_code == 400
    assert "not JSON" in post("/completions", b"{").json()["error"]["message"]
    assert post("/completions", b"x" * (17 << 20)).status_code == 413
    assert post("/embeddings", b"{}").json()["error"]["message"].startswith("POST /v1/embeddings")
    assert post("/models", b"{}").status_code == 405
    turned_away = post("/completions", b"{}", origin="http://somewhere")
    assert turned_away.status_code == 403
    assert "web pages are not served" in turned_away.json()["error"]["message"]


SLOW = """
import time
from torl_jax.sampler.engine import Engine
from torl_jax.serving import server
server.GRACE = 0.1
decode = Engine.decode
def slowly(self):
    time.sleep(0.1)
    return decode(self)
Engine.decode = slowly
"""
# Some thirty rounds of four, of several segments each: far more than a test waits for.
LONG = {"prompt": "User:", "n": 128, "max_tokens": 120, "temperature": 2.0}


def waiting_for(server, condition):
    deadline = time.monotonic() + 15
    while not condition(health := server.get("/health").json()):
        assert time.monotonic() < deadline, health
        time.sleep(0.02)


def hang_up(server, token, stream):
    """Asks for a long answer and goes away while it is sampled."""
    data = json.dumps(LONG | {"model": MODEL, "stream": stream}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head.encode() + data)
        waiting_for(server, lambda health: health["running"] == 4 and health["waiting"] == 1)


def test_a_token_callers_who_hang_up_a_full_queue_and_an_end(cache):
    token = "correct-horse-battery"
    flags = ("--queue=1", "--sandbox_level=off")
    with Server(*NAMED, *flags, token=token, change=SLOW, cache=cache) as server:
        assert "sandbox level: off, token required" in server.line
        with pytest.raises(openai.AuthenticationError, match="token is missing or wrong"):
            plain(server.client(api_key="wrong"))
        assert server.get("/v1/models").status_code == 401
        assert server.get("/health").json()["executes_tools"] is False
        client = server.client()
        with pytest.raises(openai.BadRequestError, match="carries out no tools"):
            ask(client, extra_body={"execute_tools": True})
        for stream in (True, False):
            hang_up(server, token, stream)
            waiting_for(server, lambda health: not health["running"] and not health["waiting"])
        long = plain(client, **LONG, stream=True)
        with pytest.raises(openai.RateLimitError, match="1 requests wait already") as caught:
            plain(client)
        assert caught.value.response.headers["retry-after"] == "1"
        # Told to end while a stream runs, it breaks the stream off, and ends well.
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="the server is ending"):
            list(long)
        assert server.wait() == (0, "")


DYING = """
from torl_jax.sampler.engine import Engine
from torl_jax.serving import server
server.TELL_SECONDS = 5.0
def decode(self):
    if self.tally.segments or any(slot.taken for slot in self.table.slots):
        raise RuntimeError("no more memory")
    return []
Engine.decode = decode
"""


def test_when_the_engine_dies_requests_hear_of_it_and_so_does_the_shell(cache):
    with Server(*NAMED, "--sandbox_level=off", change=DYING, cache=cache) as server:
        client = server.client()
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="RuntimeError: no more memory"):
                plain(client)
        health = server.get("/health")
        assert health.status_code == 503
        assert health.json()["error"] == "RuntimeError: no more memory"
        code, err = server.wait()
        assert code == 1 and "the engine has failed" in err and "Traceback" in err


def test_what_cannot_be_served_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for change, flags, words in (
            ("", (*TINY, f"--port={port}"), f"cannot listen on 127.0.0.1:{port}"),
            ("", (*TINY, "--tools=own.py"), "this policy's only tool is Python"),
            ("", (*TINY, "--context=10"), "--context is 10 tokens, expected at least"),
            ("", (*TINY, "--context=1"), "--context is 1 tokens, expected at least"),
            ("", ("--checkpoint=nowhere",), "no checkpoint at nowhere"),
            ("import sys; sys.modules['uvicorn'] = None", TINY, "pip install 'torl_jax[serve]'"),
        ):
            with pytest.raises(RuntimeError) as caught:
                Server(*flags, change=change)
            message = str(caught.value)
            assert message.startswith("error: ") and message.count("\n") == 1
            assert words in message


def test_addresses_and_tokens_are_checked(monkeypatch):
    monkeypatch.delenv("TORL_SERVE_TOKEN", raising=False)
    with pytest.raises(UserError, match="environment variable TORL_SERVE_TOKEN"):
        Address.of("0.0.0.0", 0)
    with pytest.raises(UserError, match="no address of this machine"):
        Address.of("no such host", 0)
    with Address.of("127.0.0.1", 0) as address:
        assert address.token is None and address.url.startswith("http://127.0.0.1:")
        # Not yet listening: who asks too early is told so, and does not wait.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address.sock.getsockname())
    monkeypatch.setenv("TORL_SERVE_TOKEN", "short")
    with pytest.raises(UserError, match="has 5 characters, expected at least 16"):
        Address.of("127.0.0.1", 0)
    monkeypatch.setenv("TORL_SERVE_TOKEN", "long-enough-to-be-one")
    with Address.of("0.0.0.0", 0) as address:
        assert address.token == "long-enough-to-be-one"
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:0"):
        Address.of("192.0.2.1", 0)


class Values:
    """Flags at their defaults, but for some."""

    slots, segment, context, calls, tools, sandbox_level = 16, 8, 0, None, (), ""

    def __init__(self, **more):
        self.__dict__.update(more)


def test_a_recipe_is_adapted():
    recipe = config.parse(quickstart.get_config())
    shape = hf.read_config(ROOT / "assets/tiny-base")
    cfg = adapted(recipe, shape, Values())
    assert cfg.sampler.max_prompt + cfg.sampler.max_response == 128
    assert cfg.sampler.slots == 16 and cfg.sandbox.min_level == recipe.sandbox.min_level
    cfg = adapted(recipe, shape, Values(context=500, calls=3, sandbox_level="full", slots=9))
    assert cfg.sampler.max_prompt + cfg.sampler.max_response == 500
    # Eight devices, each with as many rows.
    assert (cfg.protocol.calls, cfg.sandbox.min_level, cfg.sampler.slots) == (3, "full", 16)
    with pytest.raises(UserError, match="--context: 1000 tokens, but the model has 512 positions"):
        adapted(recipe, shape, Values(context=1000))


@pytest.mark.parametrize(
    ("own", "flag", "calls"), [(0, None, 8), (3, None, 3), (0, 0, 0), (3, 0, 0), (0, 2, 2)]
)
def test_a_toolrl_recipe_of_single_steps_has_calls_unless_they_are_declined(own, flag, calls):
    recipe = config.parse(quickstart.get_config())
    protocol = dataclasses.replace(recipe.protocol, markup="toolrl", calls=own)
    recipe = dataclasses.replace(recipe, protocol=protocol)
    shape = hf.read_config(ROOT / "assets/tiny-base")
    cfg = adapted(recipe, shape, Values(calls=flag, tools=[sample.__file__]))
    assert cfg.protocol.calls == calls
    with contextlib.ExitStack() as stack:
        found = hands(cfg, ToolRL(str, calls), False, stack)
        assert [tool.name for tool in found.tools] == (["add", "weather", "act"] if calls else [])
        assert (found.live is not None) == bool(calls)
