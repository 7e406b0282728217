"""Schedules of episodes with tools: as events, and that the scripted engine follows its script.

By the same engine: grading is never on the critical path.
"""

import statistics
import threading
from concurrent.futures import Future

import pytest

from benchmarks.latency import probe, schedules, simulate
from benchmarks.latency.scripted import Scripted, problems
from benchmarks.latency.simulate import Costs, Curve
from benchmarks.latency.workload import ANSWER, CAP, KINDS, MEAN, PROMPT, Script, scripts
from torl_jax.crew import Crew
from torl_jax.rewards.answer import Grade
from torl_jax.rewards.outcome import Answers

PATIENCE = 30.0  # seconds; only a rollout that waits for its grades waits so long


def costs(read: float = 0.0, **step: Curve) -> Costs:
    """step: `rows4` for steps of 4 rows."""
    curves = {int(name.removeprefix("rows")): curve for name, curve in step.items()}
    return Costs(curves, read, rows=2, width=64)


FLAT: Curve = ((0,), (0.1,))
EVEN = costs(rows4=FLAT)


def test_lengths_do_not_hang_on_how_many_calls_there_are():
    without, with_calls = scripts(500, 0, 1), scripts(500, 3, 1)
    assert [s.tokens for s in without] == [s.tokens for s in with_calls]
    assert {len(s.calls) for s in with_calls} == {0, 1, 2, 3}
    assert all(len(s.turns) == len(s.calls) + 1 and min(s.turns) > 0 for s in with_calls)
    assert 0.9 * MEAN < statistics.mean(s.tokens for s in scripts(5000, 0, 2)) < 1.1 * MEAN
    assert max(s.tokens for s in scripts(5000, 0, 2)) == CAP
    assert sum(share for share, _ in KINDS.values()) == pytest.approx(1.0)


def test_one_episode_takes_its_steps_and_its_tools():
    script = Script(turns=(10, 5), calls=("slow",))
    for schedule in simulate.SCHEDULES.values():
        clock = schedule([script], 4, 8, 1.0, EVEN)
        assert clock.seconds == pytest.approx(15 * 0.1 + 0.3)
        assert clock.slot_steps == 15 * 4


def test_rounds_wait_for_the_slowest_and_ours_does_not():
    both = [Script((10, 10), ("stuck",)), Script((10, 10), ("quick",))]
    ours = simulate.ours(both, 4, 10, 1.0, EVEN)
    assert ours.seconds == pytest.approx(1.0 + 10.0 + 1.0)
    filled = simulate.ours([*both, *[Script((50,), ())] * 6], 4, 10, 1.0, EVEN)
    # Others write while the one waits: it costs them nothing.
    assert filled.seconds < 1.0 + 10.0 + 1.0 + 5.0
    late = simulate.rounds([*both, *[Script((50,), ())] * 6], 4, 10, 1.0, EVEN)
    assert late.seconds > 10.0 + 10.0


def test_fewer_rows_where_fewer_live():
    uneven = [Script((10,), ()), Script((40,), ())]
    one = simulate.ours(uneven, 4, 10, 1.0, EVEN)
    two = simulate.ours(uneven, 4, 10, 1.0, costs(rows1=((0,), (0.05,)), rows4=FLAT))
    assert (one.slot_steps, two.slot_steps) == (160, 10 * 4 + 30)
    assert two.seconds == pytest.approx(1.0 + 1.5)


def test_long_rows_make_steps_slow():
    slow = costs(rows4=((0, 1000), (0.1, 10.1)))
    alike = simulate.ours([Script((10,), ())] * 4, 4, 10, 1.0, slow)
    assert alike.seconds == pytest.approx(10 * (0.1 + 0.01 * 5))
    # One long row of four costs a quarter of four: what the others have is read once, and their
    # places where they have ended are not.
    both = [Script((30,), ()), *[Script((10,), ())] * 3]
    three = 10 * 5 + 10 * 15 / 4 + 10 * 25 / 4
    assert simulate.ours(both, 4, 10, 1.0, slow).seconds == pytest.approx(3.0 + 0.01 * three)
    again = [Script((10, 10), ("quick",))] * 4
    for schedule in simulate.SCHEDULES.values():
        clock = schedule(again, 4, 10, 0.0, slow)
        assert clock.seconds == pytest.approx(2.0 + 0.01 * (50 + 150))


