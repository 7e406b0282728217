"""ToolRL's text: the shape of the released data, from OpenAI-style tools and messages."""

import json
import re
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.protocols import dialogue
from torl_jax.protocols.dialogue import Tool

WEATHER = {
    "type": "function",
    "function": {
        "name": "get weather",
        "description": "The sky over a city,\n  now or\r\nlater.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where, as in Malmö", "enum": ["a"]},
                "days": {"type": ["integer", "null"], "default": 0, "minimum": 0},
                "more": {},
            },
            "required": ["city"],
        },
    },
}
TABLE = Tool("table", "", {})
LISTED = """\
1. Name: get weather
Description: The sky over a city, now or later.
Parameters: {"city": {"description": "Where, as in Malm\\u00f6", "type": "string", "default": ""}, \
"days": {"description": "", "type": ["integer", "null"], "default": 0}, \
"more": {"description": "", "type": "any", "default": ""}}
2. Name: table
Description:\x20
Parameters: {}"""


def call(name: str, arguments: Any, id: str | None = None) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


ASKED = {"role": "user", "content": " Rain in Malmö? \n"}
CALLED = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "Look\nit up.",
    "tool_calls": [call("get weather", '{"city": "Malmö"}', "a"), call("table", "", "b")],
}
OBSERVED = [
    {"role": "tool", "tool_call_id": "a", "content": '{"sky": ["grey", 1.0]}'},
    {"role": "tool", "name": "table", "content": [{"type": "text", "text": "7"}]},
]
ANSWERED = {"role": "assistant", "content": "<think> It says so. </think>\n Yes, rain.\n"}
THANKED = {"role": "user", "content": [{"type": "text", "text": "Thanks."}]}

HISTORY = f"""\
**Dialogue Records History**
<user> Rain in Malmö? </user>

<think> {dialogue.CALLING} </think>
<tool_call>
{{"name": "get weather", "parameters": {{"city": "Malm\\u00f6"}}}}
{{"name": "table", "parameters": {{}}}}
</tool_call>
<obs> [{{"name": "get weather", "results": {{"sky": ["grey", 1.0]}}}}, \
{{"name": "table", "results": "7"}}] </obs>

<think> {dialogue.ANSWERING} </think>
<response> Yes, rain. </response>

<user> Thanks. </user>"""


def test_entries_of_a_tool_list():
    assert dialogue.tool_list([Tool.from_openai(WEATHER), TABLE]) == LISTED
    assert Tool.from_openai(WEATHER["function"]) == Tool.from_openai(WEATHER)


def test_parameters_may_be_given_without_a_schema_around_them():
    given = {"type": {"description": "Which", "type": "string", "default": "x"}}
    assert Tool.from_openai({"name": "f", "parameters": given}).parameters == given


def test_the_system_message_has_the_released_parts_in_their_order():
    parts = dialogue.system([Tool.from_openai(WEATHER), TABLE], " Be brief.\n").split("\n\n")
    assert [part.partition("\n")[0] for part in parts[1:-1]] == [
        "**Available Tools**",
        "**Steps for Each Turn**",
        "**Output Format**",
        "**Important Notes**",
    ]
    assert parts[1].endswith(f":\n{LISTED}")
    assert re.findall(r"^\d\. \*\*(.+?):\*\*", parts[2], re.M) == [
        "Think",
        "Decide on Tool Usage",
        "Respond Appropriately",
    ]
    fence, *skeleton, end = parts[3].splitlines()[1:]
    assert (fence, end) == ("```plaintext", "```")
    assert [line for line in skeleton if line[0] != "{"] == [
        "<think> What you think </think>",
        "<tool_call>",
        "...",
        "</tool_call>",
        "<response> What you tell the user </response>",
    ]
    assert [list(json.loads(line)) for line in skeleton if line[0] == "{"] == [
        ["name", "parameters"]
    ] * 2
    assert len(re.findall(r"^\d\. ", parts[4], re.M)) == 3
    assert parts[-1] == "Be brief."
    assert dialogue.system([TABLE]).endswith(parts[4])


def test_tools_are_read_back_and_exchanged():
    tools = [Tool.from_openai(WEATHER), TABLE]
    text = dialogue.system(tools, "1. Name: no tool\nDescription: none\nParameters: {}")
    assert dialogue.tool_list(dialogue.tools_of(text)) == LISTED
    assert dialogue.tools_of(dialogue.system([])) == []
    assert dialogue.tools_of(f"{LISTED}\n{TABLE.entry(2)}") == dialogue.tools_of(LISTED)
    assert dialogue.with_tools(text, [TABLE]) == text.replace(LISTED, TABLE.entry(1))
    assert dialogue.with_tools(dialogue.with_tools(text, []), tools) == text


