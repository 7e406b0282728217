"""The circuit breaker, with a clock of the test's own."""

from hypothesis import given
from hypothesis import strategies as st

from sandbox.breaker import Breaker


def opened(rest: float = 1.0, most_rest: float = 8.0) -> Breaker:
    """A breaker that has opened at time 0."""
    breaker = Breaker(failures=3, rest=rest, most_rest=most_rest)
    for _ in range(3):
        assert breaker.allow(0.0)
        breaker.failure(0.0)
    return breaker


def test_it_opens_after_failures_in_a_row_only():
    breaker = Breaker(failures=3)
    for failed in (True, True, False, True, True):
        assert breaker.allow(0.0)
        breaker.failure(0.0) if failed else breaker.success()
    assert breaker.state(0.0) == "closed"
    breaker.failure(0.0)
    assert breaker.state(0.0) == "open" and not breaker.allow(0.0)


def test_half_open_lets_one_job_through():
    breaker = opened()
    assert not breaker.allow(0.99) and breaker.rests(0.75) == 0.25
    assert breaker.state(1.0) == "half-open"
    assert breaker.allow(1.0) and not breaker.allow(1.0) and not breaker.allow(50.0)
    breaker.success()
    assert breaker.state(1.0) == "closed" and breaker.allow(1.0) and breaker.allow(1.0)


def test_each_failed_try_doubles_the_rest_up_to_a_bound():
    breaker, now, rests = opened(), 0.0, []
    for _ in range(5):
        rests.append(breaker.rests(now))
        now += rests[-1]
        assert breaker.allow(now)
        breaker.failure(now)
    assert rests == [1.0, 2.0, 4.0, 8.0, 8.0]
    now += breaker.rests(now)
    assert breaker.allow(now)
    breaker.success()
    for _ in range(3):
        breaker.failure(now)
    assert breaker.rests(now) == 1.0  # it begins anew


def test_jobs_sent_before_it_opened_do_not_prolong_it():
    breaker = opened()
    breaker.failure(0.9)
    assert breaker.allow(1.0)


def test_a_try_without_a_verdict_is_given_to_the_next():
    breaker = opened()
    assert breaker.allow(1.0)
    breaker.neither()
    assert breaker.state(1.0) == "half-open" and breaker.allow(1.0)


@given(st.lists(st.tuples(st.sampled_from("asfn"), st.floats(0, 5)), max_size=60))
def test_it_never_stays_open_for_longer_than_its_bound(steps):
    breaker, now, out = Breaker(failures=2, rest=1.0, most_rest=4.0), 0.0, 0
    for step, wait in steps:
        now += wait
        if step == "a":
            out += breaker.allow(now)
        elif out:  # only what was allowed is reported back
            out -= 1
            if step == "f":
                breaker.failure(now)
            else:
                (breaker.success if step == "s" else breaker.neither)()
        assert breaker.rests(now) <= 4.0
        assert (breaker.state(now) == "open") == (breaker.rests(now) > 0)
    if out == 0:
        assert breaker.allow(now + 4.0)
