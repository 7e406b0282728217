"""ToRL's markup, line rule by line rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.episode import Call, End, Observation, Problem
from torl_jax.errors import UserError
from torl_jax.protocols.base import Protocol
from torl_jax.protocols.blocks import compat, last_code
from torl_jax.protocols.torl import STOP, ToRL

TORL = ToRL()
BLOCK = "```python\nprint(1)\n```\n"


def seen(text: str) -> Observation:
    return Observation(text, passed=True, status="ok")


def test_it_is_a_protocol() -> None:
    protocol: Protocol = TORL
    assert protocol.stops(0) == (STOP,)


def test_the_papers_prompt() -> None:
    braces = Problem("0", "What is {question} in \\boxed{}?", "4")
    assert TORL.prompt(braces) == (
        "A conversation between User and Assistant. The user asks a question, and the "
        "Assistant solves it.\n"
        "User: Please integrate natural language reasoning with programs to solve the "
        "problem above, and put your final answer within \\boxed{}.\n"
        "What is {question} in \\boxed{}?\n"
        "Assistant:\n"
    )


def test_without_calls_the_prompt_asks_for_no_program() -> None:
    plain = ToRL(calls=0).prompt(Problem("0", "What is 2+2?", "4"))
    assert plain == (
        "A conversation between User and Assistant. The user asks a question, and the "
        "Assistant solves it.\n"
        "User: Please reason step by step to solve the problem above, and put your final "
        "answer within \\boxed{}.\n"
        "What is 2+2?\n"
        "Assistant:\n"
    )
    assert ToRL("{question}", calls=0).prompt(Problem("0", "What?", "4")) == "What?"


def test_past_the_budget_a_stop_ends_or_there_is_none() -> None:
    assert ToRL(calls=1).stops(1) == () and ToRL(calls=1, past="end").stops(1) == (STOP,)
    ends = [ToRL(calls=1, past="end").end(STOP, n) for n in (0, 1, 2)]
    assert ends == [None, End.CALLS, End.CALLS]


@pytest.mark.parametrize("template", ["no question", "{Question}", "{question} {question}"])
def test_a_template_needs_its_one_question(template: str) -> None:
    with pytest.raises(UserError, match="exactly once"):
        ToRL(prompt_template=template)


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(UserError, match="calls is -1"):
        ToRL(calls=-1)


@pytest.mark.parametrize(("calls", "made", "stops"), [(0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)])
def test_stops_last_as_long_as_the_budget(calls: int, made: int, stops: int) -> None:
    assert len(ToRL(calls=calls).stops(made)) == stops


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        (BLOCK, "print(1)\n"),
        ("Let us see: ```python\nprint(1)\n```", "print(1)\n"),
        ("  ```python\nprint(1)\n```", "print(1)\n"),
        (BLOCK + "better:\n```python\nprint(2)\n```\n", "print(2)\n"),
        ("```python\nold\n```python\nprint(2)\n```\n", "print(2)\n"),
        ("```python\nprint(1)\n```text\n", "print(1)\n"),
        ("```python3\nprint(1)\n```\n", "print(1)\n"),
        ("```python\nif 1:\n\n    print(1)\n```\n", "if 1:\n\n    print(1)\n"),
        ('```python\nprint("""\n ```\n""")\n```\n', 'print("""\n ```\n""")\n'),
        ("```python print(0)\nprint(1)\n```\n", "print(1)\n"),
    ],
)
def test_the_last_closed_block_is_called(turn: str, code: str) -> None:
    assert TORL.call(turn + STOP) == Call(code)
    assert TORL.call(turn + STOP + "\n") == Call(code), "the stop may end inside a token"


@pytest.mark.parametrize(
    "turn",
    [
        "",
        "no code\n",
        "```python\nprint(1)\n",
        BLOCK + "```python\nprint(2)\n",
        "```py\nprint(1)\n```\n",
        "```Python\nprint(1)\n```\n",
        "```\nprint(1)\n```\n",
        "```python print(1)```\n",
        "```python\nprint(1)\n  ```\n",
        "```python\n```\n",
        "```python\n \n```\n",
    ],
)
def test_nothing_complete_asks_for_nothing(turn: str) -> None:
    assert TORL.call(turn + STOP) is None


def test_the_stop_itself_closes_no_block() -> None:
    assert TORL.call("```python\nprint(1)\n" + STOP + "\n") is None


def test_what_follows_the_stop_in_its_token_is_not_read() -> None:
    assert TORL.call(BLOCK + STOP + "\n```python\nprint(2)\n```\n") == Call("print(1)\n")


def test_insertion_completes_the_block() -> None:
    assert TORL.insertion(BLOCK + STOP, seen("1")) == "\n1\n```\n"
    assert TORL.insertion(BLOCK + STOP + "\n", seen("1")) == "1\n```\n"
    assert TORL.insertion("```python\nprint(1)\n" + STOP, None) == ""


@given(
    st.text("ab \n`", max_size=20).filter(lambda t: STOP not in t),
    st.lists(st.sampled_from(["x = 1", "", "    print(x)", "# é", " ```"]), min_size=1, max_size=5),
)
def test_any_block_comes_back_as_written(before: str, lines: list[str]) -> None:
    code = "\n".join(lines) + "\n"
    assert last_code(compat(f"{before}\n```python\n{code}```\nso\n")) == code
