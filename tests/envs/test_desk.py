"""Desks: answers once, deadlines, stops; and in lock-step the same news for all hosts."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from torl_jax.envs.desk import Desk, Failed, News, SharedDesk
from torl_jax.episode import Call, Observation, Problem

PROBLEM = Problem("p", "?", "1")


class Slow:
    """Answers a call that says how many seconds it takes; "fail" fails."""

    def __init__(self):
        self.seen = []
        self.open_now = 0

    def open(self, problem):
        self.open_now += 1
        return self

    def close(self):
        self.open_now -= 1

    def submit(self, call: Call) -> "Future[Observation]":
        self.seen.append(call.text)
        future: Future[Observation] = Future()

        def answer():
            if call.text == "fail":
                future.set_exception(OSError("gone"))
            else:
                future.set_result(Observation(call.text, True, "ok"))

        threading.Timer(0.0 if call.text == "fail" else float(call.text), answer).start()
        return future


def until(desk, count):
    answers = []
    while len(answers) < count:
        answers += desk.news(wait=True).answers
    return dict(answers)


def test_every_call_is_answered_once_under_its_ticket():
    desk = Desk(Slow())
    for i, code in enumerate(("0.2", "0", "fail")):
        desk.submit((i, 0), PROBLEM, Call(code))
    found = until(desk, 3)
    assert found[0, 0].text == "0.2" and found[1, 0].text == "0"
    assert found[2, 0] == Failed("OSError: gone")
    assert desk.news(wait=False) == News((), False, False, 0.0)


def test_an_episode_keeps_its_tool_until_it_leaves():
    env = Slow()
    desk = Desk(env)
    for ticket in ((0, 0), (0, 0), (1, 0)):
        desk.submit(ticket, PROBLEM, Call("0"))
        until(desk, 1)
    assert env.open_now == 2
    desk.submit((0, 0), PROBLEM, Call("0"))
    desk.leave((0, 0))
    assert env.open_now == 1
    time.sleep(0.2)
    assert desk.news(wait=False).answers == (), "who has left is not answered"
    desk.leave((0, 0))
    desk.close()
    assert env.open_now == 0


def test_the_deadline_and_a_stop_end_a_wait():
    desk = Desk(Slow(), seconds=0.3)
    desk.submit((0, 0), PROBLEM, Call("5"))
    begin = time.monotonic()
    assert desk.news(wait=True).late
    assert 0.2 < time.monotonic() - begin < 3
    stopped = threading.Event()
    desk = Desk(Slow(), stopped=stopped.is_set)
    desk.submit((0, 0), PROBLEM, Call("5"))
    threading.Timer(0.2, stopped.set).start()
    assert desk.news(wait=True).stop


class Meeting:
    """An exchange between threads that stand for hosts."""

    def __init__(self, count):
        self.values = [None] * count
        self.barrier = threading.Barrier(count)

    def at(self, index):
        def exchange(value):
            self.values[index] = value
            self.barrier.wait(30)
            everybody = list(self.values)
            self.barrier.wait(30)
            return everybody

        return exchange


@pytest.mark.parametrize("count", [2, 3])
def test_in_lock_step_calls_are_shared_out_and_news_are_the_same(count):
    meeting, envs = Meeting(count), [Slow() for _ in range(count)]
    codes = ["0.3", "0", "fail", "0.1", "0.2", "0"]

    def host(index):
        desk = SharedDesk(envs[index], index=index, count=count, exchange=meeting.at(index))
        for i, code in enumerate(codes):
            desk.submit((i, i), PROBLEM, Call(code))
        heard = []
        while sum(len(news.answers) for news in heard) < len(codes):
            heard.append(desk.news(wait=len(heard) % 2 == 0))
        return [news.answers for news in heard]

    with ThreadPoolExecutor(count) as pool:
        everybody = list(pool.map(host, range(count)))
    assert all(heard == everybody[0] for heard in everybody)
    assert sorted(t for answers in everybody[0] for t, _ in answers) == [(i, i) for i in range(6)]
    assert sorted(code for env in envs for code in env.seen) == sorted(codes)


def test_in_lock_step_one_hosts_clock_or_wish_counts_for_all():
    meeting = Meeting(2)

    def host(index):
        env, exchange = Slow(), meeting.at(index)
        late = SharedDesk(env, index=index, count=2, exchange=exchange, seconds=1e9 * index)
        stop = SharedDesk(env, index=index, count=2, exchange=exchange, stopped=lambda: index == 1)
        return late.news(wait=True), stop.news(wait=True)

    with ThreadPoolExecutor(2) as pool:
        for late, stop in pool.map(host, range(2)):
            assert late.late and not late.stop and stop.stop and not stop.late