def test_what_plain_attention_reads():
    assert simulate.reach([100] * 8, 8) == 100
    # All as far as the fifth, four as far as the third, two as far as the second, one alone.
    assert (
        simulate.reach([9, 80, 70, 60, 50, 40, 30, 20], 8)
        == (8 * 40 + 4 * (60 - 40) + 2 * (70 - 60) + 1 * (80 - 70)) / 8
    )
    assert simulate.reach([80, 70], 8) == (2 * 70 + 1 * 10) / 8
    # An eighth goes together.
    assert simulate.reach([80, 70, *[0] * 14], 16) == 2 * 80 / 16


def test_reading_takes_a_call_for_so_many_texts_of_so_many_tokens():
    dear = costs(1.0, rows4=FLAT)
    # Three prompts of 32 tokens are two calls of two texts.
    assert simulate.ours([Script((10,), ())] * 3, 4, 10, 1.0, dear).seconds == pytest.approx(3.0)
    # Read anew behind 100 tokens: 132 are three calls; an answer alone is one.
    called = [Script((100, 10), ("quick",))]
    assert simulate.ours(called, 4, 10, 0.0, dear).seconds == pytest.approx(1 + 10 + 1 + 1)
    assert simulate.rounds(called, 4, 10, 0.0, dear).seconds == pytest.approx(1 + 10 + 3 + 1)


@pytest.fixture(scope="module")
def engine():
    each = [Script((9,), ()), Script((3, 20), ("quick",)), Script((30, 1, 4), ("slow", "quick"))]
    return Scripted(each, slots=2, segment=8, compact=True)


@pytest.mark.parametrize("name", list(schedules.SCHEDULES))
def test_the_engine_writes_what_the_script_says(engine, name):
    engine.begin()
    schedules.SCHEDULES[name](engine, 0.01)
    written = sum(script.tokens for script in engine.scripts)
    assert (engine.tally.decoded_tokens, engine.tally.rewound_tokens) == (written, 0)
    if name != "rounds":
        # A prompt and a tool's answer are read once, but for the token that decoding feeds; the
        # call that stands before an answer was still to be read with it.
        answers = sum(len(script.calls) for script in engine.scripts)
        assert engine.tally.read_tokens <= 3 * (PROMPT - 1) + answers * ANSWER


def test_what_steps_cost_is_measured_and_leaves_no_trace(engine):
    found = probe.costs(engine)
    assert sorted(found.step) == sorted(engine.batch_sizes) == [2]
    written, seconds = found.step[2]
    assert list(written) == sorted(set(written)) and len(written) == len(seconds)
    assert engine.capacity > max(written) and min(*seconds, found.read) > 0
    assert engine.free == 2 and engine.tally.decoded_tokens == 0
    schedules.ours(engine, 0.01)
    assert engine.tally.decoded_tokens == sum(script.tokens for script in engine.scripts)


class Slow:
    """Stands where the grader stands; has no verdict before the last episode was handed in."""

    def __init__(self, engine: Scripted) -> None:
        self.engine = engine
        self.decoded: list[int] = []  # tokens of all rows, whenever an answer came
        self.all_in = threading.Event()

    def submit(self, gold: str, *response: str) -> "Future[Grade]":
        """As the grader's."""
        self.decoded.append(self.engine.tally.decoded_tokens)
        if len(self.decoded) == len(self.engine.scripts):
            self.all_in.set()
        grade: Future[Grade] = Future()
        threading.Thread(target=self.compare, args=(grade,), daemon=True).start()
        return grade

    def compare(self, grade: "Future[Grade]") -> None:
        """Takes until all others have been written."""
        grade.set_result(Grade(self.all_in.wait(PATIENCE)))


def test_episodes_are_graded_while_others_are_written(engine):
    engine.begin()
    grader = Slow(engine)
    crew = Crew(schedules.rollout(engine, 0.01), Answers(grader))
    harvest = crew.collect(problems(len(engine.scripts)), 1, step=1)
    # Nobody waited for a grade: each was there only when all had been written.
    assert [score.correct for score in harvest.scores] == [True] * len(engine.scripts)
    # Nor did an answer wait for anybody: each was handed in as its episode ended.
    first, second, last = grader.decoded
    assert first < last / 2 and first < second < last
    assert last == sum(script.tokens for script in engine.scripts)
