"""A conversation becomes steps that train: results in order, calls that fit, tools as shown."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.trip import OSLO, TOOLS, TRIP, calls, said
from torl_jax.data import conversations, convert, schemas
from torl_jax.protocols import dialogue
from torl_jax.rewards.toolrl import ToolRLReward, score
from torl_jax.tools import opening


def test_each_assistant_message_is_a_step() -> None:
    first, second, third = conversations.steps(TRIP)
    tools = [dialogue.Tool.from_openai(tool) for tool in TOOLS]
    assert first.system == second.system == third.system == dialogue.system(tools, "Be brief.")
    assert first.history == f"{dialogue.HISTORY}\n<user> Weather and time in Oslo? </user>"
    assert first.target == (
        "<think> Both. </think>\n<tool_call>\n"
        '{"name": "weather", "parameters": {"city": "Oslo"}}\n'
        '{"name": "time", "parameters": {"city": "Oslo"}}\n</tool_call>'
    )
    told = '<obs> [{"name": "weather", "results": {"sky": "clear"}}, '
    assert second.history.startswith(first.history)
    assert second.history.endswith(f'\n{told}{{"name": "time", "results": "noon"}}] </obs>')
    assert third.history.startswith(second.history)
    assert third.history.endswith(
        "\n<response> Clear, at noon. </response>\n\n<user> And in Rome? </user>"
    )
    assert [step.kind for step in (first, second, third)] == [
        "calls",
        "a response",
        "calls and a response",
    ]


def test_a_message_of_no_weight_is_history_only() -> None:
    messages = [*TRIP["messages"]]
    messages[5] = messages[5] | {"weight": 0}
    messages[7] = messages[7] | {"weight": 1}
    first, _, third = conversations.steps(TRIP)
    assert conversations.steps(TRIP | {"messages": messages}) == [first, third]


def trip(*results: dict[str, Any], asked: Any = (("weather", OSLO), ("time", OSLO))) -> Any:
    """A conversation that goes on from these results."""
    messages = [said("Oslo?", "user"), said(None, tool_calls=calls(*asked)), *results]
    return {"tools": TOOLS, "messages": [*messages, said("So it is.")]}


def told(content: str, id: str | None = None, **more: Any) -> dict[str, Any]:
    return said(content, "tool", **({"tool_call_id": id} if id else {}), **more)


def test_results_stand_in_the_order_of_their_calls() -> None:
    in_order = conversations.steps(trip(told("sun", "c0"), told("noon", "c1")))
    assert in_order == conversations.steps(trip(told("noon", "c1"), told("sun", "c0")))
    assert '"results": "sun"}, {"name": "time", "results": "noon"}] </obs>' in in_order[1].history
    # Without ids names tell, and of equal names the order.
    twice = (("weather", OSLO), ("time", OSLO), ("weather", OSLO))
    bare = trip(
        told("noon", name="time"), told("1", name="weather"), told("2", name="weather"), asked=twice
    )
    for call in bare["messages"][1]["tool_calls"]:
        del call["id"]
    history = conversations.steps(bare)[1].history
    assert [e["results"] for e in json.loads(history.partition("<obs>")[2][:-7])] == [
        "1",
        "noon",
        "2",
    ]
    # The calls that a conversation ends with need none.
    ends = {"tools": TOOLS, "messages": trip()["messages"][:2]}
    assert len(conversations.steps(ends)) == 1


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([], "message 2 comes before the result of a call of weather"),
        ([told("1", "c0")], "message 3 comes before the result of a call of time"),
        ([told("1", "c0"), told("2", "c0")], "message 3 is a second result of tool_call_id 'c0'"),
        ([told("1", "c0"), told("2", "c9")], "message 3 is the result of tool_call_id 'c9', which"),
        (
            [told("1", "c0"), told("2", "c9", name="time")],
            "message 3 is the result of tool_call_id 'c9', which",
        ),
        (
            [told("1", name="weather"), told("2", name="weather")],
            "message 3 is a result of 'weather' without a tool_call_id, and no call before it",
        ),
        ([told("1")], "message 2 is a result of None without"),
        (
            [told("1", "c0"), told("2", "c1"), told("3", "c1")],
            "message 4 is a second result of tool_call_id 'c1'",
        ),
        (
            [told("1", "c0"), told("2", "c1"), said("x"), told("3", "c1")],
            "message 5 is a tool's, but no call came before it",
        ),
    ],
)
def test_each_call_has_one_result(results: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(ValueError) as raised:
        conversations.steps(trip(*results))
    assert str(raised.value).startswith(reason)


def test_two_calls_of_one_id() -> None:
    both = trip(told("1", "c0"), told("2", "c0"))
    both["messages"][1]["tool_calls"][1]["id"] = "c0"
    with pytest.raises(ValueError, match="message 1: two calls have the id 'c0'"):
        conversations.steps(both)


FLY = {
    "name": "fly",
    "parameters": {
        "type": "object",
        "properties": {
            "to": {"$ref": "#/$defs/City"},
            "seats": {"type": "integer", "enum": None, "anyOf": None},
            "class": {"type": "string", "enum": ["first", "second"], "description": "How."},
            "back": {"type": "bool, optional"},
            "meal": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "more": {},
        },
        "required": ["to"],
        "$defs": {"City": {"type": "string", "description": "Where."}},
    },
}


def flown(given: Any, fly: Any = FLY, **more: Any) -> Any:
    asked = said(None, tool_calls=calls(("fly", given)), **more)
    return {"tools": [fly], "messages": [said("Fly", "user"), asked]}


@pytest.mark.parametrize(
    "given",
    [
        {"to": "Rome", "seats": 2, "class": "first"},
        {"to": "Rome", "back": 1, "more": [1]},
        {"to": "Rome", "meal": None},
    ],
)
def test_gold_calls_that_fit_their_tools_schema(given: Any) -> None:
    assert len(conversations.steps(flown(given))) == 1
    # Names alone, without a schema around them, are checked as far as they go.
    bare = {"name": "fly", "parameters": {key: {} for key in given}}
    assert len(conversations.steps(flown(given, bare))) == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, 'the parameter "to" is missing'),
        ({"to": "Rome", "form": "Oslo"}, 'unknown parameter "form"; the parameters are: to, seats'),
        ({"to": 7}, 'the parameter "to" is 7, expected string'),
        ({"to": "Rome", "seats": "2"}, 'the parameter "seats" is "2", expected integer'),
        ({"to": "Rome", "class": "third"}, 'is "third", expected one of "first", "second"'),
    ],
)
def test_gold_calls_that_break_their_tools_schema(given: Any, reason: str) -> None:
    talk = flown(given)
    with pytest.raises(ValueError) as raised:
        conversations.steps(talk)
    start = "message 1: a call of fly that its schema forbids: "
    assert str(raised.value).startswith(start) and reason in str(raised.value)
    # As history they are what was said.
    told = [said("x", "tool", tool_call_id="c0"), said("Sorry.")]
    said_once = flown(given, weight=0)
    said_once["messages"] += told
    (step,) = conversations.steps(said_once)
    assert json.dumps(given) in step.history


@pytest.mark.parametrize(
    "odd",
    [
        {"enum": 7},
        {"anyOf": 7},
        {"type": 7},
        {"type": [{}]},
        {"allOf": 7},
        {"properties": {"x": 7}},
        {"$ref": "#/nowhere"},
        {"$ref": "other.json#/x"},
    ],
)
def test_what_is_no_schema_is_a_reason(odd: Any) -> None:
    fly = {"name": "fly", "parameters": {"type": "object", "properties": {"to": odd}}}
    try:
        conversations.steps(flown({"to": {"x": 1}}, fly))
    except ValueError as error:
        assert "the parameters of fly are no JSON schema (" in str(error)
    else:
        assert odd == {"properties": {"x": 7}}  # what is no schema allows anything


def test_weights_and_names() -> None:
    for weight, count in ((None, 1), (1, 1), (1.0, 1), (True, 1)):
        assert len(conversations.steps(flown({"to": "Rome"}, weight=weight))) == count
    for weight in ("a", 2, 0.5, [], -1):
        with pytest.raises(ValueError, match=r"message 1 has the weight .*: give 0 or 1"):
            conversations.steps(flown({"to": "Rome"}, weight=weight))
    with pytest.raises(ValueError, match="two tools are named 'fly'"):
        conversations.steps(flown({"to": "Rome"}) | {"tools": [FLY, FLY]})


def test_tools_are_shown_as_live_ones_are(tmp_path: Path) -> None:
    (step,) = conversations.steps(flown({"to": "Rome"}))
    (shown,) = dialogue.tools_of(step.system)
    schema = {key: value for key, value in FLY["parameters"].items() if key != "$defs"}
    schema = json.loads(json.dumps(schema).replace("#/$defs/", "#/components/schemas/"))
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    document = {
        "openapi": "3.1.0",
        "components": {"schemas": FLY["parameters"]["$defs"]},
        "paths": {"/fly": {"post": {"operationId": "fly", "requestBody": body}}},
    }
    path = tmp_path / "api.json"
    path.write_text(json.dumps(document))
    with opening.opened([f"{path}#http://host"]) as toolbox:
        assert toolbox.functions["fly"].shown() == shown
    assert shown.parameters["class"]["description"] == 'How. One of "first", "second".'
    assert shown.parameters["to"] == {"description": "Where.", "type": "string", "default": ""}
    assert shown.parameters["meal"]["type"] == ["string", "null"]


# Tools that may be called with anything, so that what is drawn makes rows.
FREE = [
    {"name": name, "parameters": {"properties": {}, "additionalProperties": True}}
    for name in ("weather", "time")
]
words = st.text(max_size=12) | st.sampled_from(["NaN", "\n\n", "```", "<obs>", "</user>"])
tagged = words | st.sampled_from(dialogue.TAGS)  # what others say may look like markup
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
parameters = st.dictionaries(words, values, max_size=3)
asked = st.lists(
    st.tuples(st.sampled_from(["weather", "time"]), parameters | parameters.map(json.dumps)),
    min_size=1,
    max_size=3,
)


@st.composite
def used(draw) -> list[dict[str, Any]]:
    """An assistant message with calls, and what they gave."""
    made = calls(*draw(asked))
    thought, content = draw(st.none() | words), draw(st.none() | words)
    results = [said(draw(tagged), "tool", tool_call_id=call["id"]) for call in made]
    return [said(content, tool_calls=made, reasoning_content=thought), *results]


turns = st.builds(
    lambda question, uses, answer: [said(question, "user"), *chain.from_iterable(uses), *answer],
    tagged.filter(str.strip),
    st.lists(used(), max_size=2),
    st.builds(lambda content: [said(content)], words.filter(str.strip)) | st.just([]),
)
talks = st.lists(turns, min_size=1, max_size=4).map(lambda parts: list(chain.from_iterable(parts)))
anything = st.one_of(
    values,
    st.builds(said, values, st.sampled_from(["user", "assistant", "system", "tool", "x"])),
    st.builds(lambda made: said("", tool_calls=made), values),
)


def check(talk: dict[str, Any]) -> None:
    """Rows that can be trained on and are read back as they are, or one reason."""
    try:
        made = conversations.steps(talk)
    except ValueError as error:
        assert str(error)
        return
    assert len(made) == sum(m["role"] == "assistant" for m in talk["messages"])
    for step in made:
        # A step's gold is worth all that there is to win.
        found = score(step.target, step.target, variant=ToolRLReward(), step=1)
        assert found.parts["format"] == 1
        assert found.parts["correctness"] == (3 if "calls" in step.kind else 0)
        try:
            problem = schemas.problem(convert.row(step, 0, "", ""), schemas.SCHEMAS["verl"], "")
        except schemas.Unusable:
            continue
        kept = (problem.system, problem.question, problem.answer)
        assert kept == (step.system, step.history, step.target)
        assert dialogue.with_tools(step.system, dialogue.tools_of(step.system)) == step.system


@given(talks, st.none() | words)
def test_any_dialogue_gives_rows_that_train(messages: Any, told: str | None) -> None:
    first = [] if told is None else [said(told, "system")]
    check({"tools": FREE, "messages": [*first, *messages]})


@given(talks, st.integers(0), anything)
def test_what_is_no_dialogue_has_a_reason(messages: Any, place: int, odd: Any) -> None:
    at = place % (len(messages) + 1)
    check({"tools": FREE, "messages": [*messages[:at], odd, *messages[at:]]})


@given(st.dictionaries(st.sampled_from(["tools", "messages", "x"]), values | st.lists(anything)))
def test_what_is_no_conversation_has_a_reason(talk: dict[str, Any]) -> None:
    check(talk)
