"""One rollout in advance: which step gets which, what is waited for, what failures do."""

import threading
import time

import pytest

from torl_jax.ahead import Ahead


def test_nothing_runs_in_advance_unless_asked_to():
    asked: list[int] = []
    with Ahead(lambda step: asked.append(step) or step) as ahead:
        assert [ahead.take(0), ahead.take(1)] == [0, 1] and asked == [0, 1]
        assert not ahead.busy
        ahead.settle()


def test_what_was_started_is_taken_and_runs_beside_the_caller():
    gate, threads = threading.Event(), []

    def sample(step: int) -> int:
        threads.append(threading.current_thread())
        assert gate.wait(60)
        return step * 10

    with Ahead(sample) as ahead:
        ahead.start(1)
        assert ahead.busy  # and the caller is free
        gate.set()
        assert ahead.take(1) == 10 and not ahead.busy
        assert ahead.take(2) == 20
    assert threads[0] is not threading.main_thread() and threads[1] is threading.main_thread()


def test_at_most_one_is_under_way_and_steps_are_not_mixed_up():
    with Ahead(lambda step: step) as ahead:
        ahead.start(3)
        with pytest.raises(RuntimeError, match="step 3 has not been taken"):
            ahead.start(4)
        with pytest.raises(RuntimeError, match="step 4 is to be taken, 3 was started"):
            ahead.take(4)
        assert ahead.take(3) == 3


def test_settling_waits_and_keeps_what_there_is():
    done = threading.Event()

    def sample(step: int) -> int:
        time.sleep(0.05)
        done.set()
        return step

    with Ahead(sample) as ahead:
        ahead.start(7)
        ahead.settle()
        assert done.is_set() and ahead.take(7) == 7


def test_a_failure_is_raised_where_the_step_is_taken():
    def sample(step: int) -> int:
        raise OSError(f"step {step}")

    with Ahead(sample) as ahead:
        ahead.start(5)
        ahead.settle()
        with pytest.raises(OSError, match="step 5"):
            ahead.take(5)
        assert not ahead.busy


def test_leaving_waits_for_what_is_under_way():
    ended = threading.Event()

    def sample(step: int) -> None:
        time.sleep(0.05)
        ended.set()

    with pytest.raises(KeyError), Ahead(sample) as ahead:
        ahead.start(1)
        raise KeyError
    assert ended.is_set()
