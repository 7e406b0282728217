"""Requests, checked: what they mean, and that nothing which would matter is passed over."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.serving import fields
from torl_jax.serving.fields import Ask, Refused

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
PLAIN = {"model": "m", "prompt": "hello"}


def test_the_defaults_are_openais():
    assert fields.chat(CHAT) == Ask(
        kind="chat", model="m", prompts=(), messages=({"role": "user", "content": "hello"},),
        tools=(), n=1, max_tokens=None, temperature=1.0, top_p=1.0, top_k=0, seed=None, stops=(),
        stream=False, include_usage=False, execute=False,
    )  # fmt: skip
    assert fields.completion(PLAIN).prompts == ("hello",)


def test_what_is_asked_for_arrives():
    ask = fields.completion(
        {
            "model": "m", "prompt": ["a", "b"], "n": 3, "max_tokens": 7, "temperature": 0,
            "top_p": 0.5, "top_k": -1, "seed": -4, "stop": ["x", "y", "x"], "stream": True,
            "stream_options": {"include_usage": True}, "execute_tools": True,
        }
    )  # fmt: skip
    assert ask.prompts == ("a", "b") and (ask.n, ask.max_tokens, ask.seed) == (3, 7, -4)
    assert (ask.temperature, ask.top_p, ask.top_k) == (0.0, 0.5, 0)
    assert ask.stops == ("x", "y") and ask.stream and ask.include_usage and ask.execute


def test_contents_in_parts_are_joined_and_developers_are_the_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ask = fields.chat(
        CHAT
        | {
            "messages": [
                {"role": "developer", "content": parts},
                {"role": "user", "content": "c", "name": None},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "d", "tool_call_id": "1"},
            ]
        }
    )
    assert ask.messages == (
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "d", "tool_call_id": "1"},
    )


@pytest.mark.parametrize(
    "more",
    [
        {"user": "me"}, {"metadata": {"a": "b"}}, {"logprobs": False}, {"logit_bias": {}},
        {"frequency_penalty": 0.0}, {"presence_penalty": 0}, {"response_format": {"type": "text"}},
        {"parallel_tool_calls": True}, {"tool_choice": "auto"}, {"service_tier": "auto"},
        {"max_tokens": 5, "max_completion_tokens": 5}, {"tools": []},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_let_through(more):
    assert fields.chat(CHAT | more).messages == fields.chat(CHAT).messages


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"temprature": 1}, "temprature", "unknown field 'temprature'"),
        ({"prompt": "x"}, "prompt", "unknown field"),
        ({"logprobs": True}, "logprobs", "does not offer"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "0.5, which this server does not offer"),
        ({"frequency_penalty": False}, "frequency_penalty", "does not offer"),
        ({"response_format": {"type": "json_object"}}, "response_format", "does not offer"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "does not offer"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unknown field"),
        ({"model": 5}, "model", "model is 5, expected text"),
        ({"messages": []}, "messages", "expected a list of messages"),
        ({"messages": ["hi"]}, "messages", "messages[0].role is missing"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages", "role is 'king'"),
        ({"messages": [{"role": "user"}]}, "messages", "messages[0].content is missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages",
            "a part that is not text",
        ),
        ({"n": 0}, "n", "n is 0, expected a whole number from 1 to 128"),
        ({"n": True}, "n", "n is True"),
        ({"max_tokens": 0}, "max_tokens", "expected a whole number from 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "differ"),
        ({"temperature": 2.5}, "temperature", "expected a number from 0 to 2"),
        ({"temperature": 1e-9}, "temperature", "give 0 (greedy)"),
        ({"temperature": 1e999}, "temperature", "temperature is inf"),
        ({"temperature": math.nan}, "temperature", "temperature is nan"),
        ({"temperature": 10**400}, "temperature", "expected a number from 0 to 2"),
        ({"temperature": "1"}, "temperature", "temperature is '1'"),
        ({"top_p": 0}, "top_p", "leaves nothing to sample from"),
        ({"top_k": 1.5}, "top_k", "top_k is 1.5"),
        ({"seed": 2**70}, "seed", "expected a whole number"),
        ({"stop": ""}, "stop", "expected texts that are not empty"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": [5]}, "stop", "expected texts"),
        ({"stream": "yes"}, "stream", "expected true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "is for stream: true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options", "expected"),
        ({"tools": [{"name": "f"}]}, "tools", "tools is no list of"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", "cannot be made to call"),
        ({"tool_choice": TOOL}, "tool_choice", "cannot be made to call"),
        ({"execute_tools": 1}, "execute_tools", "expected true or false"),
    ],
)
def test_what_would_matter_is_refused(more, param, words):
    with pytest.raises(Refused) as caught:
        fields.chat(CHAT | more)
    assert words in str(caught.value) and caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize("prompt", [None, "", [], ["a", ""], [1, 2], 5])
def test_a_plain_prompt_is_text(prompt):
    with pytest.raises(Refused, match="prompt is"):
        fields.completion({"model": "m", "prompt": prompt})
    with pytest.raises(Refused, match="at most 128 choices"):
        fields.completion({"model": "m", "prompt": ["a"] * 65, "n": 2})


def test_tools_can_be_declined():
    assert fields.chat(CHAT | {"tools": [TOOL]}).tools == (TOOL,)
    assert fields.chat(CHAT | {"tools": [TOOL], "tool_choice": "none"}).tools == ()


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff", b'{"prompt": "\\ud800"}', b"[" * 10**5]
)
def test_bodies_that_are_no_json_object_of_text(data):
    with pytest.raises(Refused):
        fields.read(data)


def test_null_is_as_if_it_were_not_there():
    assert fields.read(json.dumps(PLAIN | {"stop": None}).encode()) == PLAIN


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from([*sorted(fields.CHAT | fields.PLAIN | set(fields.NEUTRAL)), "what"])


@given(st.dictionaries(names, values), st.booleans())
def test_any_json_is_an_ask_or_refused(more, chat):
    check, base = (fields.chat, CHAT) if chat else (fields.completion, PLAIN)
    body = {name: value for name, value in (base | more).items() if value is not None}
    try:
        assert isinstance(check(body), Ask)
    except Refused as refused:
        assert "\n" not in str(refused)
