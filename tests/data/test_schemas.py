"""Published layouts are recognised; declared columns count for more. All problems are invented."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.data.schemas import APPENDED, AROUND, SCHEMAS, problem, unwrapped
from torl_jax.data.sources import read
from torl_jax.episode import Problem
from torl_jax.errors import UserError

SUM = "What is the sum of 2 and 3?"
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
    "\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
MATH = "{} Let's think step by step and output the final answer within \\boxed{{}}."

TOLD = "You help.\n\n1. Name: add\nDescription: Adds\nParameters: {}"
# As a dialogue may end, and as math's instructions and GSM8K's solutions do.
ASKED = f"**Dialogue Records History**\n<user> {SUM} {APPENDED[0]}"
GOLD = "<think> I add. </think>\n<response> Look:\n#### 5\n </response>\r\n"


def save(path: Path, *rows: Any) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# name of the set, its file's kind, a row as published, the problem
PUBLISHED = {
    "ToRL": (
        ".parquet",
        {
            "data_source": "NuminaMath",
            "prompt": [{"role": "system", "content": "Please reason step by step."}, *user(SUM)],
            "ability": "math",
            "reward_model": {"ground_truth": "5", "stype": "rule"},
            "extra_info": {"id": "0a-1b", "split": "train"},
        },
        Problem("NuminaMath/train/0a-1b", SUM, "5", "NuminaMath", "Please reason step by step."),
    ),
    "verl": (
        ".parquet",
        {
            "data_source": "DigitalLearningGmbH/MATH-lighteval",
            "prompt": user(MATH.format(SUM)),
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "5"},
            "extra_info": {"split": "train", "index": 7},
        },
        Problem(
            "DigitalLearningGmbH/MATH-lighteval/train/7",
            SUM,
            "5",
            "DigitalLearningGmbH/MATH-lighteval",
        ),
    ),
    "SimpleTIR": (
        ".parquet",
        {
            "input": f"<|im_start|>user\n{SUM}<|im_end|>",
            "gt_answer": "5",
            "target": "5",
            "data_source": "simplelr_math_35",
            "prompt": user(SUM),
            "reward_model": {"ground_truth": "5", "style": "rule"},
            "extra_info": {
                "answer": "5",
                "index": 0,
                "level": 3,
                "question": SUM,
                "split": "train",
            },
        },
        Problem("simplelr_math_35/train/0", SUM, "5", "simplelr_math_35"),
    ),
    "DAPO-Math-17k": (
        ".parquet",
        {
            "data_source": "math_dapo",
            "prompt": user(DAPO.format(SUM)),
            "ability": "MATH",
            "reward_model": {"ground_truth": "5", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b6eb4-a1cb"},
        },
        Problem("math_dapo/9a9b6eb4-a1cb", SUM, "5", "math_dapo"),
    ),
    "deepscaler": (
        ".json",
        {"problem": SUM, "answer": "5", "solution": "Add: $2+3=\\boxed{5}$."},
        Problem("deepscaler/0", SUM, "5", "deepscaler"),
    ),
    "orz_math_57k": (
        ".json",
        [
            {"from": "human", "value": SUM},
            {"from": "assistant", "ground_truth": {"value": "5", "pass_at_n": None}},
        ],
        Problem("orz_math_57k/0", SUM, "5", "orz_math_57k"),
    ),
    "orz_converted": (
        ".parquet",
        {
            "0": {"from": "human", "value": SUM, "ground_truth": None},
            "1": {"from": "assistant", "value": None, "ground_truth": {"value": "5"}},
        },
        Problem("orz_converted/0", SUM, "5", "orz_converted"),
    ),
    "DeepMath-103K": (
        ".parquet",
        {
            "question": SUM,
            "final_answer": "5",
            "difficulty": 4.5,
            "topic": "Mathematics -> Arithmetic",
            **{f"r1_solution_{n}": "I add them." for n in (1, 2, 3)},
        },
        Problem("DeepMath-103K/0", SUM, "5", "DeepMath-103K"),
    ),
    "aime24": (
        ".jsonl",
        {"id": 60, "problem": SUM, "solution": "", "answer": "5", "url": "u", "question": SUM},
        Problem("aime24/60", SUM, "5", "aime24"),
    ),
    "amc23": (
        ".jsonl",
        {"id": 0, "problem": SUM, "answer": 5.0, "url": "u", "question": SUM},
        Problem("amc23/0", SUM, "5", "amc23"),
    ),
    "math500": (
        ".jsonl",
        {"problem": SUM, "answer": "5", "subject": "Algebra", "unique_id": "test/algebra/1.json"},
        Problem("math500/test/algebra/1.json", SUM, "5", "math500"),
    ),
    "olympiadbench": (
        ".jsonl",
        {"id": 1606, "question": SUM, "solution": ["..."], "final_answer": ["5"], "error": None},
        Problem("olympiadbench/1606", SUM, "5", "olympiadbench"),
    ),
    "rlla": (
        ".parquet",
        {
            "data_source": "rlla",
            "prompt": [{"role": "system", "content": TOLD}, *user(ASKED)],
            "ability": "math",
            "reward_model": {"ground_truth": GOLD, "style": "rule"},
            "extra_info": {
                "index": 7,
                "input": ASKED,
                "instruction": TOLD,
                "output": GOLD,
                "split": "test",
            },
        },
        Problem("rlla/test/7", ASKED, GOLD, "rlla", TOLD),
    ),
    "rlla_sft": (
        ".json",
        {"instruction": TOLD, "input": ASKED, "output": GOLD},
        Problem("rlla_sft/0", ASKED, GOLD, "rlla_sft", TOLD),
    ),
    "gsm8k": (
        ".jsonl",
        {"question": SUM, "answer": "There are 2+3=<<2+3=5>>5.\n#### 5"},
        Problem("gsm8k/0", SUM, "5", "gsm8k"),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_layout(tmp_path: Path, name: str) -> None:
    suffix, row, wanted = PUBLISHED[name]
    assert read(save(tmp_path / f"{name}{suffix}", row)) == [wanted]


@pytest.mark.parametrize("wrapper", [DAPO, MATH, "{}\n" + APPENDED[1], DAPO + " Do.\n"])
def test_instructions_are_taken_off(wrapper: str) -> None:
    assert unwrapped(wrapper.format(SUM)) == SUM
    assert unwrapped(wrapper.format("Two\n\nparts?")) == "Two\n\nparts?"


@given(st.text() | st.sampled_from([*APPENDED, *AROUND, " \n" * 9]).map(lambda t: t + SUM))
def test_other_questions_are_left_as_they_are(text: str) -> None:
    assert unwrapped(text) == text


def test_instructions_around_nothing_make_a_bad_row(tmp_path: Path) -> None:
    rows = [{"question": wrapper.format(""), "answer": "1"} for wrapper in (DAPO, MATH)]
    with pytest.raises(UserError, match=r"row 0: no question; row 1: no question"):
        read(save(tmp_path / "a.jsonl", *rows))


def test_declared_columns(tmp_path: Path) -> None:
    row = {"question": "no", "q": {"en": SUM}, "gold": "5", "key": "k", "set": "sums", "id": 3}
    path = save(tmp_path / "a.jsonl", row)
    both = {"question": "q.en", "answer": "gold"}
    assert read(path, columns=both) == [Problem("a/3", SUM, "5", "a")]
    every = both | {"id": "key", "source": "set"}
    assert read(path, columns=every) == [Problem("sums/k", SUM, "5", "sums")]


def test_one_declared_column_changes_a_known_layout(tmp_path: Path) -> None:
    _, row, wanted = PUBLISHED["verl"]
    assert isinstance(row, dict)
    path = save(tmp_path / "a.parquet", row | {"mine": "6"})
    (found,) = read(path, columns={"answer": "mine"})
    assert (found.id, found.question, found.answer) == (wanted.id, SUM, "6")
    (found,) = read(path, columns={"id": "ability"})
    assert found.id == f"{wanted.source}/math"


def test_a_flattened_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"prompt,reward_model.ground_truth\n{SUM},5\n")
    assert read(tmp_path / "a.csv") == [Problem("a/0", SUM, "5", "a")]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"quetion": "q"}, "unknown key config.data.columns.quetion; did you mean"),
        ({"level": "q"}, "legal keys: answer, id, question, source"),
        ({"answer": ""}, "config.data.columns.answer is ''; expected a column's name"),
        ({"question": "q", "answer": "gold"}, r"columns question, answer, but q \+ gold is needed"),
        ({"id": "key"}, r"question \+ answer \+ key"),
        ({"source": "set"}, "a.jsonl has the columns question, answer, but"),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, columns: dict[str, str], words: str) -> None:
    path = save(tmp_path / "a.jsonl", {"question": SUM, "answer": "5"})
    with pytest.raises(UserError, match=words):
        read(path, columns=columns)


def test_conversations_are_to_be_converted(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"tools": [], "messages": [], "n": 1}))
    with pytest.raises(
        UserError, match=r"make rows of them with python -m torl_jax\.data\.convert"
    ):
        read(path)
    with pytest.raises(UserError, match="rename its columns"):
        read(path, columns={"question": "messages", "answer": "gold"})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": ["5", "6"]}, "answer is a list"),
        ({"answer": []}, "answer is a list"),
        ({"answer": [None]}, "no answer"),
        ({"answer": "see below\n#### "}, "no answer"),
        ({"question": "x" * 400_001}, "question is 400001 characters long"),
        ({"id": "half \udcff"}, "id is not UTF-8"),
        ({"id": "half \ud800"}, "id holds half a character"),
        ({"data_source": "a\0b"}, "source holds a NUL"),
    ],
)
def test_values_that_are_refused(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    path = save(tmp_path / "a.jsonl", {"question": SUM, "answer": "5"} | row)
    with pytest.raises(UserError, match=reason):
        read(path)


@pytest.mark.parametrize("value", [None, "", [1], {"a": 1}, float("nan")])
def test_an_id_that_is_none_is_the_rows_number(tmp_path: Path, value: Any) -> None:
    path = save(tmp_path / "a.jsonl", {"question": SUM, "answer": "5", "id": value})
    assert [p.id for p in read(path)] == ["a/0"]


def test_the_released_rows_load_byte_for_byte(shared: Path) -> None:
    path = shared / "data/toolrl/rlla_test.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert read(path) == [
        Problem(
            f"rlla/test/{n}",
            row["extra_info"]["input"],
            row["reward_model"]["ground_truth"],
            "rlla",
            row["extra_info"]["instruction"],
        )
        for n, row in enumerate(rows)
    ]
    assert len(rows) == 80
    path = shared / "data/toolrl/rlla_sft.json"
    rows = json.loads(path.read_text())
    assert [(p.id, p.system, p.question, p.answer) for p in read(path)] == [
        (f"rlla_sft/{n}", row["instruction"], row["input"], row["output"])
        for n, row in enumerate(rows)
    ]
    assert len(rows) == 400


@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_turn_is_kept_as_it_is_whatever_is_in_it(text: str) -> None:
    asked, gold = f"<user> {text}{APPENDED[1]}", f"<think>{text}\n#### 18\n"
    row = {"instruction": f"T{text}", "input": asked, "output": gold}
    assert problem(row, SCHEMAS["rlla"], "0") == Problem("/0", asked, gold, "", f"T{text}")


def test_a_system_column_is_declared(tmp_path: Path) -> None:
    row = {"question": SUM, "answer": "5", "tools": TOLD}
    path = save(tmp_path / "a.jsonl", row)
    assert read(path)[0].system == ""
    assert read(path, columns={"system": "tools"}) == [Problem("a/0", SUM, "5", "a", TOLD)]
    with pytest.raises(UserError, match=r"question \+ told \+ answer|question \+ answer \+ told"):
        read(path, columns={"system": "told"})


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ([TOLD, TOLD], "2 system messages where 1 at most is needed"),
        ([" "], "system message is blank"),
        ([["x"]], "system message is a list"),
    ],
)
def test_system_messages_that_are_refused(tmp_path: Path, told: list[Any], reason: str) -> None:
    messages = [{"role": "system", "content": text} for text in told] + user(SUM)
    path = save(tmp_path / "a.jsonl", {"question": messages, "answer": "5"})
    with pytest.raises(UserError, match=reason):
        read(path)


def test_an_empty_system_message_is_none(tmp_path: Path) -> None:
    for told in (None, ""):
        messages = [{"role": "system", "content": told}, *user(SUM)]
        path = save(tmp_path / "a.jsonl", {"question": messages, "answer": "5"})
        assert read(path) == [Problem("a/0", SUM, "5", "a")]
