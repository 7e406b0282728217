"""ToolRL's reward: the reference's own vectors, worked numbers, schedules, golds."""

import json
import math

import pyarrow.parquet
import pytest

from torl_jax.rewards.matching import similarity
from torl_jax.rewards.toolrl import (
    MalformedGold,
    ToolRLReward,
    check_gold,
    extract,
    score,
    without_thought,
)

SWITCHES = {
    "WITHLENGTH": "length",
    "SCHEDULELENGTH": "dynamic_length",
    "CORRECTMAX1": "equal_max",
    "MAX1STEP30MAX3": "two_stage",
    "SCHEDULEREWARD": "dynamic_scale",
    "REFINEDREWARD": "refined",
    "INTERMEDIATEREWARD": "intermediate",
    "COARSEREWARD": "coarse",
}
DEFAULT = ToolRLReward()


def call(name, **parameters):
    return json.dumps({"name": name, "parameters": parameters})


def acting(*calls, thought="why"):
    return f"<think> {thought} </think>\n<tool_call>\n" + "\n".join(calls) + "\n</tool_call>"


def saying(text="done", thought="why"):
    return f"<think> {thought} </think>\n<response> {text} </response>"


def correctness(gold, output, **switches):
    return score(output, gold, variant=ToolRLReward(**switches), step=1).parts["correctness"]


@pytest.fixture(scope="module")
def vectors(shared):
    return json.loads((shared / "vectors/toolrl.json").read_text())


def test_reference_vectors(vectors):
    checked = 0
    for case in vectors["reward_vectors"]:
        for name, wanted in case["expected"].items():
            on = [SWITCHES[key] for key in vectors["meta"]["variants"][name] if key in SWITCHES]
            variant = ToolRLReward(**dict.fromkeys(on, True))
            if "raises" in wanted:
                with pytest.raises(MalformedGold):
                    score(case["output"], case["gold"], variant=variant, step=case["step"])
                assert check_gold(case["gold"])
                continue
            got = score(case["output"], case["gold"], variant=variant, step=case["step"])
            assert got.total == pytest.approx(wanted.pop("total"), abs=1e-9), (case["id"], name)
            assert dict(got.parts) == pytest.approx(wanted, abs=1e-9), (case["id"], name)
            assert check_gold(case["gold"]) == ""
            checked += 1
    assert checked > 1000


def test_list_similarity_vectors(vectors):
    for case in vectors["list_similarity_vectors"]:
        assert similarity(case["gold"], case["pred"]) == case["default"]
        assert similarity(case["gold"], case["pred"], strict=True) == case["refined"]


def test_extraction_vectors(vectors):
    for case in vectors["extraction_vectors"]:
        name = case["experiment_name"]
        family = "llama" if "llama" in name else "qwen" if "qwen" in name else name
        if "raises" in case:
            with pytest.raises(ValueError, match="family"):
                extract(case["decoded"], family)
            continue
        got = extract(case["decoded"], family)
        assert got == case["extracted"], case["id"]
        assert score(got, case["gold"], variant=DEFAULT, step=1).total == case["default_total"]


def test_extraction_without_markers():
    assert extract(" a <|im_end|> b", "qwen") == "a"
    assert extract("<|im_start|>assistant\n a<|eot_id|>", "qwen") == "a<|eot_id|>"
    with pytest.raises(ValueError, match="family is 'Qwen', expected one of qwen, llama"):
        extract("a", "Qwen")


W = call("get_weather", city="Oslo")
B = call("book_table", restaurant="Sula", guests=4, time="19:30")
L = call("list_accounts")
C = call("convert", amount=100, src="USD", dst="EUR")
M12, M19, M72 = call("mix", a=1, b=2), call("mix", a=1, b=9), call("mix", a=7, b=2)

