"""What holds for ToolRL's reward whatever is written: ranges, relations between outputs."""

import itertools
import json
import re

from hypothesis import example, given
from hypothesis import strategies as st

from tests.rewards.test_toolrl import acting, correctness, saying
from torl_jax.rewards import shapes
from torl_jax.rewards.calls import read_gold
from torl_jax.rewards.matching import Rules, match, similarity, worth
from torl_jax.rewards.toolrl import MalformedGold, ToolRLReward, check_gold, score

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<response>", "</response>")

values = st.recursive(
    st.sampled_from([0, 1, 1.0, True, "1", "Oslo", None, ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=3,
)
parameters = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)
calls = st.lists(
    st.builds(
        lambda name, parameters: {"name": name, "parameters": parameters},
        st.sampled_from("fgh"),
        parameters,
    ),
    min_size=1,
    max_size=4,
)
variants = st.builds(
    ToolRLReward,
    **dict.fromkeys(
        ("length", "dynamic_length", "equal_max", "two_stage", "dynamic_scale", "refined",
         "intermediate", "coarse"),
        st.booleans(),
    ),
    matching=st.sampled_from(["greedy", "optimal"]),
    schedule=st.sampled_from(["released", "paper"]),
    steps=st.integers(1, 300),
)  # fmt: skip
lines = calls.map(lambda calls: acting(*map(json.dumps, calls)))
odd_lines = st.sampled_from(
    ["", "x", "[]", "3", "NaN", "{}", '{"name": "f"}', '{"name": []}', '{"name": null}',
     '{"name": "f", "parameters": []}', '{"name": "g", "parameters": {"a": NaN}}', "```"]
)  # fmt: skip
pieces = st.sampled_from([*TAGS, "\n", "a", " ", '{"name": "f", "parameters": {"a": 1}}'])
texts = (
    st.lists(pieces | odd_lines, max_size=12).map("".join)
    | st.lists(odd_lines, max_size=3).map(lambda lines: acting(*lines))
    | lines
    | st.text()
)
steps = st.integers(0, 300)


def text_of(calls):
    return acting(*map(json.dumps, calls))


@given(texts, texts, variants, steps)
def test_any_output_has_a_score_in_range_for_any_gold_that_can_be_read(output, gold, variant, step):
    try:
        got = score(output, gold, variant=variant, step=step)
    except MalformedGold:
        assert check_gold(gold)
        return
    form, right = map(sorted, variant.ranges(step))
    assert form[0] - 1e-9 <= got.parts["format"] <= form[1] + 1e-9
    if "<tool_call>" in gold:
        assert right[0] - 1e-9 <= got.parts["correctness"] <= right[1] + 1e-9
    else:
        assert got.parts["correctness"] == 0
    assert 0 <= got.parts["length"] <= variant.length
    assert got.total == sum(got.parts.values())


@given(texts, lines | st.just(saying()), variants, steps)
def test_a_gold_earns_the_most(output, gold, variant, step):
    # The released dynamic_scale with equal_max turns upside down at step 300.
    own = score(gold, gold, variant=variant, step=min(step, 299))
    other = score(output, gold, variant=variant, step=min(step, 299))
    form, right = variant.ranges(min(step, 299))
    assert abs(own.parts["format"] - form[1]) < 1e-9
    assert abs(own.parts["correctness"] - ("<tool_call>" in gold and right[1])) < 1e-9
    assert own.correct
    for part in ("format", "correctness"):
        assert other.parts[part] <= own.parts[part] + 1e-9
    assert other.correct <= (other.parts["format"] == own.parts["format"])


@given(calls, st.randoms(), st.sampled_from([{}, {"intermediate": True}, {"matching": "optimal"}]))
def test_the_gold_calls_in_any_order_earn_the_most(calls, random, switches):
    shuffled = random.sample(calls, len(calls))
    assert abs(correctness(text_of(calls), text_of(shuffled), **switches) - 3) < 1e-9
    made = score(text_of(shuffled), text_of(calls), variant=ToolRLReward(**switches), step=1)
    assert made.correct


@given(calls, calls, st.randoms(), st.booleans())
def test_the_order_of_predicted_calls_is_nothing_to_the_best_assignment(
    gold, made, random, intermediate
):
    switches = {"matching": "optimal", "intermediate": intermediate}
    shuffled = random.sample(made, len(made))
    one, two = (
        correctness(text_of(gold), text_of(order), **switches) for order in (made, shuffled)
    )
    assert abs(one - two) < 1e-9


@given(calls, calls, st.randoms())
def test_the_order_of_calls_with_different_names_is_nothing(gold, made, random):
    made = list({call["name"]: call for call in made}.values())
    shuffled = random.sample(made, len(made))
    for switches in ({}, {"intermediate": True}):
        one, two = (correctness(text_of(gold), text_of(o), **switches) for o in (made, shuffled))
        assert abs(one - two) < 1e-9


@given(calls, calls, st.booleans())
def test_the_greedy_assignment_is_no_better_than_the_best(gold, made, refined):
    gold = read_gold(text_of(gold))
    best = match(gold, made, Rules(refined=refined, optimal=True)).share
    assert match(gold, made, Rules(refined=refined)).share - 1e-9 <= best <= 1 + 1e-9


@given(calls, calls)
def test_the_best_assignment_is_the_best_of_all(gold, made):
    gold, made = gold[:3], made[:3]
    rules = Rules(optimal=True)
    partners = [*made, *[None] * len(gold)]
    best = max(
        sum(
            worth(wanted, call, rules)
            for wanted, call in zip(gold, partner, strict=True)
            if call and call["name"] == wanted["name"]
        )
        for partner in itertools.permutations(partners, len(gold))
    )
    jaccard = similarity([call["name"] for call in gold], [call["name"] for call in made])
    most = 1 + sum(1 + len(call["parameters"]) for call in gold)
    got = match(read_gold(text_of(gold)), made, rules).share
    assert abs(got - (jaccard + best) / most) < 1e-9


@given(st.lists(st.booleans(), min_size=1, max_size=6).filter(lambda r: not all(r)), st.data())
def test_more_right_parameters_earn_more(right, data):
    gold = {"name": "f", "parameters": {str(i): "yes" for i in range(len(right))}}
    made = {"name": "f", "parameters": {str(i): "yes" if r else "no" for i, r in enumerate(right)}}
    better = json.loads(json.dumps(made))
    mended = data.draw(st.sampled_from([str(i) for i, r in enumerate(right) if not r]))
    better["parameters"][mended] = "yes"
    absent = json.loads(json.dumps(made))
    del absent["parameters"][mended]
    for switches in ({}, {"matching": "optimal"}):
        low, middle, high = (
            correctness(text_of([gold]), text_of([made_]), **switches)
            for made_ in (absent, made, better)
        )
        assert low < middle < high


SHAPES = {
    shapes.tools: r"<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>",
    shapes.response: r"<think>.*?</think>\n<response>.*?</response>",
    shapes.both: (r"<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>\n<response>.*?</response>"),
    shapes.neither: r"<think>.*?</think>",
}
shaped = st.lists(
    st.sampled_from([*TAGS, "\n", "\n", "a", "<think>a</think>\n", "<tool_call>\n",
                     "\n</tool_call>", "<response>", "</think>\n<tool_call>\n",
                     "\n</tool_call>\n<response>"]),
    max_size=9,
).map("".join)  # fmt: skip
ACTING = "<think></think>\n<tool_call>\n"


@given(shaped | shaped.map(lambda text: f"<think></think>\n{text}"))
@example(ACTING + "</tool_call>")  # one newline for two
@example(ACTING + "\n</tool_call>")
@example(ACTING + "</tool_call>\n<response></response>")
@example(ACTING + "\n</tool_call>\n<response></response>")
@example("<think>\n</tool_call>\n<response></think>\n<tool_call>\n</response>")
@example("<think>\n</tool_call></think>\n<tool_call>\n\n<response></response>")
@example("<think></think>\n<response></response>")
@example("<think></think>")
def test_shapes_are_those_of_the_regular_expressions(text):
    text = text.strip()
    for shape, pattern in SHAPES.items():
        once = [tag for tag in TAGS[2:] if tag in pattern]
        wanted = re.fullmatch(pattern, text, re.DOTALL) and all(text.count(t) == 1 for t in once)
        assert shape(text) == bool(wanted), (shape.__name__, text)


words = st.lists(st.sampled_from(["a", " ", "\n", "b", "<think>", "</think>", "\u2028"])).map(
    "".join
)


@given(words.map(lambda text: f"<think>a {text}</think>") | words, st.integers(1, 5))
@example("<think>a b c\nd </think>", 1)
@example("<think>a b </think>", 1)
def test_words_are_counted_up_to_a_bound(text, most):
    if "<think>" in text and "</think>" in text:
        thought = text.split("<think>")[-1].split("</think>")[0]
        assert shapes.thought_words(text, most) == min(len(thought.split()), most + 1)
    else:
        assert shapes.thought_words(text, most) == 0


@given(st.text(alphabet="ab\n\r"))
def test_lines_are_those_of_split(text):
    assert list(shapes.lines(text)) == text.split("\n")
