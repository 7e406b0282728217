"""ZeroTIR's markup: two states, what is run, what is shown, and how an episode ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.episode import Call, End, Observation, Problem
from torl_jax.errors import UserError
from torl_jax.protocols.text import Stop
from torl_jax.protocols.zerotir import (
    ANSWERED,
    CLOSE,
    OPEN,
    PLAIN_PROMPT,
    PROMPT,
    ROLES,
    TOO_LONG,
    ZeroTIR,
)  # fmt: skip

PROBLEM = Problem("p", "What is {x} + 1?", "2")


def words(texts):
    return [len(text.split()) for text in texts]


ZERO = ZeroTIR(words, calls=2, limit=8)
TURN = "Let me see.\n```python\nprint(2)\n```"


def seen(text):
    return Observation(text, True, "ok")


def test_the_prompt_ends_with_an_open_thought_and_speaks_of_no_fence():
    prompt = ZERO.prompt(PROBLEM)
    assert prompt.endswith("\nThis is the problem:What is {x} + 1?\nAssistant: <think>")
    assert "Python" in prompt and "```" not in prompt and "2" not in prompt
    plain = ZeroTIR(words, calls=0).prompt(PROBLEM)
    assert "Python" not in plain and "code" not in plain
    # The control lacks one sentence and nothing else.
    at = PROMPT.index("While thinking")
    assert PROMPT[:at] + PROMPT[PROMPT.index("User: Put") :] == PLAIN_PROMPT


def test_templates_and_budgets_are_checked():
    with pytest.raises(UserError, match="0 times"):
        ZeroTIR(words, "no place")
    with pytest.raises(UserError, match="calls is -1"):
        ZeroTIR(words, calls=-1)


def find(text, made=0, cut=1):
    pieces = [text[i : i + cut].encode() for i in range(0, len(text), cut)]
    stop = ZERO.finder(made).feed(pieces)
    return stop and (stop.text, text[: stop.tokens * cut])


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_prose_and_code_have_stops_of_their_own(cut):
    code = "```python\nprint('User: x</answer>')\n```"
    text, kept = find(f"A ```fence``` of another kind.\n```\n{code} User: more", cut=cut)
    # Neither a fence that closes nothing, nor words of roles within code.
    assert text == CLOSE and kept.startswith(f"A ```fence``` of another kind.\n```\n{code}")
    assert len(kept) < len(f"A ```fence``` of another kind.\n```\n{code}") + cut
    for word in (*ROLES, ANSWERED):
        assert find(f"So, {word} ```python\n```", cut=cut)[0] == word
    assert find("```python\nfor ever") is None


def test_with_no_call_left_nothing_is_run():
    assert find(TURN + " more", made=1)[0] == CLOSE
    assert find(TURN + " more", made=2) is None
    assert find(TURN + " </answer>", made=2)[0] == ANSWERED
    assert CLOSE in ZERO.stops(1) and CLOSE not in ZERO.stops(2)


def plainly(text):
    """Where the turn ends, by characters: the stop and its end."""

    def first(at, names):
        found = [(text.find(n, at) + len(n), -len(n), n) for n in names if text.find(n, at) >= 0]
        return min(found) if found else None

    found = first(0, (*ROLES, ANSWERED, OPEN))
    if found and found[2] == OPEN:
        found = first(found[0], (CLOSE,))
    return found


parts = st.lists(
    st.sampled_from([OPEN, CLOSE, "```", "`", "\n", "x", "User:", "</answer>", "é"]), max_size=12
)


@given(parts, st.data())
def test_tokens_and_segments_may_be_cut_anywhere(parts, data):
    text = "".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(text) - 1, 1)), max_size=8)))
    pieces = [text[a:b].encode() for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    finder, found = ZERO.finder(0), None
    while pieces and found is None:
        count = data.draw(st.integers(1, 3))
        found, pieces = finder.feed(pieces[:count]), pieces[count:]
    wanted = plainly(text)
    if wanted is None:
        assert found is None
        return
    end = len(text[: wanted[0]].encode())
    kept = next(n for n, at in enumerate([*cuts, len(text)], 1) if at >= wanted[0])
    assert found == Stop(kept, wanted[2], end)


def test_ends():
    assert ZERO.end(CLOSE, 0) is None
    assert ZERO.end(ANSWERED, 0) is End.ANSWER
    assert {ZERO.end(word, 2) for word in ROLES} == {End.ROLE}


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        (TURN, "print(2)\n"),
        (TURN + "\n", "print(2)\n"),  # the stop's token spelled more
        ("```python\nif x:\n    print(3)\n\n```", "if x:\n    print(3)\n\n"),
        ("```python print(4)\n```", " print(4)\n"),
        ("```python\n \n```", None),
        ("```python\n```", None),
    ],
)
def test_what_a_turn_asks_for(turn, code):
    assert ZERO.call(turn) == (code and Call(code))


def test_output_is_shown_in_a_block_of_its_own():
    assert ZERO.insertion(TURN, seen("2")) == "\n```output\n2\n```\n\n\n"
    assert ZERO.insertion(TURN + "\n", seen("2")) == "```output\n2\n```\n\n\n"
    assert ZERO.insertion(TURN, None) == ""


def test_output_beyond_the_limit_is_replaced_not_cut():
    fits, long = " ".join("abcdef"), " ".join("abcdefg")
    assert fits in ZERO.insertion(TURN, seen(fits))
    assert ZERO.insertion(TURN, seen(long)) == f"\n```output\n{TOO_LONG}\n```\n\n\n"


def test_answers_and_blocks():
    text = "<answer> a </answer> x <answer>\\boxed{2}</answer>"
    assert ZERO.answer_at(text) == text.rindex("<answer>")
    assert ZERO.answer_at("<answer> open") is None
    assert [block.code for block in ZERO.blocks(TURN + "\n")] == ["print(2)\n"]