# Gold calls, predicted calls, correctness by default, refined, intermediate.
WORKED = {
    "renamed parameter": ([W], [call("get_weather", location="Oslo")], -1, -1, 0),
    "wrong tool": ([W], [call("get_forecast", city="Oslo")], -3, -3, -3),
    "extra parameter": ([B], [B.replace('"guests"', '"x": 1, "guests"')], 2.7, 1.8, 0),
    "number as text": ([B], [B.replace("4", '"4"')], 1.8, 1.8, 0),
    "other order, one wrong": (
        [B], [call("book_table", time="19:30", guests=5, restaurant="Sula")], 1.8, 0.6, 0,
    ),
    "no parameters wanted": ([L], [call("list_accounts", page=1)], 0, 0, 0),
    "first alone": ([W, B], [W], -6 / 7, -9 / 7, 0),
    "second alone": ([W, B], [B], 6 / 7, 3 / 7, 0),
    "too many": ([W], [W, L, B], 5 / 3, 1, 1),
    "trap": ([M12, M19], [M19, M72], 3 / 7, 3 / 7, 1),
    "trap, other order": ([M12, M19], [M72, M19], 15 / 7, 15 / 7, 1),
    "names only": (
        [W, C, L],
        [call("get_weather", a=1), call("convert", a=1), call("list_accounts", a=1)],
        -2.25, -2.25, -1.5,
    ),
    "true is 1": (
        [call("set_flag", on=1)], [call("set_flag", on=True)], 3, 3, 3,
    ),
    "4 is 4.0": ([B], [B.replace("4", "4.0")], 3, 3, 3),
    "null is null only": ([call("f", a=None)], [call("f", a=0)], 1, 1, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", WORKED)
def test_worked_numbers(case):
    gold, made, default, refined, intermediate = WORKED[case]
    gold, made = acting(*gold), acting(*made)
    assert correctness(gold, made) == pytest.approx(default)
    assert correctness(gold, made, refined=True) == pytest.approx(refined)
    assert correctness(gold, made, intermediate=True) == pytest.approx(intermediate)
    assert correctness(gold, made, coarse=True) == (3 if default == 3 else -3)
    assert correctness(gold, made, coarse=True, intermediate=True) == (3 if default == 3 else -3)
    assert correctness(gold, made, equal_max=True) == pytest.approx(default / 3)


def test_the_optimal_assignment_escapes_the_trap():
    gold, made = acting(M12, M19), acting(M19, M72)
    assert correctness(gold, made, matching="optimal") == pytest.approx(15 / 7)
    # Exact pairs are found either way.
    assert correctness(gold, made, matching="optimal", intermediate=True) == pytest.approx(1)


def test_the_gold_decides_the_shape():
    both = f"{acting(W)}\n<response> r </response>"
    golds = {"tools": acting(W), "response": saying(), "both": both, "thought": "<think>x</think>"}
    for wanted, gold in golds.items():
        for made, output in golds.items():
            got = score(output, gold, variant=DEFAULT, step=1).parts["format"]
            # A response may hold anything, also a thought's end: the thought's shape fits all.
            assert got == (made == wanted or (wanted == "thought" and output.endswith("</think>")))


@pytest.mark.parametrize(
    ("variant", "step", "form", "right"),
    [
        (ToolRLReward(), 7, (0, 1), (-3, 3)),
        (ToolRLReward(equal_max=True), 7, (0, 1), (-1, 1)),
        (ToolRLReward(two_stage=True), 29, (0, 1), (-1, 1)),
        (ToolRLReward(two_stage=True), 30, (0, 0.5), (-3, 3)),
        (ToolRLReward(two_stage=True, equal_max=True), 29, (0, 1), (-1 / 3, 1 / 3)),
        (ToolRLReward(dynamic_scale=True), 0, (-2, 2), (-2, 2)),
        (ToolRLReward(dynamic_scale=True), 30, (-1.6, 1.8), (-2.2, 2.2)),
        (ToolRLReward(dynamic_scale=True), 75, (-1, 1.5), (-2.5, 2.5)),
        (ToolRLReward(dynamic_scale=True), 400, (-1, 1), (-3, 3)),
        (ToolRLReward(dynamic_scale=True, two_stage=True), 75, (-1, 1.25), (-2.5, 2.5)),
        (ToolRLReward(dynamic_scale=True, equal_max=True), 225, (-1, 1), (-0.5, 0.5)),
    ],
)
def test_ranges(variant, step, form, right):
    assert variant.ranges(step) == (pytest.approx(form), pytest.approx(right))


@pytest.mark.parametrize("p", [0, 0.25, 1, 2])
def test_schedules_of_the_paper(p):
    variant = ToolRLReward(dynamic_scale=True, length=True, dynamic_length=True,
                           schedule="paper", steps=200)  # fmt: skip
    share = min(p, 1)
    form, right = variant.ranges(int(200 * p))
    assert form == pytest.approx((-2 + share, 2 - share))
    assert right == pytest.approx((-2 - share, 2 + share))
    assert variant.target(int(200 * p)) == 512 * (1 + share)


def test_length():
    output = acting(W, thought="w " * 256)
    fixed = ToolRLReward(length=True)
    grows = ToolRLReward(length=True, dynamic_length=True)
    assert score(output, output, variant=fixed, step=105).parts["length"] == 0.5
    for step, wanted in {0: 0.67, 1: 0.66, 15: 0.61, 105: 0.4, 200: 0.29}.items():
        assert score(output, output, variant=grows, step=step).parts["length"] == wanted
    without = ToolRLReward(dynamic_length=True)
    assert score(output, output, variant=without, step=1).parts["length"] == 0
    # Of several thoughts the last counts, up to its end or the text's.
    several = "<think> a </think> <think> " + "w " * 512
    assert score(several, output, variant=fixed, step=1).parts["length"] == 1
    assert score("<think> " + "w " * 512, output, variant=fixed, step=1).parts["length"] == 0


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"matching": "best"}, "matching is 'best', expected 'greedy' or 'optimal'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"schedule": "paper"}, "'paper'.*and steps is 0: give .*steps=N.*config.run.steps"),
        ({"steps": -1}, "steps is -1, expected 0 or more"),
        ({"coarse": "yes"}, "coarse is 'yes', expected a bool"),
    ],
)
def test_impossible_variants(values, found):
    with pytest.raises(ValueError, match=found):
        ToolRLReward(**values)


