"""A tool block carried out: in order, in words, and never by an exception that is not ours."""

import json
import threading
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools import sample
from torl_jax.envs.tools import ToolEnv
from torl_jax.episode import Call, Problem
from torl_jax.errors import UserError
from torl_jax.tools.python import PythonTools
from torl_jax.tools.toolbox import Function, Outcome, Together, ToolFailure

PROBLEM = Problem("p", "?", "")


class Box:
    """Answers at once, or in a thread; knows f (any x) and g."""

    def __init__(self, at_once=True):
        self.functions = {
            "f": Function("f", "F.", {"properties": {"x": {}}}),
            "g": Function("g", "G.", {"properties": {"n": {"type": "integer"}}, "required": ["n"]}),
        }
        self.at_once, self.seen = at_once, []

    def submit(self, name, parameters, timeout):
        assert len(self.seen) == self.ended(), "one after another"
        answer = Future()
        self.seen.append((name, parameters, timeout, answer))
        if self.at_once:
            self._answer(answer, parameters)
        else:
            threading.Timer(0.01, self._answer, (answer, parameters)).start()
        return answer

    def ended(self):
        return sum(each[-1].done() for each in self.seen)

    def _answer(self, answer, parameters):
        match parameters.get("x"):
            case "late":
                answer.set_result(Outcome("stopped", "timeout", 2.0))
            case "bad":
                answer.set_result(Outcome("ValueError", "error", 0.5))
            case "down":
                answer.set_exception(ToolFailure("down"))
            case value:
                answer.set_result(Outcome(value, "ok", 0.25))

    def close(self):
        self.seen.append("closed")


def lines(*calls):
    return "\n".join(json.dumps({"name": n, "parameters": p}) for n, p in calls)


def ask(box, text, **options):
    return ToolEnv(box, **options).open(PROBLEM).submit(Call(text)).result(30)


@pytest.mark.parametrize("at_once", [True, False])
def test_calls_are_carried_out_in_order_and_listed(at_once):
    box = Box(at_once)
    seen = ask(box, lines(("f", {"x": 1}), ("g", {"n": 2}), ("f", {"x": {"a": None}})), timeout=3.0)
    assert [each[:3] for each in box.seen] == [
        ("f", {"x": 1}, 3.0), ("g", {"n": 2}, 3.0), ("f", {"x": {"a": None}}, 3.0),
    ]  # fmt: skip
    assert seen.text == (
        '[{"name": "f", "results": 1}, {"name": "g", "results": null}, '
        '{"name": "f", "results": {"a": null}}]'
    )
    assert (seen.passed, seen.status, seen.seconds) == (True, "ok", 0.75)


def test_what_the_model_got_wrong_is_said_and_the_rest_is_carried_out():
    box = Box()
    text = "\n".join(
        [
            "{",
            *lines(("h", {}), ("g", {"n": "2"}), ("g", {}), ("f", {"y": 1})).split("\n"),
            "",
            lines(("f", {"x": "ok"})),
        ]
    )
    seen = ask(box, text)
    words = [each["results"] for each in json.loads(seen.text)]
    assert [each["name"] for each in json.loads(seen.text)] == ["", "h", "g", "g", "f", "f"]
    assert words[0].startswith("not JSON")
    assert words[1:] == [
        "no tool has this name; the tools are: f, g",
        'the parameter "n" is "2", expected integer',
        'the parameter "n" is missing',
        'unknown parameter "y"; the parameters are: x',
        "ok",
    ]
    assert (seen.passed, seen.status, len(box.seen)) == (False, "error", 1)


def test_the_first_failure_names_the_status():
    seen = ask(Box(), lines(("f", {"x": 1}), ("f", {"x": "late"}), ("f", {"x": "bad"})))
    assert (seen.passed, seen.status, seen.seconds) == (False, "timeout", 2.75)
    assert ask(Box(), lines(("f", {"x": "bad"}))).status == "error"