def test_the_list_is_read_from_released_messages(shared):
    table = pyarrow.parquet.read_table(shared / "data/toolrl/rlla_test.parquet").to_pylist()
    systems = [row["prompt"][0]["content"] for row in table]
    rows = json.loads((shared / "data/toolrl/rlla_sft.json").read_text())
    systems += [row["instruction"] for row in rows]
    assert len(systems) == 480
    parameters = 0
    for text in systems:
        tools = dialogue.tools_of(text)
        assert 1 <= len(tools) <= 8
        assert dialogue.with_tools(text, tools) == text
        # Nothing of the list is left where it was taken out.
        assert "Parameters: " not in dialogue.with_tools(text, [])
        parameters += sum(len(tool.parameters) for tool in tools)
    assert parameters == 3_183


def test_released_histories_and_targets_have_our_shape(shared):
    """Their turns, written by us from OpenAI-style messages, are their bytes but for thoughts."""
    table = pyarrow.parquet.read_table(shared / "data/toolrl/rlla_test.parquet").to_pylist()
    thought, observed = re.compile(r"<think> .*? </think>", re.DOTALL), 0
    for row in table:
        asked, gold = row["prompt"][1]["content"], row["reward_model"]["ground_truth"]
        assert thought.sub("", dialogue.history(parsed(asked))) == thought.sub("", asked)
        assert dialogue.target(parsed(gold)[0]) == gold
        observed += "<obs>" in asked
    assert observed == 7


def parsed(text: str) -> list[dict[str, Any]]:
    """The OpenAI-style messages of a released history or gold."""
    found: list[dict[str, Any]] = []
    for kind, body in re.findall(r"<(\w+)>\s(.*?)\s</\1>(?=\n|\Z)", text, re.DOTALL):
        if kind == "user":
            found.append({"role": "user", "content": body})
        elif kind == "think":
            found.append({"role": "assistant", "reasoning_content": body})
        elif kind == "response":
            found[-1]["content"] = body
        elif kind == "tool_call":
            lines = map(json.loads, body.split("\n"))
            found[-1]["tool_calls"] = [call(c["name"], c["parameters"]) for c in lines]
        else:
            found += [
                {"role": "tool", "name": r["name"], "content": spelled(r["results"])}
                for r in json.loads(body)
            ]
    return found


def spelled(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result)


def test_a_history():
    messages = [ASKED, CALLED, *OBSERVED, ANSWERED, THANKED]
    assert dialogue.history(messages) == HISTORY
    shorter = HISTORY[: HISTORY.index(" </obs>") + len(" </obs>")]
    assert dialogue.history(messages[:4]) == shorter


def test_a_result_that_json_cannot_write_stays_text():
    for text in ('{"a": NaN}', '{"a": 1e999}', "7"):
        seen = {"role": "tool", "tool_call_id": "a", "content": text}
        assert f'"results": {json.dumps(text)}}}' in dialogue.history([ASKED, CALLED, seen])


def test_a_target_keeps_its_thought():
    assert dialogue.target(CALLED) == (
        "<think> Look\nit up. </think>\n<tool_call>\n"
        '{"name": "get weather", "parameters": {"city": "Malm\\u00f6"}}\n'
        '{"name": "table", "parameters": {}}\n</tool_call>'
    )
    assert dialogue.target(ANSWERED) == (
        "<think> It says so. </think>\n<response> Yes, rain. </response>"
    )


def test_a_target_without_a_thought_gets_the_fixed_one():
    both = {"role": "assistant", "content": "One moment.", "tool_calls": [call("table", {})]}
    assert dialogue.target(both) == (
        f"<think> {dialogue.CALLING} </think>\n<tool_call>\n"
        '{"name": "table", "parameters": {}}\n</tool_call>\n<response> One moment. </response>'
    )
    blank = {"role": "assistant", "content": "<think>\n</think>No."}
    assert dialogue.target(blank).startswith(f"<think> {dialogue.ANSWERING} </think>\n")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "ends with a message of the user or of a tool"),
        ([ASKED, ANSWERED], "ends with a message of the user or of a tool"),
        ([{"role": "user", "content": " "}], "message 0 is the user's and blank"),
        ([{"role": "developer", "content": "x"}], "message 0 has the role 'developer'"),
        (["x"], "message 0 has the role None"),
        ([ASKED, OBSERVED[0]], "message 1 is a tool's, but no call came before"),
        ([ASKED, CALLED, ASKED, OBSERVED[0]], "message 3 is a tool's, but no call came before"),
        ([ASKED, CALLED, {"role": "tool", "tool_call_id": "c", "content": ""}], "'c', which no"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "content is not text"),
        ([{"role": "user", "content": 3}], "content is not text"),
        ([ASKED, {"role": "assistant"}, THANKED], "neither content nor tool calls"),
        ([ASKED, {"role": "assistant", "content": "<think> I"}, THANKED], "never closed"),
        ([ASKED, {"role": "assistant", "reasoning_content": 1}, THANKED], "reasoning_content is"),
        (
            [ASKED, CALLED, {"role": "tool", "tool_call_id": ["a"], "content": ""}],
            r"\['a'\], which",
        ),
        ([ASKED, CALLED, {"role": "tool", "tool_call_id": {}, "content": ""}], r"\{\}, which no"),
    ],
)
def test_histories_that_cannot_be_written(messages, reason):
    with pytest.raises(ValueError, match=reason):
        dialogue.history(messages)


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([call("f", '{"a": 1')], "arguments of f are no JSON"),
        ([call("f", "[1]")], "arguments of f are no object"),
        ([call("f", '{"a": NaN}')], "NaN is no JSON number"),
        ([{"function": {}}], "needs a function with a name"),
        ({"f": 1}, "tool_calls is no list"),
        ([call("f", {"a": "</tool_call>"})], "</tool_call> is part of what"),
        ([call("f", {"a": float("nan")})], "arguments of f are no JSON"),
        ([call("f", {"a": [float("inf")]})], "arguments of f are no JSON"),
        ([call("f", '{"a": 1e999}')], "arguments of f are no JSON"),
        ([call("f", [])], r"arguments of f are no object: \[\]"),
        ([call("f", 0)], "arguments of f are no object: 0"),
        ([call("f", False)], "arguments of f are no object: False"),
    ],
)
def test_calls_that_cannot_be_written(calls, reason):
    with pytest.raises(ValueError, match=reason):
        dialogue.target({"role": "assistant", "tool_calls": calls})