def test_a_negative_step():
    with pytest.raises(ValueError, match="step is -1, expected 0 or more"):
        score("", "", variant=DEFAULT, step=-1)


def test_correct_is_no_matter_of_the_variant():
    gold = acting(W, B)
    for variant in (DEFAULT, ToolRLReward(coarse=True), ToolRLReward(refined=True)):
        for output, wanted in {
            gold: True,
            acting(B, W): True,
            acting(W, B.replace('"parameters"', '"id": 7, "parameters"')): True,
            acting(W): False,
            acting(W, B, B): False,
            acting(W, B.replace("4", "5")): False,
            "Sure. " + gold: False,
        }.items():
            assert score(output, gold, variant=variant, step=1).correct is wanted
    assert not score(acting(W, C), acting(W, W), variant=DEFAULT, step=1).correct
    assert score(saying("a"), saying("b"), variant=DEFAULT, step=1).correct
    assert not score(saying(acting(W)), saying("b"), variant=DEFAULT, step=1).correct


def test_golds_that_cannot_be_scored_against():
    for gold, reason in {
        acting('{"name": "f"'): "gold calls: line 1 is no JSON: Expecting ',' delimiter",
        acting(W, "", B): "gold calls: line 2 is no JSON: Expecting value",
        acting(W, thought="use <tool_call>"): "the thought names <tool_call>; see without_thought",
        "<tool_call></tool_call>": "gold calls: line 1 is no JSON",
        acting(W) + "\n" + acting("x"): "step 2 of 2: gold calls: line 1 is no JSON",
        acting("[" * 300 + "]" * 300): "line 1 nests more than 256 deep",
        acting("[" * 100_000): "line 1 nests more than 256 deep",
        acting("9" * 5000): "line 1 is no JSON",
        acting(*[W] * 257): "257 gold calls, more than 256",
        "\n".join([acting(*[W] * 129)] * 2): "258 gold calls, more than 256",
    }.items():
        assert reason in check_gold(gold)
        assert "\n" not in check_gold(gold)
    with pytest.raises(MalformedGold, match="line 1"):
        score("", acting("x"), variant=DEFAULT, step=1)
    late = acting(W) + "\n<response> a <think> is no step, <tool_call> no second block </response>"
    for gold in (acting(W), saying(), "", "<think> no more </think>", "<tool_call>" + W, late):
        assert check_gold(gold) == ""


def test_golds_whose_calls_cannot_be_compared_are_met_exactly_or_not():
    for odd in ('{"name": "ping"}', '{"parameters": {}}', "42", "[1]"):
        gold = acting(odd)
        assert check_gold(gold) == ""
        assert correctness(gold, gold) == 3
        assert correctness(gold, acting(W)) == -3
        assert correctness(gold, acting(odd, odd)) == -3