@pytest.mark.parametrize("at_once", [True, False])
def test_our_own_failure_is_no_observation_and_ends_the_block(at_once):
    box = Box(at_once)
    text = lines(("f", {"x": 1}), ("f", {"x": "down"}), ("f", {"x": 2}))
    with pytest.raises(ToolFailure, match="down"):
        ask(box, text)
    assert len(box.seen) == 2


def test_an_episode_that_leaves_makes_no_more_calls():
    box, first = Box(), Future()
    box.submit = lambda name, parameters, timeout: box.seen.append(parameters["x"]) or first
    env = ToolEnv(box)
    left, other = env.open(PROBLEM), env.open(PROBLEM)
    asked = [each.submit(Call(lines(*[("f", {"x": 1})] * 3))) for each in (left, other)]
    assert len(box.seen) == 2
    left.close()
    first.set_result(Outcome(1))
    assert isinstance(asked[0].exception(30), ToolFailure)
    assert len(json.loads(asked[1].result(30).text)) == 3 and len(box.seen) == 4


def test_a_toolbox_that_refuses_at_once_is_heard_in_the_future():
    box = Box()
    box.submit = lambda *_: (_ for _ in ()).throw(ToolFailure("closed"))
    asked = ToolEnv(box).open(PROBLEM).submit(Call(lines(("f", {}))))
    assert isinstance(asked.exception(), ToolFailure)


def test_a_result_is_cut_and_the_list_stays_json():
    long = '\u00e9"' * 5000
    for value in (long, [long], {"x": long}):
        seen = ask(Box(), lines(("f", {"x": value}), ("f", {"x": "short"})), limit=100)
        first, second = json.loads(seen.text)
        assert len(first["results"]) == 103 and "..." in first["results"]
        assert second["results"] == "short" and seen.text.isascii() and "\n" not in seen.text
    (kept,) = json.loads(ask(Box(), lines(("f", {"x": [1] * 30})), limit=100).text)
    assert kept["results"] == [1] * 30


def test_a_block_of_thousands_of_calls_is_cut():
    box = Box()
    listed = json.loads(ask(box, lines(*[("f", {"x": 1})] * 5000), most=500).text)
    assert len(box.seen) == 500 and "4500 more lines" in listed[-1]["results"]


def test_figures_out_of_range():
    for options in ({"timeout": 0.0}, {"limit": 1}, {"most": 0}):
        with pytest.raises(UserError, match="at least 2 characters and 1 call"):
            ToolEnv(Box(), **options)


def test_several_toolboxes_are_one():
    one, other = Box(), Box()
    other.functions = {"h": Function("h", "H.", {"properties": {"x": {}}})}
    both = Together([one, other])
    assert list(both.functions) == ["f", "g", "h"]
    assert ask(both, lines(("h", {"x": 1}), ("f", {"x": 2}))).passed
    assert [each[0] for each in one.seen] == ["f"] and [each[0] for each in other.seen] == ["h"]
    both.close()
    assert one.seen[-1] == other.seen[-1] == "closed"
    with pytest.raises(UserError, match="two tools are named 'f'"):
        Together([one, Box()])


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(['{"name": "f", ', '"parameters": {}}', "\n", "f"])).map("".join)
)
def test_no_text_breaks_it(text):
    seen = ask(Box(), text)
    listed = json.loads(seen.text)
    assert seen.passed == (seen.status == "ok")
    assert all(each.keys() == {"name", "results"} for each in listed)


def test_real_functions():
    with PythonTools(sample.__file__, workers=1) as toolbox:
        text = lines(
            ("add", {"a": 1}),
            ("act", {"how": "sleep"}),
            ("act", {"how": "big"}),
            ("weather", {"city": "Oslo"}),
        )
        seen = ask(toolbox, text, timeout=1.0)
        results = [each["results"] for each in json.loads(seen.text)]
        assert results[0] == 2 and results[1] == "stopped: it took longer than 1 s"
        assert results[2].startswith("xxx") and results[2].endswith("(10000000 characters)")
        assert results[3] == {"city": "Oslo", "sky": "clear", "unit": "c"}
        assert (seen.passed, seen.status) == (False, "timeout")
    with pytest.raises(ToolFailure):
        ask(toolbox, text)
