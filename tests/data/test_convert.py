"""Conversations become rows that the reader, the reward and the released layout agree on."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.data import convert, schemas, sources
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.rewards.toolrl import ToolRLReward, score

ROOT = Path(__file__).resolve().parents[2]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name} of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "time")
]


def said(content: Any, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def calls(*asked: tuple[str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": given}}
        for n, (name, given) in enumerate(asked)
    ]


OSLO = '{"city": "Oslo"}'
TRIP: dict[str, Any] = {
    "tools": TOOLS,
    "messages": [
        said("Be brief.", "system"),
        said("Weather and time in Oslo?", "user"),
        said(None, tool_calls=calls(("weather", OSLO), ("time", OSLO)), reasoning_content="Both."),
        said('{"sky": "clear"}', "tool", tool_call_id="c0"),
        said("noon", "tool", tool_call_id="c1"),
        said("Clear, at noon."),
        said("And in Rome?", "user"),
        said("I look.", tool_calls=calls(("weather", {"city": "Rome"}))),
    ],
}
HELLO = {"tools": [], "messages": [said("Hello", "user"), said("Hello!")]}


def write(path: Path, *conversations: Any) -> Path:
    lines = [c if isinstance(c, str) else json.dumps(c) for c in conversations]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_each_assistant_message_is_a_step() -> None:
    first, second, third = convert.steps(TRIP)
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
    first, _, third = convert.steps(TRIP)
    assert convert.steps(TRIP | {"messages": messages}) == [first, third]


def test_the_layout_is_that_of_the_released_file(tmp_path: Path, shared: Path) -> None:
    (line,) = convert.convert(write(tmp_path / "a.jsonl", TRIP), tmp_path / "a.parquet")
    assert line == (
        f"3 rows of 1 conversations in {tmp_path / 'a.parquet'} "
        "(1 with a response, 1 with calls, 1 with calls and a response)"
    )
    theirs = pyarrow.parquet.read_table(shared / "data/toolrl/rlla_test.parquet")
    ours = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert ours.schema.equals(theirs.schema, check_metadata=False)
    row, known = ours.to_pylist()[0], theirs.to_pylist()[0]
    assert [m["role"] for m in row["prompt"]] == [m["role"] for m in known["prompt"]]
    assert row["reward_model"]["style"] == known["reward_model"]["style"]
    assert "rlla" in row["data_source"]  # by which the released code finds its reward
    texts = (row["prompt"][0]["content"], row["prompt"][1]["content"])
    assert texts == (row["extra_info"]["instruction"], row["extra_info"]["input"])
    assert row["reward_model"]["ground_truth"] == row["extra_info"]["output"]


@pytest.mark.parametrize("name", ["trips.parquet", "trips.json"])
def test_what_is_written_is_what_the_reader_reads(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.jsonl", HELLO, TRIP)
    convert.convert(path, tmp_path / name, source="mine", split="test")
    problems = sources.read(tmp_path / name)
    made = [*convert.steps(HELLO), *convert.steps(TRIP)]
    assert [(p.system, p.question, p.answer) for p in problems] == [
        (step.system, step.history, step.target) for step in made
    ]
    prefix = "mine/test" if name.endswith(".parquet") else "trips"
    assert [p.id for p in problems] == [f"{prefix}/{n}" for n in range(4)]


BAD = [
    ("{", "not JSON"),
    ('{"tools": []}', "no list of messages"),
    ({"messages": HELLO["messages"]}, "no list of tools"),
    ({"tools": ["weather"], "messages": HELLO["messages"]}, "no list of tools"),
    ({"tools": [{}], "messages": HELLO["messages"]}, "a tool needs a function with a name"),
    ({"tools": [], "messages": [said("Hello", "user")]}, "no message of the assistant"),
    ({"tools": [], "messages": [said("Hello")]}, "message 0: a history ends with a message of"),
    (
        {"tools": [], "messages": [said("x", "system"), said("y", "user"), said("z", "system")]},
        "message 2 has the role 'system'",
    ),
    ({"tools": [], "messages": [said("Hi", "user"), said("")]}, "message 1: an assistant message"),
    (
        {"tools": [], "messages": [said("Hi", "user"), said("a <response> b")]},
        "message 1: <response> is part of",
    ),
    (
        {"tools": TOOLS, "messages": [said("Hi", "user"), said("", tool_calls=calls(("fly", "")))]},
        "message 1: a call of fly, which is none of the tools",
    ),
    (
        {
            "tools": TOOLS,
            "messages": [said("Hi", "user"), said("", tool_calls=calls(("time", "{")))],
        },
        "message 1: the arguments of time are no JSON",
    ),
    (
        {
            "tools": TOOLS,
            "messages": [
                said("Hi", "user"),
                said("", tool_calls=calls(("time", '{"a":' * 300 + "1" + "}" * 300))),
            ],
        },
        "message 1: ",
    ),
    (
        {"tools": [], "messages": [said("x", "developer"), said("Hi", "user"), said("")]},
        "message 2: an assistant message",
    ),
    (
        {"tools": [], "messages": [said("x", "system"), said("1", "tool"), said("Hi")]},
        "message 2: message 1 is a tool's",
    ),
    ({"tools": [], "messages": [said("Hi", "user"), said("\ud800")]}, "half a character"),
    ({"tools": [], "messages": [said("Hi\0", "user"), said("x")]}, "question holds a NUL"),
]


@pytest.mark.parametrize(("conversation", "reason"), BAD)
def test_a_bad_conversation_is_named_and_nothing_written(
    tmp_path: Path, conversation: Any, reason: str
) -> None:
    path = write(tmp_path / "a.jsonl", HELLO, "", conversation, TRIP)
    assert [line for line, _ in convert.read(path)] == [1, 3, 4]
    out = tmp_path / "out.parquet"
    with pytest.raises(
        UserError, match=r"1 of 3 conversations cannot be used \(line 3: "
    ) as raised:
        convert.convert(path, out)
    assert reason in str(raised.value) and "\n" not in str(raised.value)
    assert not out.exists()
    skipped, line = convert.convert(path, out, bad_rows="skip")
    assert "line 3: " in skipped and line.startswith("4 rows of 2 conversations")
    assert len(sources.read(out)) == 4


def test_nothing_to_write(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("before")
    for lines in ([], ["{"]):
        path = write(tmp_path / "a.jsonl", *lines)
        with pytest.raises(UserError, match="there is no row to write"):
            convert.convert(path, out, bad_rows="skip")
    assert out.read_text() == "before"


def test_many_bad_conversations_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *["{"] * 30)
    with pytest.raises(UserError, match=r"30 of 30 .*line 20: [^;]*; and 10 more\)") as raised:
        convert.convert(path, tmp_path / "out.json")
    assert "line 21:" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "out", "reason"),
    [
        ("a.txt", "out.json", r"a\.txt is no \.jsonl file"),
        ("a.jsonl", "out.csv", r"out\.csv is no \.parquet or \.json file"),
        ("none.jsonl", "out.json", r"none\.jsonl cannot be read"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, path: str, out: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        convert.convert(tmp_path / path, tmp_path / out)


def test_the_command(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TRIP, "{")
    command = [sys.executable, "-m", "torl_jax.data.convert", str(path), f"--out={tmp_path}/a.json"]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert failed.returncode == 2 and "line 2: not JSON" in failed.stderr
    done = subprocess.run(
        [*command, "--bad_rows=skip"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "3 rows of 1 conversations" in done.stdout
    assert len(json.loads((tmp_path / "a.json").read_text())) == 3


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
        made = convert.steps(talk)
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
    check({"tools": TOOLS, "messages": [*first, *messages]})


@given(talks, st.integers(0), anything)
def test_what_is_no_dialogue_has_a_reason(messages: Any, place: int, odd: Any) -> None:
    at = place % (len(messages) + 1)
    check({"tools": TOOLS, "messages": [*messages[:at], odd, *messages[at:]]})


@given(st.dictionaries(st.sampled_from(["tools", "messages", "x"]), values | st.lists(anything)))
def test_what_is_no_conversation_has_a_reason(talk: dict[str, Any]) -> None:
    check(talk)
