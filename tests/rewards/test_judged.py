"""The second opinion: who is asked, what it changes, and what its failures do."""

import threading
from concurrent.futures import Future

import pytest

from tests.rewards.test_tags import GOOD, written
from torl_jax.episode import End, Score
from torl_jax.errors import UserError
from torl_jax.metrics import rollout_stats
from torl_jax.protocols.torl import ToRL
from torl_jax.rewards.answer import Grade
from torl_jax.rewards.judged import Judged
from torl_jax.rewards.outcome import Answers, Outcome
from torl_jax.toolbench.remote import Unavailable

WORTH = Outcome(right=1.0, wrong=0.0, strict=True)


class Stern:
    """A grader to whom only what is listed is right."""

    def __init__(self, *right: str) -> None:
        self.right = right

    def submit(self, gold: str, *texts: str) -> "Future[Grade]":
        done: Future[Grade] = Future()
        done.set_result(Grade(any(text in self.right for text in texts)))
        return done


class Judge:
    """Says what it was told to, and remembers who asked."""

    def __init__(self, verdict: bool | Exception) -> None:
        self.verdict, self.asked, self.closed = verdict, [], False
        self.threads: set[threading.Thread] = set()

    def __call__(self, question: str, gold: str, answer: str) -> bool:
        self.asked.append((gold, answer))
        self.threads.add(threading.current_thread())
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def judged(request):
    """judged(judge, *right answers by the grader): closed after the test."""
    made = []

    def make(judge: Judge, *right: str) -> Judged:
        made.append(Judged(Answers(Stern(*right), WORTH), judge, WORTH))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_wrong_answer_may_be_right_after_all(judged):
    judge = Judge(True)
    score = judged(judge).submit(written(GOOD)).result(60)
    assert judge.asked == [("2", "2")]
    # The grader's verdict stays visible beside it.
    assert score == Score(1.0, True, {"answer": 0.0, "judge": 1.0})
    row = rollout_stats([written(GOOD)], [score], ToRL())
    assert (row["rollout/reward_answer"], row["rollout/reward_judge"]) == (0, 1)
    assert threading.main_thread() not in judge.threads


def test_it_is_not_asked_in_vain(judged):
    judge = Judge(True)
    reward = judged(judge, GOOD)
    assert reward.submit(written(GOOD)).result(60) == Score(1.0, True, {"answer": 1.0})
    for episode in (
        written("no box"),
        written("\\\\boxed{2}"),  # not in the shape that is asked for
        written(GOOD.replace("2", "3"), end=End.ABORT),
        written(GOOD.replace("2", "3"), end=End.LENGTH),
    ):
        assert not reward.submit(episode).result(60).correct
    assert judge.asked == []


def test_a_judge_may_agree(judged):
    assert judged(Judge(False)).submit(written(GOOD)).result(60) == Score(
        0.0, False, {"answer": 0.0}
    )


def test_a_judge_without_a_verdict_leaves_the_graders(judged):
    score = judged(Judge(Unavailable("no answer"))).submit(written(GOOD)).result(60)
    assert (score.total, score.correct, score.failure) == (0.0, False, "judge: no answer")
    row = rollout_stats([written(GOOD)], [score], ToRL())
    assert row["rollout/judge_failure_ratio"] == 1 and row["rollout/grader_crash_ratio"] == 0


def test_a_judge_that_refuses_us_ends_the_run(judged):
    with pytest.raises(UserError, match="refuses us"):
        judged(Judge(UserError("it refuses us"))).submit(written(GOOD)).result(60)


def test_closing_closes_it_and_what_is_graded_later_is_not_left_waiting(judged):
    judge = Judge(True)
    reward = judged(judge)
    reward.close()
    assert judge.closed
    with pytest.raises(RuntimeError, match="shutdown"):
        reward.submit(written(GOOD)).result(60)
