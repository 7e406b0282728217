"""What is added to the outcome, and that it never touches correctness."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.episode import Author, Call, End, Episode, Observation, Problem, Segment, Turn
from torl_jax.rewards.answer import Grade
from torl_jax.rewards.outcome import Outcome
from torl_jax.rewards.shaping import failed, overlong

FINE = Turn(Call("1"), Observation("1", True, "ok"))
BROKEN = Turn(Call("1/0"), Observation("E", False, "error"))
EMPTY = Turn(None, None)


def episode(*turns: Turn, policy: int = 2, tool: int = 1) -> Episode:
    segments = (
        Segment(Author.PROMPT, (1,) * 7, ""),
        Segment(Author.POLICY, (2,) * policy, "", (-1.0,) * policy),
        Segment(Author.TOOL, (3,) * tool, ""),
    )
    return Episode(Problem("p", "", "1"), 0, segments, turns, End.EOS)


@pytest.mark.parametrize(
    ("turns", "fixed", "compat"),
    [
        ((), False, True),
        ((FINE,), False, False),
        ((BROKEN,), True, True),
        ((EMPTY,), False, True),
        ((BROKEN, FINE), True, False),
        ((FINE, BROKEN), True, False),
        ((EMPTY, FINE), False, False),
    ],
)
def test_whose_code_did_not_execute(turns, fixed: bool, compat: bool) -> None:
    assert failed(episode(*turns), "fixed") is fixed
    assert failed(episode(*turns), "compat") is compat


@pytest.mark.parametrize(
    ("length", "share"), [(0, 0), (80, 0), (81, 0.05), (90, 0.5), (100, 1), (120, 1)]
)
def test_the_length_penalty_is_linear_in_its_buffer(length: int, share: float) -> None:
    for tool in (0, length // 2):
        made = episode(policy=length - tool, tool=tool)
        assert overlong(made, 100, 20) == pytest.approx(share)


def test_without_a_buffer_only_the_full_length_is_punished() -> None:
    assert overlong(episode(policy=98), 100, 0) == 0
    assert overlong(episode(policy=99), 100, 0) == 1


@given(st.integers(0, 200), st.integers(0, 100))
def test_the_share_is_a_share_and_grows(length: int, buffer: int) -> None:
    now, then = (overlong(episode(policy=n), 100, buffer) for n in (length, length + 1))
    assert 0 <= now <= then <= 1


def test_parts_add_up_and_correctness_is_the_graders() -> None:
    reward = Outcome(execution=-0.5, overlong=-1.0, overlong_buffer=20, most=100)
    score = reward.score(episode(BROKEN, policy=89), Grade(True))
    assert score.correct and score.total == pytest.approx(1 - 0.5 - 0.5)
    assert score.parts == {"answer": 1.0, "execution": -0.5, "overlong": pytest.approx(-0.5)}
    plain = Outcome().score(episode(BROKEN, policy=500), Grade(False, "timeout: late"))
    assert (plain.total, plain.correct, plain.failure) == (-1.0, False, "timeout: late")
    assert plain.parts == {"answer": -1.0}
