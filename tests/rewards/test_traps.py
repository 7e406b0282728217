r"""What is equal to what: the traps of answer comparison, by the real worker; docs/grading.md."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torl_jax.data.sources import scan
from torl_jax.episode import Author, End, Episode, Problem, Segment
from torl_jax.rewards.answer import Grade, Grader
from torl_jax.rewards.equivalence import equivalent, read, same, tidy, words
from torl_jax.rewards.outcome import Answers


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1, timeout=10) as made:
        yield made


def box(answer: str) -> str:
    return f"so the answer is \\boxed{{{answer}}}."


EQUAL = [
    ("5", "5"),
    ("5", "5.0"),
    ("5", "05"),
    ("5", "+5"),
    ("5", r"\$5"),
    ("5", "$5$"),
    ("5", r"\(5\)"),
    ("5", r"\displaystyle 5"),
    ("5", "{5}"),
    ("5", r"\approx 5"),
    ("5", r"$\approx 5$"),
    (r"(-1, 1) \cup [3, \infty)", r"\((-1, 1) \cup [3, \infty)\)"),
    # fractions, powers, roots
    (r"\frac{\pi}{2}", "π/2"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    (r"\frac\pi 2", r"\frac{\pi}{2}"),
    (r"\frac12", "0.5"),
    (r"\dfrac 3 8", r"\frac{3}{8}"),
    (r"\frac{1}{3}", "0.3333333"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt2}"),
    ("1024", "2^{10}"),
    ("1024", "2^10"),
    ("1000000", "10^6"),
    ("6-5i", "-5i+6"),
    ("6-5i", r"6-5\mathrm{i}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("a + b + c", "c+b+a"),
    (r"\sin^2 t", r"(\sin t)^2"),
    # mixed numbers
    (r"3\frac12", "3.5"),
    (r"3 \tfrac{1}{2}", r"\frac{7}{2}"),
    ("3 1/2", "3.5"),
    (r"-15\frac{3}{5}", "-15.6"),
    # thousands
    ("1,234,567", "1234567"),
    ("1234", "1{,}234"),
    (r"10,\!080", "10080"),
    (r"10\,080", "10080"),
    ("10 080", "10080"),
    (r"111, \! 111, \! 111", "111111111"),
    (r"\frac{1}{29,\!322,\!216}", "1/29322216"),
    # lists, sets, tuples, intervals, matrices
    ("1,-2", "-2,1"),
    ("1,-2", r"\{-2, 1\}"),
    ("2,3", r"2 \text{ and } 3"),
    ("2,3", r"x=2 \text{ or } x=3"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"(1,\frac{1}{2})", "(1, 0.5)"),
    ("[1,2)", r"\left[1, 2\right)"),
    ("[1,2]", r"1 \le x \le 2"),
    (r"(-\infty,5]", r"x \leq 5"),
    (r"(-\infty,3)\cup(3,\infty)", r"(3,\infty) \cup (-\infty,3)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    (r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}", r"\begin{pmatrix}0.5\\3\end{pmatrix}"),
    (r"\begin{pmatrix} 1 & \phantom -1 \end{pmatrix}", r"\begin{pmatrix} 1 & 1 \end{pmatrix}"),
    # equations
    ("x=5", "5"),
    ("y = 2x + 3", "2x+3"),
    ("y = 2x + 3", "y - 2x = 3"),
    # units, degrees, money, percent
    ("5", r"5\text{ cm}"),
    ("5", r"5\,\mathrm{cm}"),
    ("5", r"5 \mbox{ cm}^2"),
    (r"8\sqrt{3} \text { square inches}", r"8\sqrt{3}"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90°"),
    (r"90^\circ", r"90\text{ degrees}"),
    (r"\$306,\!956.63", "306956.63"),
    ("10", r"10\%"),
    ("10", "10%"),
    ("7.2", r"7.2\%"),
    ("0.1", r"10\%"),
    # words
    (r"\text{Monday}", "monday"),
    (r"\text{October 30}", "October 30"),
    (r"\text{(C)}", "C"),
    (r"\text{A,C,F}", "A, C, F"),
    (r"\text{Yes}", r"\mathrm{yes}"),
    # a sentence's punctuation, characters that are no ASCII, a program's spelling
    ("5", "5."),
    (r"\text{(E)},", r"\text{(E)}"),
    (r"\frac{7}{5} + \frac{1}{5} i.", r"\frac{7+i}{5}"),
    ("-5", "−5"),
    ("6", "2×3"),
    ("6", "2·3"),
    ("2", "6÷3"),
    ("x^3", "x³"),
    (r"x \le 5", "x ≤ 5"),
    (r"x \ge 5", "x ≥ 5"),
    (r"[1,2] \cup [3,4]", "[1,2] ∪ [3,4]"),
    ("10080", "10\N{NARROW NO-BREAK SPACE}080"),
    ("10080", "10\N{NO-BREAK SPACE}080"),
    ("10080", "10\N{THIN SPACE}080"),
    (r"\sqrt{2}", "√2"),
    (r"(-\infty,3)", "(−∞,3)"),
    ("x^2", "x²"),
    (r"\frac{\pi}{2}", "pi/2"),
    ("x^{10}", "x**10"),
    (r"\sqrt{2}", "sqrt(2)"),
]
DIFFERENT = [
    ("5", "-5"),
    ("5", "4.9999"),
    ("5", "x"),
    (r"70\sqrt{2}", r"70\sqrt{3}"),
    ("6-5i", "6+5i"),
    (r"8\pi", "8"),
    (r"\pi", "3.14"),
    (r"\frac{1}{3}", "0.33"),
    (r"3\frac12", r"\frac32"),
    ("3 1/2", "2"),
    ("1", r"6-5\mathrm{i}"),
    ("1024", "2^{11}"),
    ("x^2+1", "y^2+1"),
    ("2,3", "2,3,4"),
    ("2", "2,3"),
    ("5", r"5 \text{ or } 6"),
    ("(1,-2)", "(-2,1)"),
    ("(1,2,3)", "(3,2,1)"),
    ("[1,2)", "(1,2]"),
    ("[1,2)", "[1,2]"),
    (r"(-\infty,5]", "x < 5"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    ("x=5", "y=5"),
    ("x=5", "x=6"),
    ("y = 2x + 3", "y = 2x + 4"),
    (r"5\text{ cm}", r"6\text{ cm}"),
    (r"10\%", r"1000\%"),
    ("7.2", "72%"),
    ("10", "0.1"),
    (r"\text{Monday}", r"\text{Tuesday}"),
    (r"\text{October 30}", r"\text{October 31}"),
    (r"\text{A,C}", r"\text{A,D}"),
    (r"\text{H, E}", r"\text{E, H}"),
    (r"\text{even}", r"\text{odd}"),
    ("1,234", "1.234"),
    ("31,250", "31"),
    ("111", r"111, \! 111, \! 111"),
    # no number is looked for in what cannot be read
    ("5", r"\sqrt 5 )( 5"),
    ("6", r"\frac{ 5 6"),
    ("2", r"2007 + \frac{{\pi} 2"),
    ("3", r"\langle 1, 2, 3"),
    ("5", "the answer is 5"),
    ("5", "6. final answer is 5. I hope"),
    ("5", "6. final answer is $5$. I hope"),
    ("5", r"\frac{ ( $5$"),
    # nor is anything added that stands side by side
    ("2", "1 1"),
    ("15", "7 8"),
    ("90", r"10\,080"),
    # digits that are not ASCII are not read, nothing is nothing
    ("3", "３"),
    ("3", "٣"),
    ("5", r"\text{}"),
    ("5", "}{"),
    ("5", r"\frac{0}{0}"),
    (r"\frac{1}{0}", r"\frac{2}{0}"),
]
# (gold, answer) of which only this direction is asked: an answer that is empty, a gold that is
EMPTY = [("5", ""), ("5", " "), ("", "5"), ("", ""), (" ", " ")]
# What is known to be wrong (docs/grading.md). When one of these fails, that page has to change.
KNOWN_EQUAL = [
    ("1010_2", "1010_3"),
    (r"5\text{ cm}", r"5\text{ m}"),
    ("1, 1, -2", "1,-2"),
    ("(1,2)", "1,2"),
    (r"\{1,2\}", "(1,2)"),
    ("2s", "2"),
    ("on", "no"),
    ("r", "R"),
    ("4:30", "8:60"),
    (r"\cos 15^\circ", r"\cos 15"),
]
KNOWN_DIFFERENT = [
    (r"90^\circ", r"\frac{\pi}{2}"),
    (r"\sin 30^\circ", "0.5"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
    (r"\text{A,C}", r"\text{C,A}"),
    ("5", "5 (five)"),
    (r"\frac{1}{3}", r"0.\overline{3}"),
    ("3(1/2)", r"\frac{3}{2}"),
    ("x", r"\frac{2x}{2}"),
]


@pytest.mark.parametrize(("gold", "answer"), [*EQUAL, *KNOWN_EQUAL])
def test_equal_answers_in_both_directions(grader: Grader, gold: str, answer: str) -> None:
    assert grader.submit(gold, box(answer)).result() == Grade(True)
    assert grader.submit(answer, box(gold)).result() == Grade(True)


@pytest.mark.parametrize(("gold", "answer"), [*DIFFERENT, *KNOWN_DIFFERENT])
def test_different_answers_in_both_directions(grader: Grader, gold: str, answer: str) -> None:
    assert grader.submit(gold, box(answer)).result() == Grade(False)
    assert grader.submit(answer, box(gold)).result() == Grade(False)


@pytest.mark.parametrize(("gold", "answer"), EMPTY)
def test_nothing_is_equal_to_nothing(grader: Grader, gold: str, answer: str) -> None:
    assert grader.submit(gold, box(answer)).result() == Grade(False)


SETS = (
    "math/math500_test.parquet",
    "math/aime24_test.jsonl",
    "math/amc23_test.jsonl",
    "torl/test.parquet",
    "math/math_level3to5_train.parquet",
)


@pytest.mark.parametrize("file", SETS)
def test_every_published_gold_is_right_in_a_box(shared: Path, grader: Grader, file: str) -> None:
    golds = {problem.answer for problem in scan(shared / "data" / file)[0]}
    assert len(golds) > 20
    wrong = [gold for gold in golds if not grader.submit(gold, box(gold)).result().correct]
    assert not wrong


NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(
        lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"
    ),
    st.decimals(-100, 100, places=3).map(str),
    st.tuples(st.integers(1, 9), st.integers(2, 9)).map(lambda p: rf"{p[0]}\sqrt{{{p[1]}}}"),
    st.integers(1, 9).map(lambda n: rf"{n}\pi"),
)


@settings(max_examples=50)
@given(NUMBERS, NUMBERS)
def test_numbers_are_compared_alike_in_both_directions(a: str, b: str) -> None:
    assert equivalent(a, b) == equivalent(b, a)
    assert equivalent(a, a) and equivalent(f" {a}.", f"${a}$")


@settings(max_examples=50)
@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_whole_numbers_are_equal_if_they_are(a: int, b: int) -> None:
    assert equivalent(str(a), str(b)) == (a == b)
    assert equivalent(f"{a:,}", str(a)) and equivalent(str(a), f"{a:,}".replace(",", r"\,"))
    assert equivalent(f"{2 * a}/2", str(a)) and not equivalent(str(a), str(a + 1))


@settings(max_examples=50)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=4, unique=True), st.randoms())
def test_lists_are_sets_and_tuples_are_not(numbers: list[int], random) -> None:
    mixed = random.sample(numbers, len(numbers))
    assert equivalent(", ".join(map(str, numbers)), ", ".join(map(str, mixed)))
    tuples = [f"({', '.join(map(str, order))})" for order in (numbers, mixed)]
    assert equivalent(*tuples) == (numbers == mixed)


@given(st.text(max_size=60))
def test_tidying_ends_and_settles(text: str) -> None:
    words(text)
    assert len(tidy(text)) <= 8 * len(text)


def test_an_answer_is_read_as_a_whole() -> None:
    assert read("12") == [12] and read("") == [] == read("12 oranges )")
    assert read("NaN") and math.isnan(float("nan")) and not same(read(r"\frac00"), read(r"\frac00"))


# Episodes: only what the policy wrote counts.
def episode(*parts: tuple[Author, str]) -> Episode:
    segments = [Segment(Author.PROMPT, (1,), r"Answer in \boxed{0.5}.")]
    for author, text in parts:
        segments.append(Segment(author, (2,), text, (-1.0,) if author is Author.POLICY else ()))
    return Episode(Problem("0", "What is one half?", "1/2"), 0, tuple(segments), (), End.EOS)


POLICY, TOOL = Author.POLICY, Author.TOOL


@pytest.mark.parametrize(
    ("parts", "correct"),
    [
        ([(POLICY, r"\boxed{0.5}")], True),
        ([(TOOL, r"\boxed{0.5}")], False),
        ([(POLICY, "see:"), (TOOL, r"\boxed{0.5}"), (POLICY, "there")], False),
        ([(POLICY, r"\boxed{0.5}"), (TOOL, r"\boxed{7}"), (POLICY, "there")], True),
        ([(POLICY, r"\boxed{7}"), (TOOL, r"\boxed{0.5}")], False),
        ([(POLICY, r"\boxed{"), (TOOL, "0.5}")], False),
        ([(POLICY, r"\boxed{0.5"), (TOOL, "}")], False),
        ([(POLICY, r"\box"), (TOOL, r"ed{0.5}")], False),
        ([(POLICY, r"\boxed"), (TOOL, r"{0.5}")], False),
        ([(POLICY, "prints"), (TOOL, r"\boxed{"), (POLICY, "0.5}")], False),
        ([(POLICY, r"\boxed{7}"), (TOOL, "0.5"), (POLICY, r"so \boxed{0.5}")], True),
        ([(POLICY, r"\boxed{0.5}"), (TOOL, "0.5"), (POLICY, r"no: \boxed{7}")], False),
        ([(POLICY, r"\boxed{0.5} \boxed{7"), (TOOL, "}")], False),
        # Text of two turns forms no box.
        ([(POLICY, r"\boxed{"), (TOOL, "7"), (POLICY, "0.5}")], False),
        ([(POLICY, r"\boxed"), (TOOL, "7"), (POLICY, "{0.5}")], False),
        ([(POLICY, r"\boxed{0."), (TOOL, "7"), (POLICY, "5}")], False),
    ],
)
def test_only_boxes_that_the_policy_wrote(
    grader: Grader, parts: list[tuple[Author, str]], correct: bool
) -> None:
    graded = Answers(grader).submit(episode(*parts)).result()
    assert graded.correct is correct
    assert graded.parts["answer"] == (1.0 if correct else -1.0)
