r"""The grader: the last \boxed{}, equal to the gold, whatever a model wrote into it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.pool import PoolClosed, WorkerError
from torl_jax.rewards.answer import Grade, Grader, grade, last_box


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1, timeout=10) as made:
        yield made


@pytest.fixture(scope="module")
def hasty() -> Iterator[Grader]:
    with Grader(workers=1, timeout=0.5) as made:
        yield made


def box(answer: str) -> str:
    return f"so the answer is \\boxed{{{answer}}}."


@pytest.mark.parametrize(
    ("response", "inside"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}!", r"\frac{1}{2}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.} then }", r"\left\{ x \right."),
        (r"\boxed{1 \\{2}}", r"1 \\{2}"),
        (r"\boxed{}", ""),
        (r"\boxed{5} is what \boxed says", "5"),
        (r"\boxed{5", None),
        (r"\boxed{1} and \boxed{5", None),
        (r"\boxed 5", None),
        (r"boxed{5}", None),
        ("5", None),
        ("", None),
    ],
)
def test_the_last_box(response: str, inside: str | None) -> None:
    assert last_box(response) == inside


@given(st.text("{}\\boxed 1", max_size=40))
def test_a_box_is_balanced_text_of_the_response(response: str) -> None:
    inside = last_box(response)
    if inside is not None:
        bare = inside.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        assert bare.count("{") == bare.count("}") and inside in response


def test_finding_the_box_is_linear() -> None:
    def seconds(response: str) -> float:
        start = time.perf_counter()
        last_box(response)
        return time.perf_counter() - start

    for part in ("\\boxed{", "{", "\\boxed ", "\\", "\\boxed{" + " " * 50):
        assert seconds(part * 100_000) < 2, "a quadratic search takes minutes"


EQUAL = [
    ("5", "5"),
    (r"\frac{\pi}{2}", "π/2"),
    ("π/2", r"\frac{\pi}{2}"),
    ("1,-2", "-2,1"),
    ("1,234,567", "1234567"),
    ("1234", "1{,}234"),
    (r"10,\!080", "10080"),
    ("1024", "2^{10}"),
    (r"\frac12", "0.5"),
    (r"3\frac12", "3.5"),
    (r"\text{Monday}", "Monday"),
    ("x=5", "5"),
    ("5", "x=5"),
    (r"90^\circ", "90"),
    ("5", r"5\text{ cm}"),
    ("[1,2)", r"\left[1, 2\right)"),
    (r"\{1,2\}", r"\{2,1\}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
]
DIFFERENT = [
    (r"70\sqrt{2}", r"70\sqrt{3}"),
    ("6-5i", "6+5i"),
    (r"8\pi", "8"),
    ("(1,-2)", "(-2,1)"),
    ("[1,2)", "(1,2]"),
    (r"\text{Monday}", r"\text{Tuesday}"),
    ("1,234", "1.234"),
    ("5", ""),
    ("5", " "),
    ("", "5"),
    ("", ""),
    ("5", r"\text{}"),
    ("5", "}{"),
    ("3", "３"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers(grader: Grader, gold: str, answer: str) -> None:
    assert grader.submit(gold, box(answer)).result() == Grade(True)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers(grader: Grader, gold: str, answer: str) -> None:
    assert grader.submit(gold, box(answer)).result() == Grade(False)


def test_a_percent_sign_is_overlooked(grader: Grader) -> None:
    """Known: the library takes 10% for 10. When this fails it has become stricter."""
    assert grader.submit("10", box(r"10\%")).result().correct


def test_the_public_function() -> None:
    assert grade("1/2", r"first \boxed{3}, no: \boxed{\frac{1}{2}}") is True
    assert grade("1/2", r"first \boxed{\frac12}, no: \boxed{3}") is False
    assert grade("5", "5") is False
    assert grade("5", r"\boxed{5") is False


def test_the_same_text_needs_no_worker(grader: Grader) -> None:
    before = grader.counts.copy()
    assert grader.submit(r"\text{any \LaTeX}", box(r" \text{any \LaTeX} ")).result().correct
    assert not grader.submit("5", "no box").result().correct
    assert grader.counts == before


def test_a_pair_is_compared_once(grader: Grader) -> None:
    before = grader.counts.copy()
    futures = [grader.submit("0.75", box(r"\frac{3}{4}") + " " * n) for n in range(5)]
    assert all(f.result().correct for f in futures)
    assert grader.counts - before == {"compared": 1, "cached": 4}


@pytest.mark.parametrize("bomb", ["10^{10^{10}}", "(10^7)!", "(" * 3000 + "5" + ")" * 3000])
def test_a_bomb_times_out_is_logged_and_harms_nobody(hasty: Grader, caplog, bomb: str) -> None:
    before = hasty.counts["timeout"]
    failed = hasty.submit("5", box(bomb)).result()
    assert not failed.correct and failed.failure.startswith("timeout")
    assert hasty.counts["timeout"] == before + 1
    assert "gold '5'" in caplog.text and repr(bomb[:20])[:-1] in caplog.text
    assert hasty.submit("5", box("10/2")).result() == Grade(True), "a new worker goes on"


def test_a_million_digits_are_wrong_at_once(grader: Grader) -> None:
    digits = "7" * 1_000_000
    start = time.perf_counter()
    assert grader.submit("7", box(digits)).result() == Grade(False)
    assert grader.submit(digits, box(digits)).result() == Grade(True)
    assert time.perf_counter() - start < 1
    assert not grader.submit("7", box(digits[:9_000])).result().correct


def ticks(pid: int) -> int:
    """CPU time of a process, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_worker_that_dies_costs_one_grade(caplog) -> None:
    with Grader(workers=1) as grader:
        assert grader.submit("5", box("10/2")).result().correct
        (worker,) = grader._pool._living
        pid = worker.pid
        idle = ticks(pid)
        future = grader.submit("5", box("10^{10^{10}}"))
        while ticks(pid) < idle + 10:  # until it is busy with the pair
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        assert future.result().failure.startswith("crash")
        assert grader.submit("5", box("20/4")).result().correct
    assert "grading failed" in caplog.text


def test_a_closed_grader_says_so() -> None:
    grader = Grader(workers=1)
    waiting = grader.submit("5", box("10/2"))
    grader.close()
    with pytest.raises(WorkerError):
        waiting.result()
    with pytest.raises(PoolClosed):
        grader.submit("5", box("10/2"))
