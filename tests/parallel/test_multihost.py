"""Who a process is among the hosts, and what is its share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.errors import UserError
from torl_jax.parallel import multihost
from torl_jax.parallel.multihost import Place

ENV = {"TORL_COORDINATOR": "a:1", "TORL_PROCESS_COUNT": "4", "TORL_PROCESS_ID": "3"}


def test_one_process_is_the_default():
    assert not Place.of(False, None, None, None, {}).several


def test_hosts_that_find_each_other_need_no_names():
    assert Place.of(True, None, None, None, {}) == Place(several=True)


def test_flags_go_before_the_environment():
    assert Place.of(False, None, None, None, ENV) == Place(True, "a:1", 4, 3)
    assert Place.of(False, "b:2", None, 0, ENV) == Place(True, "b:2", 4, 0)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"TORL_COORDINATOR": "a:1"}, "give all three"),
        ({"TORL_PROCESS_ID": "0"}, "give all three"),
        (ENV | {"TORL_PROCESS_ID": "4"}, "process_id=4 of process_count=4"),
        (ENV | {"TORL_PROCESS_ID": "-1"}, "TORL_PROCESS_ID=-1; expected a number"),
        (ENV | {"TORL_COORDINATOR": "a"}, "coordinator=a; expected HOST:PORT"),
        (ENV | {"TORL_COORDINATOR": ":1"}, "expected HOST:PORT"),
        (ENV | {"TORL_COORDINATOR": "a:99999"}, "expected HOST:PORT"),
    ],
)
def test_half_a_place_is_an_error(env, words):
    with pytest.raises(UserError, match=words) as error:
        Place.of(False, None, None, None, env)
    assert "\n" not in str(error.value)


@given(st.lists(st.integers()), st.integers(1, 9))
def test_shares_are_even_and_together_everything(items, count):
    shares = [multihost.share(items, i, count) for i in range(count)]
    assert [x for share in shares for x in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_exchange_is_free_and_nothing_differs():
    value = object()
    assert multihost.exchange(value)[0] is value
    multihost.same("configs", {"a": 1})


def test_a_difference_names_key_host_and_values(monkeypatch):
    monkeypatch.setattr(multihost, "exchange", lambda mine: [{"a": 1, "b": 2}, mine])
    with pytest.raises(UserError, match="differ in configs: b is 3 on host 1, 2 on host 0"):
        multihost.same("configs", {"a": 1, "b": 3})


def test_what_fails_on_one_host_fails_on_all_and_names_it(monkeypatch):
    def fail():
        raise UserError("no such file")

    with pytest.raises(UserError, match=r"^no such file$"):
        multihost.together(fail)
    assert multihost.together(lambda: 5) == 5
    monkeypatch.setattr(multihost, "count", lambda: 2)
    monkeypatch.setattr(multihost, "exchange", lambda mine: [mine, "no such file"])
    with pytest.raises(UserError, match=r"^host 1: no such file$"):
        multihost.together(lambda: 5)
