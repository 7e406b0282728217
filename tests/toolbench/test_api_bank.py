"""API-Bank: the released parse and soft match, level files of each layout, the micro-average."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.errors import UserError
from torl_jax.scoreboard import Answered, Sample
from torl_jax.toolbench import api_bank, tables

GOLD = {"name": "PayBill", "parameters": {"account": "77", "amount": "12"}}
LINE = json.dumps(GOLD)
OTHER = '{"name": "Other", "parameters": {}}'


def test_the_released_vectors(shared):
    vectors = json.loads((shared / "vectors" / "toolrl.json").read_text())["evaluation_vectors"]
    for case in vectors["apibank_scoring"]:
        parsed = api_bank.parse(case["output"])
        assert parsed == case["parsed"], case["id"]
        assert api_bank.soft_match(parsed, case["gold"]) == bool(case["score"]), case["id"]


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        (f"<tool_call>\n{LINE}\n</tool_call>", True),
        (f"<tool_call>{LINE}</tool_call>", True),
        (f"<tool_call>\n{LINE}", True),  # never closed: to the end
        (f"<tool_call>\n{OTHER}\n{LINE}\n</tool_call>", True),
        (f"<tool_call>\n{LINE}\n<tool_call>\n", False),  # a second opening tag discards the first
        (f"<tool_call>\n{OTHER}\n</tool_call>\n{LINE}", False),
        (f"{LINE}\n</tool_call>\n{OTHER}", True),
        ('<tool_call>\n{"account": "77", "amount": "12"}\n</tool_call>', True),
        ('<tool_call>\n{"name": "PayBill"}\n</tool_call>', False),
        ('<tool_call>\n{"name": "PayBill", "parameters": {"account": 77, "amount": 12}}', False),
        (f"<tool_call>\n{LINE}\n7\n</tool_call>", False),  # a bare value voids the reply
        (f"<tool_call>\n{LINE}\nnull\n</tool_call>", False),
        ('<tool_call>\n["name", "parameters"]\n</tool_call>', False),
        (f"<tool_call>\n\n```json\n{LINE}\n```\n</tool_call>", True),
        ("", False),
        ("[" * 100_000, False),
    ],
)
def test_what_is_right(reply, right):
    assert api_bank.soft_match(api_bank.parse(reply), GOLD) is right


def test_parameters_of_which_one_is_called_name_are_parameters():
    gold = {"name": "Open", "parameters": {"name": "Ann", "account": "a"}}
    assert api_bank.soft_match([gold["parameters"]], gold)


@given(st.text(alphabet=st.sampled_from('<>/tol_cal{}[]":,\n 17nue'), max_size=80) | st.text())
def test_any_text_has_a_verdict(reply):
    assert api_bank.soft_match(api_bank.parse(reply), GOLD) in (True, False)


@given(st.lists(st.sampled_from([OTHER, "not json", "[]", "{}"])), st.integers(0, 5))
def test_the_gold_call_is_found_wherever_it_stands(lines, at):
    block = "\n".join([*lines[:at], LINE, *lines[at:]])
    assert api_bank.soft_match(api_bank.parse(f"<tool_call>\n{block}\n</tool_call>"), GOLD)


def write(folder, name, rows):
    (folder / name).write_text(json.dumps(rows))


def row(answer, system="1. Name: PayBill\nDescription: pays"):
    return {"system": system, "user": "u", "answer": answer, "other": {"id": 0}}


@pytest.fixture
def folder(tmp_path):
    """Levels as they differ: an object for the answer in level 2, unlabelled tools in level 3."""
    write(tmp_path, "level-1-api_processed.json", [row([GOLD]), row([GOLD])])
    write(tmp_path, "level-2-api_processed.json", [row(GOLD, "***Available Tools**")])
    write(tmp_path, "level-3-api_processed.json", [row([GOLD], "1. PayBill\npays\n{}")])
    write(tmp_path, "notes.json", {"not": "a level"})
    return tmp_path


def test_levels_of_every_layout_are_read(folder):
    items = api_bank.read(str(folder))
    assert [item.level for item in items] == ["level-1", "level-1", "level-2", "level-3"]
    assert all(item.gold == GOLD for item in items)
    assert len({item.problem.id for item in items}) == 4
    problem = items[2].problem
    assert (problem.system, problem.question) == ("***Available Tools**", "u")
    assert json.loads(problem.answer) == GOLD and problem.source == "level-2"
    assert [item.level for item in api_bank.read(str(folder), 1)] == [
        "level-1", "level-2", "level-3",
    ]  # fmt: skip
    alone = api_bank.read(str(folder / "level-2-api_processed.json"))
    assert [item.level for item in alone] == ["level-2"]


def test_what_is_not_whole_is_said(folder, shared):
    items = api_bank.read(str(folder))
    assert api_bank.whole(items) == frozenset()
    assert "overall is over 4 items, not over the paper's 597" in api_bank.notes(items)[-1]
    first = api_bank.read(str(shared / "data" / "toolrl" / "api_bank"))
    assert len(first) == 399 and api_bank.whole(first) == {"level-1"}
    assert api_bank.notes(first)[0].startswith("api_bank: level-2 has 0 items here")
    counts = api_bank.SIZES.items()
    everything = [
        api_bank.Item(f"{lv}/{i}", lv, "", "", GOLD) for lv, n in counts for i in range(n)
    ]
    assert api_bank.whole(everything) == {"level-1", "level-2", "level-3", "overall"}
    assert not api_bank.notes(everything)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("{", "is no JSON"),
        ("{}", "no list of items"),
        ("[]", "no list of items"),
        ('[{"system": "", "user": ""}]', "item 0 lacks"),
        (json.dumps([row([GOLD]), row([GOLD, GOLD])]), "item 1: the answer is no single call"),
        (json.dumps([row([])]), "item 0: the answer is no single call"),
        (json.dumps([row({"name": "x", "parameters": "y"})]), "no single call"),
        (json.dumps([row(GOLD) | {"user": 3}]), "system and user are no texts"),
    ],
)
def test_bad_files_are_named(tmp_path, rows, message):
    (tmp_path / "level-1.json").write_text(rows)
    with pytest.raises(UserError, match=message):
        api_bank.read(str(tmp_path))


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        api_bank.read(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="names no level"):
        api_bank.read(str(tmp_path))
    for name in ("level-1.json", "level1_old.json"):
        write(tmp_path, name, [row([GOLD])])
    with pytest.raises(UserError, match="are both level-1"):
        api_bank.read(str(tmp_path))


def answered(level, *right):
    return [Answered(f"{level}/{i}", level, (Sample(r),)) for i, r in enumerate(right)]


def test_overall_is_the_micro_average_and_the_paper_stands_beside_whole_levels():
    found = tables.by_level(
        [*answered("level-1", True, True, True), *answered("level-3", False)], seed=0
    )
    assert found["overall"].accuracy == 0.75 and found["level-1"].accuracy == 1.0
    sheet = tables.api_bank_sheet(found, frozenset({"level-1"}), "Qwen2.5-3B")
    assert sheet.rows[0][:3] == ("this policy", "4", "75.0")
    assert sheet.rows[0][-3:] == ("100.0", "-", "0.0")
    cold = next(r for r in sheet.rows if r[0] == "Qwen2.5-3B GRPO cold")
    assert cold[2:] == ("-", "", "73.4", "-", "-")
    everything = frozenset({"overall", *api_bank.SIZES})
    rows = {r[0]: r for r in tables.api_bank_sheet(found, everything, "Qwen2.5-3B").rows}
    assert rows["Qwen2.5-3B GRPO cold"][2:] == ("67.0", "", "73.4", "67.2", "47.3")
    assert rows["Qwen2.5-3B GRPO cold, rerun"][2] == "63.0"
    assert len(rows) == 1 + 7 + 6
    # No model of the paper is near, or nobody ran it again.
    assert len(tables.api_bank_sheet(found, everything, "").rows) == 1
    assert len(tables.api_bank_sheet(found, everything, "Llama-3.2-3B").rows) == 1 + 7
