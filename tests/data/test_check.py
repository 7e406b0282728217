"""Golds that the grader cannot use are found, listed and dropped by choice."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from torl_jax.data import check
from torl_jax.data.check import BadGold, golds, inspect, to_json, usable
from torl_jax.data.sources import scan
from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.rewards.answer import Check, Grader

DEEP = "(" * 3000 + "5" + ")" * 3000  # takes for ever to read


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1) as made:
        yield made


@pytest.fixture(scope="module")
def hasty() -> Iterator[Grader]:
    with Grader(workers=1, timeout=0.5) as made:
        yield made


def problems(*answers: str) -> list[Problem]:
    return [Problem(str(n), f"question {n}", answer) for n, answer in enumerate(answers)]


def test_golds_that_cannot_be_used_are_listed_in_order(hasty: Grader) -> None:
    found = golds(problems(r"\frac{1", "12", DEEP, r"\frac12", "05:00", "x+1", r"\frac{1"), hasty)
    assert found[0] == BadGold("0", r"\frac{1", "does not parse")
    assert (found[1].id, found[1].gold) == ("2", DEEP)
    assert found[1].reason.startswith("timeout: ")
    assert found[2:] == [
        BadGold("4", "05:00", "unequal to itself"),
        BadGold("6", r"\frac{1", "does not parse"),
    ]


def test_each_gold_is_asked_once_and_numbers_never(grader: Grader, monkeypatch) -> None:
    seen, asked, submit = [], [], grader.submit_check
    monkeypatch.setattr(grader, "submit_check", lambda gold: asked.append(gold) or submit(gold))
    answers = ["7", "-3.5", "x", "x", "y", "10", "x"]
    assert golds(problems(*answers), grader, lambda *counts: seen.append(counts)) == []
    assert asked == ["x", "y"] and seen == [(1, 2), (2, 2)]


@settings(max_examples=40)
@given(
    st.from_regex(check.PLAIN, fullmatch=True)
    | st.integers(min_value=0, max_value=10**200 - 1).map(str)
    | st.decimals(-(10**6), 10**6, places=4).map(str)
)
def test_a_plain_number_needs_no_worker(grader: Grader, number: str) -> None:
    if check.PLAIN.fullmatch(number):
        assert grader.submit_check(number).result() == Check(True, True)


@pytest.mark.parametrize(
    "text", ["1e5", "1,000", "+1", ".5", "5.", "５", "1/2", "", "-", "1" * 201]
)
def test_what_is_no_plain_number(text: str) -> None:
    assert not check.PLAIN.fullmatch(text)


def test_bad_golds_are_dropped_kept_or_an_error() -> None:
    some = problems("1", r"\frac{1", "3")
    bad = [BadGold("1", r"\frac{1", "does not parse")]
    assert usable(some, bad, "exclude") == [some[0], some[2]]
    assert usable(some, bad, "keep") == some == usable(some, [], "error")
    with pytest.raises(UserError, match=r"1 of 3 gold answers .*1: '\\\\frac\{1' does not parse"):
        usable(some, bad, "error")
    with pytest.raises(UserError, match=r"config\.data\.bad_answers=exclude"):
        usable(some, bad, "error")
    with pytest.raises(UserError, match="no problem is left"):
        usable(some[1:2], bad, "exclude")
    many = [BadGold(str(n), "x", "does not parse") for n in range(9)]
    with pytest.raises(UserError, match="4: 'x' does not parse; and 4 more"):
        usable(problems(*"x" * 10), many, "error")


# What the published sets hold, by the grader as it is: docs/grading.md.
FOUND = {
    "math/math500_test.parquet": [],
    "math/aime24_test.jsonl": [],
    "math/amc23_test.jsonl": [],
    "torl/test.parquet": [],
}


@pytest.mark.parametrize(("file", "bad"), FOUND.items())
def test_published_sets(shared: Path, grader: Grader, file: str, bad: list[BadGold]) -> None:
    report = inspect(str(shared / "data" / file), lambda asked: check.golds(asked, grader))
    assert report.bad == bad and report.rows == []
    assert report.problems >= report.distinct >= report.plain > 0


@pytest.mark.slow
def test_the_math_training_set(shared: Path, grader: Grader) -> None:
    report = inspect(
        str(shared / "data" / "math" / "math_level3to5_train.parquet"),
        lambda asked: check.golds(asked, grader),
    )
    clock = BadGold("simplelr_math_35/train/3314", "05\\!:\\!00", "unequal to itself")
    assert report.bad == [clock]
    assert [row.row for row in report.rows] == [5054, 5158]
    assert (report.problems, report.distinct, report.plain) == (8521, 3478, 1023)


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torl_jax.data.check", "--workers=1", *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


ROWS = (
    {"question": "a", "answer": "1"},
    {"question": "b", "answer": r"[red]\frac{1"},
    {"question": "c", "answer": ""},
)


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    found = run(write(tmp_path / "a.jsonl", *ROWS), write(tmp_path / "b.jsonl", ROWS[0]))
    assert (found.returncode, found.stderr) == (0, "")
    assert "1 does not parse" in found.stdout
    assert f"{tmp_path}/a.jsonl  row 2  no answer" in found.stdout
    assert r"a/1  gold '[red]\\frac{1': does not parse" in found.stdout
    assert "b/" not in found.stdout


def test_the_command_prints_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *ROWS)
    (report,) = json.loads(run(path, "--json", "--schema=question").stdout)
    seconds = report.pop("seconds")
    assert 0 <= seconds < 300
    assert report == {
        "file": str(path),
        "problems": 2,
        "distinct": 2,
        "plain": 1,
        "bad": [{"id": "a/1", "gold": r"[red]\frac{1", "reason": "does not parse"}],
        "rows": [{"row": 2, "reason": "no answer", "file": ""}],
    }


@pytest.mark.parametrize("width", [80, 200])
def test_no_word_of_the_table_is_broken_but_the_files_name(width: int) -> None:
    bad = [BadGold("a/1", "x", "gold calls cannot be read: why"), BadGold("a/2", "x", "does not")]
    report = check.Report("some/where/far/away/a.jsonl", 12345, 12345, 12345, 123.45, bad, [])
    written = io.StringIO()
    console = Console(file=written, width=width)
    check.show([report], console)
    table = written.getvalue().partition("\nsome")[0]
    assert max(map(len, table.splitlines())) <= width
    heads = "problems refused rows different golds plain numbers bad why seconds file"
    for word in [*heads.split(), "12345", "123.5", "gold", "calls", "cannot", "does"]:
        assert word in table.split(), (word, table)


def test_golds_of_another_kind_are_hinted_at(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS[0], ROWS[0] | {"answer": "<think> t </think>\nx"})
    found = run(path, write(tmp_path / "b.jsonl", ROWS[0]))
    assert found.returncode == 0 and "1 does not parse" in found.stdout
    assert found.stderr == (
        f"{path}: 1 of 2 golds are turns of a dialogue: look at their calls with --calls\n"
    )


def test_only_a_file_that_cannot_be_read_is_an_error(grader: Grader, tmp_path: Path) -> None:
    found = run(tmp_path / "none.jsonl")
    assert (found.returncode, found.stdout) == (2, "")
    assert "does not exist" in found.stderr and found.stderr.count("\n") == 1
    path = write(tmp_path / "a.jsonl", *ROWS)
    with pytest.raises(UserError, match="'verl2' is not known"):
        inspect(str(path), lambda asked: check.golds(asked, grader), "verl2")
    with pytest.raises(UserError, match="no file"):
        check.main([])


def test_a_report_is_json(grader: Grader, tmp_path: Path) -> None:
    report = inspect(
        str(write(tmp_path / "a.jsonl", *ROWS)), lambda asked: check.golds(asked, grader)
    )
    assert json.loads(json.dumps(to_json(report)))["bad"][0]["id"] == "a/1"
    assert scan(tmp_path / "a.jsonl")[1] == report.rows


@pytest.mark.parametrize(
    ("file", "thoughts", "bad"),
    [("rlla_test.parquet", "keep", 0), ("rlla_sft.json", "keep", 17), ("rlla_sft.json", "drop", 0)],
)
def test_golds_that_are_tool_calls(shared, file, thoughts, bad):
    """Of the SFT set's thoughts 17 mention a tag; without thoughts every gold is right."""
    report = inspect(
        str(shared / "data" / "toolrl" / file), lambda asked: check.calls(asked, thoughts)
    )
    assert (len(report.bad), report.rows) == (bad, [])


def test_calls_that_cannot_be_scored_are_named():
    golds = ["<think>a</think>\n<tool_call>\n{\n</tool_call>", "<response>no thought</response>"]
    for live in (False, True):
        found = check.calls(problems(*golds), "keep", live=live)
        assert [(gold.id, gold.reason.partition(":")[0]) for gold in found] == [
            ("0", "gold calls"),
            ("1", "unequal to itself"),
        ]


def test_a_gold_of_several_steps_is_for_live_tools() -> None:
    call = '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>'
    said = "<response> r </response>"
    steps = f"{call}\n{call}\n<think> t </think>\n{said}"
    some = problems(steps, f"{call}\n{said}", f"{call}{call}", call, f"<think> t </think>\n{said}")
    reasons = {
        live: [(gold.id, gold.reason) for gold in check.calls(some, "keep", live=live)]
        for live in (False, True)
    }
    twice = ("2", "unequal to itself")  # the second block is no step's
    assert reasons == {False: [("0", "unequal to itself"), twice], True: [twice]}
