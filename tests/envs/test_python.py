"""What the policy reads of a program's outcome, by each policy; and the real sandbox."""

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from sandbox import Result, Sandbox, SandboxError
from torl_jax.envs.base import then
from torl_jax.envs.lossy import Lossy, loses
from torl_jax.envs.python import PythonEnv, compat, cut, fixed, streams
from torl_jax.envs.recorded import RecordedEnv, UnknownCallError
from torl_jax.episode import Call, Observation, Problem
from torl_jax.errors import UserError

TRACE = (
    'Traceback (most recent call last):\n  File "x", line 2\nZeroDivisionError: division by zero\n'
)


PROBLEM = Problem("p", "?", "42")


def result(status: str = "ok", stdout: str = "", stderr: str = "", code: int = 0) -> Result:
    return Result(status, stdout, stderr, code, 0.25, 0.2, 0, "full")


@pytest.mark.parametrize(
    ("outcome", "text", "passed"),
    [
        (result(stdout="1\n2\n"), "1\n2", True),
        (result(), "[no output]", True),
        (result(stdout=" \n"), "[no output]", True),
        (result(stderr="DeprecationWarning"), "[no output]", True),
        (result(stdout="Error: 5\nok"), "Error: 5\nok", True),
        (result("error", "", TRACE, 1), "ZeroDivisionError: division by zero", False),
        (result("error", "1\n", TRACE, 1), "1\nZeroDivisionError: division by zero", False),
        (result("error", "1\n", "", 3), "1\n[exit code 3]", False),
        (result("timeout", "1\n", "", -9), "[stopped: ran longer than 5 s]", False),
        (result("memory", "1\n", "", -9), "[stopped: used too much memory]", False),
        (result("killed", "1\n", "", -9), "[stopped: killed]", False),
    ],
)
def test_fixed(outcome: Result, text: str, passed: bool) -> None:
    assert fixed(outcome, timeout=5) == Observation(text, passed, outcome.status, 0.25)


CARETS = """\
Traceback (most recent call last):
  File "/box/p.py", line 2, in <module>
    print(1 / 0)
          ~~^~~
ZeroDivisionError: division by zero
"""


@pytest.mark.parametrize(
    ("outcome", "text", "passed"),
    [
        (result(stdout="1\n2\n"), "1\n2", True),
        (result(), "", True),
        (result(stdout="x" * 5000, stderr="Warning"), "x" * 5000, True),  # not cut: see ZeroTIR
        (
            result("error", "1\n", CARETS, 1),
            "Traceback (most recent call last):\n  line 2, in <module>\n    print(1 / 0)\n"
            "ZeroDivisionError: division by zero",
            False,
        ),
        (result("error", "1\n", "", 3), "[exit code 3]", False),
        (result("timeout", "1\n", "", -9), "[stopped: ran longer than 5 s]", False),
    ],
)
def test_streams(outcome: Result, text: str, passed: bool) -> None:
    assert streams(outcome, timeout=5) == Observation(text, passed, outcome.status, 0.25)


@pytest.mark.parametrize(
    ("outcome", "text", "passed"),
    [
        (result(stdout="1\n2\n"), "1\n2", True),
        (result(), "TimeoutError", True),
        (result(stdout="Error: 5\nok"), "ok", True),
        (result("error", "", TRACE, 1), "ZeroDivisionError: division by zero", False),
        (result("error", "1\n", TRACE, 1), "1", True),
        (result("error", "", "", 3), "TimeoutError", False),
        (result("timeout", "", "", -9), "TimeoutError", False),
        (result("timeout", "1\n", "", -9), "1", True),
    ],
)
def test_compat_keeps_the_quirks(outcome: Result, text: str, passed: bool) -> None:
    assert compat(outcome, timeout=5) == Observation(text, passed, outcome.status, 0.25)


def test_long_text_keeps_its_head_and_tail() -> None:
    head, tail = "a" * 128, "b" * 128
    assert cut(head + tail[1:], 256) == head + tail[1:]
    assert cut(head + tail, 256) == head + "..." + tail
    assert cut(head + "c" * 9999 + tail, 256) == head + "..." + tail
    for policy in (fixed, compat):
        assert policy(result(stdout=head + "c" + tail), 5).text == head + "..." + tail
    long = fixed(result("error", "a" * 999, TRACE, 1), 5).text
    assert long.endswith("\nZeroDivisionError: division by zero") and len(long) == 259


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1, preload=()) as box:
        yield box


