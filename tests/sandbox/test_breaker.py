"""The circuit breaker, with a clock of the test's own."""

from hypothesis import given
from hypothesis import strategies as st

from sandbox.breaker import Breaker


def opened(rest: float = 1.0, most_rest: float = 8.0) -> Breaker:
    """A breaker that has opened at time 0."""
    breaker = Breaker(failures=3, rest=rest, most_rest=most_rest)
    fail(breaker, 0.0)
    return breaker


def fail(breaker: Breaker, now: float) -> None:
    """Opens a closed one."""
    for _ in range(3):
        breaker.failure(breaker.allow(now), now)
    assert breaker.state(now) == "open"


def test_it_opens_after_failures_in_a_row_only():
    breaker = Breaker(failures=3)
    for failed in (True, True, False, True, True):
        ticket = breaker.allow(0.0)
        breaker.failure(ticket, 0.0) if failed else breaker.success(ticket)
    assert breaker.state(0.0) == "closed"
    breaker.failure(breaker.allow(0.0), 0.0)
    assert breaker.state(0.0) == "open" and not breaker.allow(0.0)


def test_half_open_lets_one_job_through():
    breaker = opened()
    assert not breaker.allow(0.99) and breaker.state(0.99) == "open"
    assert breaker.state(1.0) == "half-open"
    ticket = breaker.allow(1.0)
    assert ticket and not breaker.allow(1.0) and not breaker.allow(50.0)
    breaker.success(ticket)
    assert breaker.state(1.0) == "closed" and breaker.allow(1.0) and breaker.allow(1.0)


def test_each_failed_trial_doubles_the_rest_up_to_a_bound():
    breaker, now = opened(), 0.0
    for rest in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert not breaker.allow(now + rest - 0.01)
        now += rest
        breaker.failure(breaker.allow(now), now)
    now += 8.0
    breaker.success(breaker.allow(now))
    fail(breaker, now)
    assert breaker.state(now + 1.0) == "half-open"  # it begins anew


def test_what_was_sent_before_it_opened_says_nothing_new():
    breaker = Breaker(failures=3, rest=1.0)
    old = breaker.allow(0.0)
    fail(breaker, 0.0)
    breaker.failure(old, 0.9)
    assert breaker.state(1.0) == "half-open"
    breaker.success(old)
    assert breaker.state(1.0) == "half-open"
    trial = breaker.allow(1.0)
    breaker.failure(old, 1.1)
    breaker.neither(old)
    assert breaker.state(1.1) == "half-open" and not breaker.allow(1.1)
    breaker.success(trial)
    assert breaker.state(1.1) == "closed"
    breaker.failure(old, 1.2)
    fail(breaker, 1.2)  # which takes three, as ever


def test_a_trial_without_a_verdict_is_given_to_the_next():
    breaker = opened()
    first = breaker.allow(1.0)
    breaker.neither(first)
    second = breaker.allow(1.0)
    breaker.failure(first, 1.0)
    assert breaker.state(1.0) == "half-open" and second and not breaker.allow(1.0)


@given(st.lists(st.tuples(st.sampled_from("aasfn"), st.integers(0, 9), st.floats(0, 5))))
def test_it_never_stays_open_for_longer_than_its_bound(steps):
    breaker, now, out = Breaker(failures=2, rest=1.0, most_rest=4.0), 0.0, []
    for step, which, wait in steps:
        now += wait
        if step == "a":
            ticket = breaker.allow(now)
            out += [ticket] if ticket else []
        elif out:  # only what was allowed is reported back, in any order
            ticket = out.pop(which % len(out))
            if step == "f":
                breaker.failure(ticket, now)
            else:
                (breaker.success if step == "s" else breaker.neither)(ticket)
        assert breaker.state(now + 4.0) != "open"
        assert breaker.ready(now) or breaker.state(now) == "open" or out
    for ticket in out:
        breaker.neither(ticket)
    assert breaker.allow(now + 4.0)
