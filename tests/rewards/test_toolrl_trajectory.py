"""ToolRL's reward of a whole episode with live tools."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rewards.test_toolrl import B, L, W, acting, saying
from tests.rewards.test_toolrl_properties import lines, steps, texts, variants
from torl_jax.rewards.toolrl import (
    MalformedGold,
    ToolRLReward,
    check_gold,
    score,
    score_trajectory,
)

DEFAULT = ToolRLReward()
GOLD = "\n".join((acting(W), acting(B), saying()))


def parts(*turns, gold=GOLD, **switches):
    variant = ToolRLReward(**switches)
    got = score_trajectory(turns, gold, variant=variant, step=1)
    return got.parts["format"], pytest.approx(got.parts["correctness"]), got.correct


def test_the_gold_steps_earn_the_most():
    assert parts(acting(W), acting(B), saying("other words")) == (1, 3, True)
    assert parts(acting(W), acting(B), saying(), coarse=True) == (1, 3, True)


def test_calls_count_whichever_turn_makes_them():
    assert parts(acting(W, B), saying()) == (1, 3, True)
    assert parts(acting(B), acting(W), saying()) == (1, 3, True)
    assert parts(acting(B), acting(W), saying(), coarse=True) == (1, -3, True)
    assert parts(acting(W), saying()) == (1, -6 / 7, False)
    # Asking again costs by the names: J = 2 / 3.
    assert parts(acting(W), acting(W), acting(B), saying()) == (1, -3 + 6 * (6 + 2 / 3) / 7, False)


def test_format_is_the_mean_over_turns():
    assert parts(acting(W), "<tool_call>\n" + B + "\n</tool_call>", saying()) == (2 / 3, 3, False)
    assert parts(acting(W), acting(B), "done") == (2 / 3, 3, False)
    assert parts(acting(W), acting(B)) == (1, 3, True)
    assert parts("done", "") == (0, -3, False)
    variant = ToolRLReward(dynamic_scale=True)
    got = score_trajectory(["", saying()], GOLD, variant=variant, step=0)
    assert got.parts["format"] == 0 and got.total == -2


def test_a_block_that_cannot_be_used_is_one_call_that_matches_nothing():
    for block in ("no JSON", '{"name": "get_weather"}', "[]", W + "\n\n" + W, '{"name": []}'):
        assert parts(acting(block), acting(W), acting(B), saying()) == (
            1,
            -3 + 6 * (6 + 2 / 3) / 7,
            False,
        )
        assert parts(acting(block), saying()) == (1, -3, False)
        assert parts(acting(block), acting(W), acting(B), coarse=True)[1] == -3
    # With names as ordered lists it makes them another list.
    refined = parts(acting("no JSON"), acting(W), acting(B), refined=True)
    assert refined == (1, -3 + 6 * 6 / 7, False)


def test_no_call_is_wanted():
    assert parts(saying(), gold=saying()) == (1, 0, True)
    assert parts(acting(L), saying(), gold=saying()) == (1, 0, False)


def test_no_turn_is_one_empty_turn():
    assert parts() == parts("") == (0, -3, False)


def test_the_last_thought_counts_for_length():
    variant = ToolRLReward(length=True)
    turns = [acting(W), acting(B), saying(thought="w " * 256)]
    assert score_trajectory(turns, GOLD, variant=variant, step=1).parts["length"] == 0.5
    assert score_trajectory(turns[::-1], GOLD, variant=variant, step=1).parts["length"] == 0


def test_a_malformed_step_is_named():
    gold = acting(W) + "\n" + acting("x") + "\n" + saying()
    with pytest.raises(MalformedGold, match="step 2 of 3: gold calls: line 1 is no JSON"):
        score_trajectory([""], gold, variant=DEFAULT, step=1)
    assert "step 2 of 3" in check_gold(gold)


@given(texts, lines | st.just(saying()), variants, steps)
def test_one_turn_for_one_step_is_the_score_of_the_turn(turn, gold, variant, step):
    one = score(turn, gold, variant=variant, step=step)
    whole = score_trajectory([turn], gold, variant=variant, step=step)
    if ("<tool_call>" in turn) == ("<tool_call>" in gold):
        assert whole == one
    else:  # the turn's own shape is asked for, and nothing else differs
        assert whole.parts["correctness"] == one.parts["correctness"]
        assert whole.parts["length"] == one.parts["length"]
        assert not whole.correct and not one.correct