@pytest.mark.parametrize("id", [0, "0"])
@pytest.mark.parametrize("given", [0, "0"])
def test_ids_may_be_numbers(id, given):
    called = {"role": "assistant", "tool_calls": [call("f", None, id)]}
    text = dialogue.history([ASKED, called, {"role": "tool", "tool_call_id": given, "content": ""}])
    assert text.endswith('<obs> [{"name": "f", "results": ""}] </obs>')


def test_a_call_in_the_older_key():
    called = {
        "role": "assistant",
        "content": "One moment.",
        "function_call": {"name": "table", "arguments": '{"x": 1}'},
    }
    newer = {"role": "assistant", "content": "One moment.", "tool_calls": [call("table", {"x": 1})]}
    assert dialogue.target(called) == dialogue.target(newer)
    assert dialogue.target(called | {"function_call": None}).endswith("> One moment. </response>")
    older, result = ({"role": r, "name": "table", "content": "7"} for r in ("function", "tool"))
    assert dialogue.history([ASKED, called, older]) == dialogue.history([ASKED, newer, result])
    with pytest.raises(ValueError, match="both tool_calls and function_call"):
        dialogue.target(called | newer)
    with pytest.raises(ValueError, match="a tool call needs a function with a name"):
        dialogue.target(called | {"function_call": "auto"})


@pytest.mark.parametrize("tag", dialogue.TAGS)
def test_a_tag_in_what_is_said_is_refused_in_a_target_only(tag):
    told = {"role": "assistant", "content": f"The tag {tag} is markup."}
    thought = {"role": "assistant", "content": "Hm.", "reasoning_content": f"A {tag}."}
    for message in (told, thought):
        with pytest.raises(ValueError, match=f"{tag} is part of what"):
            dialogue.target(message)
    assert told["content"] in dialogue.history([ASKED, told, THANKED])


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ({"name": "a\nb"}, "a tool's name is one line"),
        ({"name": ""}, "a tool's name is one line"),
        ({"type": "function"}, "needs a function with a name"),
        ({"name": "f", "description": 1}, "description of f is a int"),
        ({"name": "f", "parameters": [1]}, "parameters of f are no JSON schema"),
        ({"name": "f", "parameters": {"a": "string"}}, "parameters of f are no JSON schema"),
    ],
)
def test_tools_that_cannot_be_written(tool, reason):
    with pytest.raises(ValueError, match=reason):
        Tool.from_openai(tool)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("You help.", "no list of tools"),
        ("1. Name: f\nParameters: {}", "the first tool listed has no Description"),
        ("1. Name: f\nDescription: d\nParameters: {'a': 1}", "parameters of f are no JSON"),
        ("1. Name: f\nDescription: d\nParameters: []", "are a list, not an object"),
    ],
)
def test_system_messages_without_a_list(text, reason):
    with pytest.raises(ValueError, match=reason):
        dialogue.tools_of(text)


line = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(
    str.strip
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
parameter = st.fixed_dictionaries({"description": st.text(), "type": line, "default": values})
tool = st.builds(Tool, line, line, st.dictionaries(st.text(), parameter, max_size=3))


@given(tools=st.lists(tool, max_size=4))
def test_any_tools_are_read_back(tools):
    text = dialogue.system(tools)
    assert dialogue.tools_of(text) == tools
    assert dialogue.with_tools(dialogue.system([TABLE]), tools) == text


@given(
    calls=st.lists(st.tuples(st.text(), st.dictionaries(st.text(), values, max_size=3)), max_size=3)
)
def test_a_block_is_one_line_a_call_whatever_is_in_it(calls):
    first, *lines, last = dialogue.block(calls).split("\n")
    assert (first, last) == ("<tool_call>", "</tool_call>")
    assert [json.loads(line) for line in lines] == [
        {"name": name, "parameters": given} for name, given in calls
    ]
    assert all(line.isascii() for line in lines)