def odd(name, parameters):
    return json.dumps({"name": name, "parameters": parameters})


# Gold calls, predicted calls, switches, correctness.
ODD_GOLDS = {
    "a number for a name": ([odd(1, {"a": 1})], [odd(1, {"a": 2})], {}, 1),
    "true is 1, also as a name": ([odd(1, {"a": 1})], [odd(True, {"a": 2})], {}, 1),
    "null for a name": ([odd(None, {})], [odd(None, {})] * 2, {}, 1.5),
    "NaN is no name's equal": ([odd(math.nan, {})], [odd(math.nan, {})] * 2, {}, -1.5),
    "a list for a name": ([odd([], {"a": 1})], [odd([], {}), W], {}, -3),
    "lists for names, equal": ([odd([], {"a": 1})], [odd([], {"a": 2})], {}, 1),
    "a list for a name, refined": (
        [odd([1], {"a": 1}), W], [odd([1], {"a": 2}), B], {"refined": True}, -1.8,
    ),
    "null for parameters": ([odd("x", None), W], [W], {}, -3),
    "null for parameters, as a whole": (
        [odd("x", None)], [B, odd("x", None)], {"intermediate": True}, 1.5,
    ),
    "a list for parameters, not called": ([odd("x", []), W], [W], {}, 0.75),
    "a list for parameters, called": ([odd("x", []), W], [W, odd("x", {})], {}, -3),
    "a list for parameters, the call taken": (
        [odd("x", {"a": 1}), odd("x", [])], [odd("x", {"a": 1})], {}, 0.75,
    ),
    "text for parameters, best pairs": (
        [odd("x", "ab"), W], [W], {"matching": "optimal"}, -0.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD_GOLDS)
def test_odd_golds_are_compared_as_far_as_the_formula_goes(case):
    gold, made, switches, wanted = ODD_GOLDS[case]
    assert correctness(acting(*gold), acting(*made), **switches) == pytest.approx(wanted)
    assert correctness(acting(*gold), acting(*gold), **switches) == 3


def test_a_block_ends_at_a_second_opening_too():
    cut = f"<think> t </think>\n<tool_call>\n{W}\n<tool_call>\n{B}\n</tool_call>"
    assert correctness(acting(W), cut) == 3
    assert check_gold(cut) == ""
    assert correctness(cut, acting(W)) == 3 and correctness(cut, acting(W, B)) < 3


def test_golds_that_are_no_plain_mistake_show_in_their_own_score():
    gold = acting(W, thought="no <response> yet")
    assert check_gold(gold) == ""
    assert not score(gold, gold, variant=DEFAULT, step=1).correct


def test_the_test_rows_score_themselves_perfectly(shared):
    rows = pyarrow.parquet.read_table(shared / "data/toolrl/rlla_test.parquet")
    golds = [row["ground_truth"] for row in rows.column("reward_model").to_pylist()]
    totals = []
    for gold in golds:
        assert check_gold(gold) == ""
        for variant in (DEFAULT, ToolRLReward(matching="optimal")):
            got = score(gold, gold, variant=variant, step=1)
            assert got.correct and got.parts["format"] == 1
        totals.append(got.total)
    assert (totals.count(4), totals.count(1)) == (71, 9)


def test_thoughts_of_golds_can_be_left_out(shared):
    rows = json.loads((shared / "data/toolrl/rlla_sft.json").read_text())
    golds = [row["output"] for row in rows]
    assert sum(check_gold(gold) != "" for gold in golds) == 17
    for gold in golds:
        bare = without_thought(gold)
        assert check_gold(bare) == ""
        assert score(bare, bare, variant=DEFAULT, step=1).correct
        assert without_thought(bare) == bare
        if not check_gold(gold):
            got = score(gold, bare, variant=DEFAULT, step=1)
            assert got == score(gold, gold, variant=DEFAULT, step=1)


def test_thoughts_are_left_out_of_every_step():
    gold = acting(W, thought="<tool_call>\n?") + "\n" + saying(thought="</tool_call>")
    bare = without_thought(gold)
    assert bare.count("<think></think>\n") == 2
    assert check_gold(gold) and not check_gold(bare)
    assert math.isclose(correctness(bare, acting(W)), 3)
