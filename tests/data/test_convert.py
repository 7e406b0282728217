"""Conversations become rows that the reader, the reward and the released layout agree on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.data.trip import TOOLS, TRIP, calls, said
from torl_jax.data import conversations, convert, sources
from torl_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

HELLO = {"tools": [], "messages": [said("Hello", "user"), said("Hello!")]}


def write(path: Path, *conversations: Any) -> Path:
    lines = [c if isinstance(c, str) else json.dumps(c) for c in conversations]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_layout_is_that_of_the_released_file(tmp_path: Path, shared: Path) -> None:
    line = convert.convert(write(tmp_path / "a.jsonl", TRIP), tmp_path / "a.parquet")
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
    made = [*conversations.steps(HELLO), *conversations.steps(TRIP)]
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
    ({"functions": [], "messages": HELLO["messages"]}, "key tools; the older functions go there"),
    (
        {"tools": [], "messages": [said("Hi", "user"), said("Ho", weight=0)]},
        "no message of the assistant of weight 1",
    ),
    ({"tools": [{}], "messages": HELLO["messages"]}, "a tool needs a function with a name"),
    ({"tools": [], "messages": [said("Hello", "user")]}, "no message of the assistant"),
    (
        {"tools": [], "messages": [said("Hello")]},
        'message 0 follows no message of the user or of a tool: give it "weight": 0',
    ),
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
        "message 1 is a tool's, but no call",
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
    told: list[str] = []
    with pytest.raises(UserError, match="1 of 3 conversations cannot be used: mend them"):
        convert.convert(path, out, tell=told.append)
    (line,) = told
    assert line.startswith("line 3: ") and reason in line and "\n" not in line
    assert not out.exists()
    done = convert.convert(path, out, bad_rows="skip", tell=told.append)
    assert told[1:] == [line, f"{path}: 1 of 3 conversations cannot be used; skipped"]
    assert done.startswith("4 rows of 2 conversations")
    assert len(sources.read(out)) == 4


def test_nothing_to_write(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("before")
    path = write(tmp_path / "a.jsonl", "{")
    with pytest.raises(UserError, match=r"1 of 1 .*there is no row to write"):
        convert.convert(path, out, bad_rows="skip")
    for name, text in (("a.jsonl", ""), ("b.jsonl", "\n \n"), ("c.json", ""), ("d.json", "[]")):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(UserError, match=rf"{name} is empty: give a file with conversations$"):
            convert.convert(path, out, bad_rows="skip")
    assert out.read_text() == "before"


@pytest.mark.parametrize("name", ["out.json", "out.parquet"])
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.jsonl", HELLO)
    (tmp_path / "there" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"cannot write to --out=.*{name} \(.+\): choose another"):
        convert.convert(path, tmp_path / "there" / name)
    assert [each.name for each in (tmp_path / "there").iterdir()] == [name]


def test_a_reason_is_told_once_and_its_conversations_are_counted(tmp_path: Path) -> None:
    bad = [{"tools": [], "messages": [said("Hi", f"role {n}")]} for n in range(25)]
    path = write(tmp_path / "a.jsonl", *["{"] * 30, HELLO, *bad, "[]", "{", bad[0])
    told: list[str] = []
    with pytest.raises(UserError, match=r"58 of 59 conversations cannot be used: mend them"):
        convert.convert(path, tmp_path / "out.json", tell=told.append)
    assert len(told) == convert.LISTED + 1
    assert told[0].startswith("line 1 and 30 more: not JSON (")
    assert (
        told[1] == "line 32 and 1 more: message 0 has the role 'role 0': give user, assistant, tool"
    )
    assert told[-1] == "and 7 more, for other reasons"


def test_a_json_file_is_a_list_of_conversations(tmp_path: Path) -> None:
    path, out, told = tmp_path / "a.json", tmp_path / "out.json", []
    path.write_text(json.dumps([HELLO, {}, TRIP], indent=1))
    done = convert.convert(path, out, bad_rows="skip", tell=told.append)
    assert done.startswith("4 rows of 2 conversations")
    assert told[0] == "conversation 2: no list of tools under the key tools"
    with pytest.raises(UserError, match=r"a\.json is the file that is read"):
        convert.convert(path, tmp_path / "x" / ".." / "a.json")
    path.write_text("[{")
    with pytest.raises(UserError, match=r"a\.json is no JSON list of conversations \(") as raised:
        convert.convert(path, out)
    assert "give a .jsonl file with one a line" in str(raised.value)


@pytest.mark.parametrize(
    ("path", "out", "reason"),
    [
        ("a.txt", "out.json", r"a\.txt is no \.jsonl or \.json file"),
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
    assert failed.returncode == 2 and failed.stdout == ""
    first, last = failed.stderr.splitlines()
    assert first.startswith("line 2: not JSON (") and last.startswith("error: ")
    done = subprocess.run(
        [*command, "--bad_rows=skip"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "3 rows of 1 conversations" in done.stdout
    assert len(json.loads((tmp_path / "a.json").read_text())) == 3
