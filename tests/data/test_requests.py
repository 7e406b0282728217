"""Requests are pure, balanced, readable in one way, and held out by their errands."""

import collections
import json

import pytest

from torl_jax.data import requests
from torl_jax.data.requests import KINDS, NUMBERS, TOOLS, TURNS, WORDS, problem, problems, request
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.rewards.toolrl import ToolRLReward, check_gold, score


def asked(seed: int, count: int, held_out: bool = False, kinds=TURNS) -> list[requests.Request]:
    return [request(seed, i, kinds, held_out)[0] for i in range(count)]


@pytest.mark.parametrize("held_out", [False, True])
def test_the_gold_is_worth_the_most_there_is(held_out):
    for each in problems(3, 0, 80, held_out):
        assert check_gold(each.answer) == ""
        found = score(each.answer, each.answer, variant=ToolRLReward(), step=1)
        assert found.correct
        assert found.total == (1.0 if each.source == "none" else 4.0)


def test_which_of_two_errands_a_value_is_for_can_be_told_by_its_kind():
    kinds = {word: name for name, words in WORDS.items() for word in words}
    pairs = [each.errands for each in asked(4, 300, kinds=("two",))]
    apart = [pair for pair in pairs if pair[0].tool != pair[1].tool]
    assert len(apart) > 200
    for pair in apart:
        first, second = ({kinds.get(v, "number") for v in errand.values} for errand in pair)
        assert not first & second


def test_what_a_call_needs_is_listed_and_said():
    for each in asked(4, 300):
        for call in each.calls:
            assert call.tool in each.tools
            assert list(call.arguments) == [p.name for p in TOOLS[call.tool].parameters]
        for errand in each.errands:
            for value in errand.values:
                assert f" {value}" in each.text


def test_where_no_tool_fits_none_is_listed():
    for each in asked(5, 200, kinds=("none",)):
        assert each.errands[0].tool not in each.tools
        assert not each.calls


def test_a_list_is_short_without_doubles_and_in_any_order():
    found = asked(6, 600)
    for each in found:
        assert 1 <= len(each.tools) <= max(requests.SIZES)
        assert len(set(each.tools)) == len(each.tools)
        size = sum(len(TOOLS[name].parameters) for name in each.tools)
        assert size <= requests.MOST_PARAMETERS
    first = [each.tools.index(each.errands[0].tool) for each in found if each.calls]
    assert set(first) == {0, 1, 2}
    alike = [len({e.tool for e in each.errands}) == 1 for each in found if each.kind == "two"]
    assert 0.1 < sum(alike) / len(alike) < 0.4


def test_values_have_the_types_that_the_list_names():
    kinds = {"string": str, "integer": int, "array": list}
    for each in asked(7, 300):
        tools = {tool.name: tool for tool in dialogue.tools_of(requests.system(each.tools))}
        assert tuple(tools) == each.tools
        for call in each.calls:
            for name, value in call.arguments.items():
                assert type(value) is kinds[tools[call.tool].parameters[name]["type"]]


def test_the_words_are_apart_from_one_another():
    words = [word for some in WORDS.values() for word in some]
    assert len(set(words)) == len(words)
    assert max(NUMBERS) < 100


@pytest.mark.parametrize("held_out", [False, True])
def test_all_tools_turn_up_on_either_side(held_out):
    used = {e.tool for each in asked(8, 800, held_out) for e in each.errands}
    several = {n for n, t in TOOLS.items() if [p.type for p in t.parameters] != ["string"]}
    assert used == (several if held_out else set(TOOLS))


def test_no_errand_of_any_training_seed_is_held_out():
    def errands(held_out):
        return {
            e.line for seed in range(4) for each in asked(seed, 500, held_out) for e in each.errands
        }

    train, held = errands(False), errands(True)
    assert len(train) > 1_000 and len(held) > 300
    assert not train & held


def test_about_one_errand_in_eight_is_held_out():
    lines = [
        requests.Errand("book_table", {"city": city, "guests": n}).held_out
        for city in WORDS["city"]
        for n in NUMBERS
    ]
    share = sum(lines) / len(lines)
    assert share == pytest.approx(1 / requests.HELD_OUT_SHARE, abs=0.03)


def test_a_problem_depends_on_its_arguments_only():
    assert problems(3, 10, 20) == problems(3, 0, 40)[10:30]
    assert problems(3, 0, 20) != problems(4, 0, 20)


def test_ids_are_unique_and_read_well():
    ids = [
        p.id for seed in (0, 1) for h in (False, True) for p in problems(seed, 0, 60, held_out=h)
    ]
    assert len(set(ids)) == len(ids)
    assert problem(3, 17, kinds=("two",)).id == "two-3-17"
    assert problem(3, 17, True, ("two",)).id == "two-held-3-17"


def test_kinds_take_turns():
    found = collections.Counter(p.source for p in problems(0, 0, 80))
    assert found == {"one": 40, "two": 30, "none": 10}
    assert set(TURNS) == set(KINDS)


def test_a_problem_letter_for_letter():
    each = problem(0, 0)
    assert json.loads(each.system.splitlines()[2].removeprefix("Parameters: ")) == {
        "people": {"description": "", "type": "array", "default": ""},
        "hour": {"description": "", "type": "integer", "default": ""},
    }
    assert each.question == "Can you pay 26 coins to Marta?"
    assert each.answer == (
        "<think> Which tool fits? </think>\n<tool_call>\n"
        '{"name": "send_money", "parameters": {"person": "Marta", "amount": 26}}\n</tool_call>'
    )


@pytest.mark.parametrize("kinds", [("one", "three"), ()])
def test_an_unknown_or_empty_list_of_kinds_is_the_users_error(kinds):
    with pytest.raises(UserError, match="choose among one, two, none"):
        problem(0, 0, kinds=kinds)
