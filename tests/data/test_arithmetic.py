"""Problems are pure, right, balanced, and held out by their operands."""

import re

import pytest

from torl_jax.data import arithmetic
from torl_jax.data.arithmetic import FAMILIES, is_held_out, operands_of, problem, problems
from torl_jax.errors import UserError


def slow_answer(family: str, operands: tuple[int, ...]) -> int:
    """The gold answer by another road: loops and repeated multiplication only."""
    if family == "sum":
        a, b = operands
        return len([*range(a), *range(b)])
    if family == "product":
        a, b, c = operands
        return sum([a] * b, start=c)
    if family == "power":
        base, exponent, modulus = operands
        value = 1 % modulus
        for _ in range(exponent):
            value = value * base % modulus
        return value
    if family == "gcd":
        a, b = operands
        return max(d for d in range(1, min(a, b) + 1) if a % d == 0 and b % d == 0)
    if family == "count":
        step, most = operands
        return len([n for n in range(1, most + 1) if n % step == 0])
    base, exponent = operands
    value, total = 1, 0
    for _ in range(exponent):
        value *= base
    while value:
        value, digit = divmod(value, 10)
        total += digit
    return total


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gold_answer_is_right(family, held_out):
    for index in range(40):
        which = (3, index, (family,), held_out)
        assert problem(*which).answer == str(slow_answer(family, operands_of(*which)[1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_names_its_operands_and_they_are_short(family):
    for index in range(200):
        which = (5, index, (family,))
        operands = operands_of(*which)[1]
        shown = {int(n) for n in re.findall(r"\d+", problem(*which).question)}
        assert set(operands) <= shown
        assert max(operands) < 10_000


def test_the_readme_question_is_a_product_of_this_family():
    assert FAMILIES["product"].phrasings[0].format(347, 28, 91) == "What is 347*28+91?"
    assert FAMILIES["product"].answer(347, 28, 91) == 9807
    drawn = [operands_of(0, i, ("product",))[1] for i in range(3_000)]
    assert {347} & {a for a, _, _ in drawn} and {28} & {b for _, b, _ in drawn}


def test_easy_sums_can_be_known_by_heart():
    answers = {int(p.answer) for p in problems(0, 0, 500, ("sum",))}
    assert max(answers) < 100


def test_a_problem_depends_on_its_arguments_only():
    assert problems(3, 10, 20) == problems(3, 0, 40)[10:30]
    assert problems(3, 0, 20) != problems(4, 0, 20)


def test_ids_are_unique_and_read_well():
    ids = [
        p.id for seed in (0, 1) for h in (False, True) for p in problems(seed, 0, 60, held_out=h)
    ]
    assert len(set(ids)) == len(ids)
    assert problem(3, 17, ("product",)).id == "product-3-17"
    assert problem(3, 17, ("product",)).source == "product"


def test_families_take_turns():
    sources = [p.source for p in problems(0, 0, 12, ("gcd", "sum", "power"))]
    assert sources == ["gcd", "sum", "power"] * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_no_training_problem_of_any_seed_is_held_out(family):
    train = {operands_of(seed, i, (family,))[1] for seed in range(4) for i in range(300)}
    held = {operands_of(seed, i, (family,), True)[1] for seed in range(4) for i in range(300)}
    assert train and held and not train & held
    if FAMILIES[family].commuting:
        assert not {tuple(reversed(x)) for x in train} & held


def test_about_one_in_eight_is_held_out():
    drawn = [(a, b) for a in range(100, 200) for b in range(1_000, 1_100)]
    share = sum(is_held_out("count", x) for x in drawn) / len(drawn)
    assert share == pytest.approx(1 / arithmetic.HELD_OUT_SHARE, abs=0.02)


@pytest.mark.parametrize("families", [("sum", "integrals"), ()])
def test_an_unknown_or_empty_list_of_families_is_the_users_error(families):
    with pytest.raises(UserError, match="choose among sum, product"):
        problem(0, 0, families)
