"""What grading leaves out changes no verdict: each shortcut beside math-verify's long way."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import math_verify.parser
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import grading
from tests.rewards.test_traps import DIFFERENT, EQUAL, KNOWN_DIFFERENT, KNOWN_EQUAL, SETS
from torl_jax.data.sources import scan
from torl_jax.rewards import equivalence, integers
from torl_jax.rewards.apart import apart
from torl_jax.rewards.equivalence import equivalent, read, same

X, Y = sympy.symbols("x y", real=True)
TRAPS = [*EQUAL, *DIFFERENT, *KNOWN_EQUAL, *KNOWN_DIFFERENT]


@contextmanager
def by_the_long_way() -> Iterator[None]:
    """Every pair is compared by math-verify."""
    caches = (read, math_verify.parser.parse_latex_cached, math_verify.parser.extract_latex)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equivalence, "apart", lambda one, other: False)
        patch.setattr(integers, "same", lambda one, other: None)
        for cache in caches:
            cache.cache_clear()
        yield
    for cache in caches:
        cache.cache_clear()


def pairs(shared: Path, count: int) -> list[tuple[str, str]]:
    """Golds of all files, each against itself, another spelling, a slip and another gold."""
    files = [scan(shared / "data" / file)[0] for file in SETS]
    golds = sorted({problem.answer.strip() for file in files for problem in file})
    drawn = random.Random(0).sample(golds, min(count, len(golds)))
    kinds = grading.answers(drawn)
    return [pair for kind in grading.KINDS for pair in kinds[kind]]


def same_verdicts(asked: list[tuple[str, str]]) -> None:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    texts = list(dict.fromkeys(text for pair in asked for text in pair))
    ours, verdicts = [sympy.srepr(read(text)) for text in texts], [equivalent(*p) for p in asked]
    with by_the_long_way():
        theirs = [sympy.srepr(read(text)) for text in texts]
        assert [t for t, a, b in zip(texts, ours, theirs, strict=True) if a != b] == []
        differ = [p for p, v in zip(asked, verdicts, strict=True) if v != equivalent(*p)]
        assert differ == []
    assert {True, False} == set(verdicts)


def test_verdicts_on_golds_are_the_long_ways(shared):
    same_verdicts(pairs(shared, 60))


def test_verdicts_on_traps_are_the_long_ways():
    same_verdicts([*TRAPS, *[(answer, gold) for gold, answer in TRAPS]])


@pytest.mark.slow
def test_verdicts_on_all_golds_are_the_long_ways(shared):
    same_verdicts(pairs(shared, 10_000))


@settings(max_examples=60)
@given(
    st.tuples(st.sampled_from(["", "-", "+"]), st.integers(0, 30), st.integers(0, 2)).map(
        lambda parts: f"{parts[0]}{'0' * parts[2]}{parts[1]}"
    ),
    st.integers(-30, 30).map(str),
)
def test_whole_numbers_are_the_same_if_they_are_equal(one: str, other: str) -> None:
    assert integers.same(one, other) == same(read(one), read(other)) == (int(one) == int(other))


@pytest.mark.parametrize("other", ["5.0", "x", "", "１", "1 000", "--5", "5\n"])
def test_what_is_no_whole_number_is_for_others_to_say(other: str) -> None:
    assert integers.same("5", other) is None is integers.same(other, "5")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (sympy.Integer(5), sympy.Integer(6)),
        (sympy.sqrt(2) * 70, sympy.sqrt(3) * 70),
        (X + 1, X + 2),
        (X**2 + Y, X**2 - Y),
        (2 * X, 2 * Y),
        (6 - 5 * sympy.I, 6 + 5 * sympy.I),
        (sympy.pi / 2, sympy.Rational(1, 2)),
    ],
)
def test_formulas_that_clearly_differ(one: sympy.Expr, other: sympy.Expr) -> None:
    assert apart(one, other) and apart(other, one)
    assert not apart(one, one) and not apart(other, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((X + 1) ** 2, X**2 + 2 * X + 1),
        (sympy.Integer(5), sympy.Float(4.9999)),
        # By rules of their own: a percentage, a letter, a set, what is no number.
        (sympy.Integer(9), 9 * sympy.UnevaluatedExpr(sympy.Rational(1, 100))),
        (X, 2 * X),
        (sympy.FiniteSet(1), sympy.FiniteSet(2)),
        (sympy.zoo, sympy.Integer(1)),
        # What may take for ever.
        (sympy.Integer(5), sympy.Pow(10, sympy.Pow(10, 10, evaluate=False), evaluate=False)),
        (sympy.Integer(5), sympy.factorial(X)),
        (sympy.Integer(5), sympy.Integral(X, X)),
        ("5", "6"),
    ],
)
def test_of_others_nothing_is_said(one: object, other: object) -> None:
    assert not apart(one, other) and not apart(other, one)