def test_real_programs(sandbox: Sandbox) -> None:
    env = PythonEnv(sandbox, timeout=5).open(PROBLEM)
    assert env.submit(Call("print(6 * 7)")).result().text == "42"
    silent = env.submit(Call("x = 6 * 7")).result()
    assert (silent.text, silent.passed, silent.status) == ("[no output]", True, "ok")
    failed = env.submit(Call("print(1)\n1 / 0")).result()
    assert (failed.text, failed.passed) == ("1\nZeroDivisionError: division by zero", False)
    assert (
        PythonEnv(sandbox, "compat").open(PROBLEM).submit(Call("print(1)\n1 / 0")).result().text
        == "1"
    )
    endless = (
        PythonEnv(sandbox, timeout=0.3).open(PROBLEM).submit(Call("while True: pass")).result()
    )
    assert (endless.text, endless.status) == ("[stopped: ran longer than 0.3 s]", "timeout")
    assert endless.seconds > 0


def test_our_own_failure_is_no_observation() -> None:
    box = Sandbox(workers=1, preload=())
    box.close()
    for stateful in (False, True):
        answer = PythonEnv(box, stateful=stateful).open(PROBLEM).submit(Call("print(1)"))
        assert isinstance(answer.exception(), SandboxError)


def test_an_episodes_cells_share_one_interpreter(sandbox: Sandbox) -> None:
    env = PythonEnv(sandbox, timeout=5, stateful=True)
    one, other = env.open(PROBLEM), env.open(PROBLEM)
    assert one.submit(Call("x = 6\nprint(x)")).result().text == "6"
    assert one.submit(Call("print(7 * x)")).result().text == "42"
    assert "NameError" in other.submit(Call("print(x)")).result().text
    failed = one.submit(Call("y = 1\n1 / 0")).result()
    assert (failed.text, failed.passed) == ("ZeroDivisionError: division by zero", False)
    assert one.submit(Call("print(x, y)")).result().text == "6 1"
    alone = PythonEnv(sandbox, timeout=5).open(PROBLEM)
    alone.submit(Call("x = 6")).result()
    assert "NameError" in alone.submit(Call("print(x)")).result().text
    one.close()
    other.close()
    assert isinstance(one.submit(Call("print(x)")).exception(), SandboxError)


def test_some_problems_lose_their_first_output(sandbox: Sandbox) -> None:
    problems = [Problem(str(i), "?", "1") for i in range(1000)]
    env = Lossy(PythonEnv(sandbox, timeout=5), 0.3)
    lost = [problem for problem in problems if loses(problem, 0.3)]
    assert 250 < len(lost) < 350
    assert not any(loses(p, 0.0) for p in problems) and all(loses(p, 1.0) for p in problems)
    tool = env.open(lost[0])
    answers = [tool.submit(Call("print(42)")).result() for _ in range(3)]
    assert [seen.text for seen in answers] == ["[no output]", "42", "42"]
    assert [seen.passed for seen in answers] == [True] * 3
    kept = next(problem for problem in problems if not loses(problem, 0.3))
    assert env.open(kept).submit(Call("print(42)")).result().text == "42"


def test_wrong_choices_are_named() -> None:
    with Sandbox(workers=1, preload=()) as box:
        with pytest.raises(UserError, match="'strict' is not one of fixed, compat"):
            PythonEnv(box, "strict")
        with pytest.raises(UserError, match="at least 2 characters"):
            PythonEnv(box, limit=0)


def test_then_passes_results_and_failures_on() -> None:
    source: Future[int] = Future()
    doubled = then(source, lambda n: 2 * n)
    assert not doubled.done()
    source.set_result(21)
    assert doubled.result() == 42
    assert isinstance(then(source, lambda n: n / 0).exception(), ZeroDivisionError)
    failed: Future[int] = Future()
    failed.set_exception(SandboxError("down"))
    with pytest.raises(SandboxError, match="down"):
        then(failed, lambda n: n).result()


def test_recorded_observations_are_replayed() -> None:
    seen = Observation("42", True, "ok")
    env = RecordedEnv({"print(6 * 7)\n": seen})
    assert env.submit(Call("print(6 * 7)\n")).result() is seen
    with pytest.raises(UnknownCallError, match=r"no observation .* 'print\(6\)' \(1 others are\)"):
        env.submit(Call("print(6)"))
