"""Messages to prompts, and ToolRL's answers to the parts of a message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.protocols import dialogue as words
from torl_jax.protocols.chat import ChatTemplate
from torl_jax.protocols.torl import ToRL
from torl_jax.serving import dialogue, fields
from torl_jax.serving.dialogue import Reply
from torl_jax.serving.fields import Refused

CHAT = ChatTemplate(
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]", {}, "here"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Looks out of the window.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def ask(*messages, **more):
    said = [{"role": role, "content": content} for role, content in messages]
    return fields.chat({"model": "m", "messages": said} | more)


def test_a_question_goes_into_the_recipes_prompt():
    begin = dialogue.torl(ToRL("User: {question}\nAssistant:\n"))
    opening = begin(ask(("user", "What?")))
    assert (opening.prompt, opening.stops) == ("User: What?\nAssistant:\n", ("```output",))
    # Carried out, the stop is the protocol's own business.
    assert begin(ask(("user", "What?"), execute_tools=True)).stops == ()
    assert dialogue.torl(ToRL(calls=0))(ask(("user", "What?"))).stops == ()


@pytest.mark.parametrize(
    "messages",
    [
        [("system", "Be kind."), ("user", "What?")],
        [("user", "What?"), ("assistant", "This."), ("user", "Why?")],
        [("assistant", "This.")],
    ],
)
def test_a_torl_policy_has_no_conversations(messages):
    with pytest.raises(Refused, match="single questions, give one user message"):
        dialogue.torl(ToRL())(ask(*messages))


def test_tools_need_a_policy_for_them():
    for begin in (dialogue.torl(ToRL()), dialogue.template(CHAT)):
        with pytest.raises(Refused, match="does not call tools"):
            begin(ask(("user", "What?"), tools=[WEATHER]))


def test_a_template_writes_messages_as_they_are():
    opening = dialogue.template(CHAT)(ask(("developer", "Be kind."), ("user", "What?")))
    assert opening.prompt == "[system] Be kind.\n[user] What?\n[assistant]"
    assert opening.parts is None
    refusing = ChatTemplate("{{ raise_exception('no') }}", {}, "here")
    with pytest.raises(Refused, match="refuses the messages"):
        dialogue.template(refusing)(ask(("user", "What?")))


def test_toolrl_has_the_prompt_that_it_was_trained_on():
    asked = ask(("system", "Be kind."), ("user", "Rain in Oslo?"), tools=[WEATHER])
    opening = dialogue.toolrl(CHAT)(asked)
    system = words.system([words.Tool.from_openai(WEATHER)], "Be kind.")
    history = words.history([{"role": "user", "content": "Rain in Oslo?"}])
    assert opening.prompt == f"[system] {system}\n[user] {history}\n[assistant]"
    assert opening.parts is not None
    # Without tools nothing is added, and the answer is not taken apart.
    bare = dialogue.toolrl(CHAT)(ask(("system", "S"), ("user", "U")))
    assert (bare.prompt, bare.parts) == ("[system] S\n[user] U\n[assistant]", None)


def test_the_servers_own_tools_are_shown_where_they_are_carried_out():
    served = [words.Tool("clock", "Tells the time.", {})]
    begin = dialogue.toolrl(CHAT, served)
    opening = begin(ask(("user", "Late?"), execute_tools=True))
    assert "1. Name: clock\n" in opening.prompt and opening.parts is None
    with pytest.raises(Refused, match="for the server's own tools"):
        begin(ask(("user", "Late?"), execute_tools=True, tools=[WEATHER]))


def test_results_are_shown_in_the_order_of_their_calls_and_values_that_are_legal():
    legal = {"city": {"type": "string", "description": "Where.", "enum": ["Oslo", "Rome"]}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": legal}}
    calls = [
        {"id": city, "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
        for city in ("Oslo", "Rome")
    ]
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "Rome", "content": "wet"},
        {"role": "tool", "tool_call_id": "Oslo", "content": "dry"},
    ]
    body = {"model": "m", "messages": messages, "tools": [tool]}
    prompt = dialogue.toolrl(CHAT)(fields.chat(body)).prompt
    assert prompt.index("dry") < prompt.index("wet")
    assert 'Where. One of \\"Oslo\\", \\"Rome\\".' in prompt
    body["messages"] = [*messages[:3], {"role": "user", "content": "And?"}]
    with pytest.raises(Refused, match="before the result of a call of weather"):
        dialogue.toolrl(CHAT)(fields.chat(body))


@pytest.mark.parametrize("given", [[], {}, 5])
def test_a_call_that_is_named_by_no_text_is_refused(given):
    call = {"id": "1", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": given, "content": "5"},
    ]
    body = {"model": "m", "messages": messages, "tools": [WEATHER]}
    with pytest.raises(Refused):
        dialogue.toolrl(CHAT)(fields.chat(body))


@pytest.mark.parametrize(
    ("messages", "tools", "reason", "param"),
    [
        ([("user", "Hi"), ("assistant", "Ho")], [WEATHER], "a history ends with", "messages"),
        ([("user", " ")], [WEATHER], "blank", "messages"),
        (
            [("user", "Hi")],
            [{"type": "function", "function": {}}],
            "needs a function with a name",
            "tools",
        ),
    ],
)
def test_conversations_that_cannot_be_written_are_refused(messages, tools, reason, param):
    with pytest.raises(Refused, match=reason) as caught:
        dialogue.toolrl(CHAT)(ask(*messages, tools=tools))
    assert caught.value.param == param


CALL = '{"name": "weather", "parameters": {"city": "Oslo"}}'


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (
            f"<think> t </think>\n<tool_call>\n{CALL}\n\n{CALL}\n</tool_call>",
            Reply(None, "t", (("weather", '{"city": "Oslo"}'),) * 2),
        ),
        ("<think> t </think>\n<response> Dry. </response>\n", Reply("Dry.", "t")),
        (
            f"<think>t</think><tool_call>{CALL}</tool_call><response>So.</response>",
            Reply("So.", "t", (("weather", '{"city": "Oslo"}'),)),
        ),
        ("<response>Dry.</response>", Reply("Dry.")),
        (
            '<tool_call>{"name": "say", "parameters": {"t": "a\u2028b\x85c"}}</tool_call>',
            Reply(None, None, (("say", '{"t": "a\\u2028b\\u0085c"}'),)),
        ),
        ('<tool_call>\n{"name": "f"}\n</tool_call>', Reply(None, None, (("f", "{}"),))),
    ],
)
def test_an_answer_in_the_format_comes_in_parts(text, reply):
    assert dialogue.parts(text) == reply


@pytest.mark.parametrize(
    "text",
    [
        "Dry.",
        "<think> t </think>",
        "<think> t <response> Dry. </response>",
        "<think> t </think>\nDry.",
        f"<tool_call>{CALL}</tool_call> and more",
        f"<tool_call>{CALL}",
        "<tool_call>{}</tool_call>",
        "<think> t </think><tool_call>\n</tool_call>",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": "f", "parameters": [1]}</tool_call>',
        '<tool_call>{"name": "f", "parameters": {"x": NaN}}</tool_call>',
        '<tool_call>{"name": "f", "parameters": {"x": 1e999}}</tool_call>',
        f"<tool_call>{'[' * 100_000}</tool_call>",
        "",
    ],
)
def test_any_other_text_is_the_content_as_it_stands(text):
    assert dialogue.parts(text) == Reply(text)


texts = st.text(st.sampled_from("a<>/ \n"), max_size=12)
tags = st.sampled_from(["think", "tool_call", "response"])
tagged = st.builds(
    lambda t, x, end: f"<{t}>{x}</{t}>{end}", tags, texts, st.sampled_from(["", "\n"])
)


@given(st.lists(tagged | texts | st.just(f"<tool_call>{CALL}</tool_call>"), max_size=5))
def test_nothing_that_was_said_is_lost(pieces):
    text = "".join(pieces)
    reply = dialogue.parts(text)
    for _, arguments in reply.calls:
        assert isinstance(json.loads(arguments), dict)
    if reply == Reply(text):
        return
    # Everything but tags and blanks is in one of the parts.
    kept = (reply.reasoning or "") + CALL * len(reply.calls) + (reply.content or "")
    bare = text
    for tag in ("think", "tool_call", "response"):
        for mark in (f"<{tag}>", f"</{tag}>"):
            bare, kept = bare.replace(mark, ""), kept.replace(mark, "")
    assert "".join(bare.split()) == "".join(kept.split())
