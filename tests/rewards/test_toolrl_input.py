"""ToolRL's reward on bad input: each has a defined score, and size costs linearly."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rewards.test_toolrl import B, W, acting, call, correctness, saying
from torl_jax.rewards.toolrl import ToolRLReward, score

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ToolRLReward()
GOLD = acting(W)


def deep(levels):
    return "[" * levels + "]" * levels


# An output for the gold `GOLD`, its format and its correctness.
OUTPUTS = {
    "pretty printed": (acting(json.dumps(json.loads(W), indent=2)), 1, -3),
    "an array": (acting(f"[{W}]"), 1, -3),
    "a blank line": (acting(W, "", W), 1, -3),
    "blank lines around": (acting("", W, "", ""), 1, 3),
    "a fence": (acting("```json", W, "```"), 1, -3),
    "a fence around": (f"```\n{GOLD}\n```", 0, 3),
    "two values on a line": (acting(W + W), 1, -3),
    "a comment": (acting(W + " // weather"), 1, -3),
    "an empty block": ("<think>t</think>\n<tool_call>\n\n</tool_call>", 1, -3),
    "two blocks, the right one second": (f"{acting(B)}\n{acting(W)}", 0, -3),
    "two blocks, the right one first": (f"{acting(W)}\n{acting(B)}", 0, 3),
    "an opening tag twice": (GOLD.replace("<tool_call>", "<tool_call>" * 2), 0, -3),
    "a closing tag twice": (GOLD + "</tool_call>", 0, 3),
    "a tag inside a value": (acting(call("get_weather", city="</tool_call>")), 0, -3),
    "no closing tag": (GOLD.removesuffix("\n</tool_call>"), 0, -3),
    "no newline in the block": (GOLD.replace("\n{", "{").replace("}\n", "}"), 0, 3),
    "two newlines after the thought": (GOLD.replace("</think>\n", "</think>\n\n"), 0, 3),
    "carriage returns": (GOLD.replace("\n", "\r\n"), 0, 3),
    "a carriage return in the block": (acting(W + "\r"), 1, 3),
    "a thought that ends twice": (acting(W, thought="a </think> b"), 1, 3),
    "a response hidden in the thought": (acting(W, thought="<response> r </response>"), 1, 3),
    "only a thought": ("<think> t </think>", 0, -3),
    "nothing": ("", 0, -3),
    "white space": (" \n\t\u2028 ", 0, -3),
    "a zero byte": ("\0", 0, -3),
    "a lone surrogate": (acting(call("get_weather", city="\ud800")), 1, 1),
    "NaN": (acting('{"name": "get_weather", "parameters": {"city": NaN}}'), 1, 1),
    "equal keys, the last counts": (
        acting('{"name": "x", "name": "get_weather", "parameters": {"city": 1, "city": "Oslo"}}'),
        1,
        3,
    ),
    "a nested object": (acting(call("get_weather", city={"name": "Oslo"})), 1, 1),
    "text of JSON": (acting(json.dumps(W)), 1, -3),
    "null": (acting("null"), 1, -3),
    "no name": (acting('{"parameters": {"city": "Oslo"}}'), 1, -3),
    "a name without hash": (acting(W, '{"name": {}, "parameters": {}}'), 1, -3),
    "no parameters": (acting('{"name": "get_weather"}'), 1, -3),
    "parameters as text": (acting('{"name": "get_weather", "parameters": "{}"}'), 1, -3),
    "another call without parameters": (acting(W, '{"name": "noop"}'), 1, 2),
    "a name that is a number": (acting(W, '{"name": 1, "parameters": {}}'), 1, 2),
    "a name in other characters": (acting(call("get_weather\u200b", city="Oslo")), 1, -3),
    "nested as deep as may be": (
        acting('{"name": "get_weather", "parameters": {"city": ' + deep(254) + "}}"),
        1,
        1,
    ),
    "nested too deep": (
        acting('{"name": "get_weather", "parameters": {"city": ' + deep(255) + "}}"),
        1,
        -3,
    ),
    "nested for ever": (acting("[" * 100_000), 1, -3),
    "an endless number": (acting("9" * 100_000), 1, -3),
    "many brackets, not deep": (
        acting(call("get_weather", city=[[]] * 10_000)), 1, 1,
    ),
    "10,000 calls": (acting(*[W] * 10_000), 1, -3 + 6 * (2 + 1 / 10_000) / 3),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTPUTS)
def test_every_output_has_its_score(case):
    output, form, right = OUTPUTS[case]
    got = score(output, GOLD, variant=DEFAULT, step=1)
    assert dict(got.parts) == pytest.approx({"format": form, "correctness": right, "length": 0})
    assert got.total == pytest.approx(form + right)


@pytest.mark.parametrize("case", OUTPUTS)
def test_no_call_is_wanted(case):
    got = score(OUTPUTS[case][0], saying(), variant=DEFAULT, step=1)
    assert got.total == 0 and not got.correct


def test_names_compared_as_lists_need_no_hash():
    made = acting(W, '{"name": [], "parameters": {}}')
    assert correctness(GOLD, made, refined=True) == pytest.approx(1)


def test_a_wrong_call_needs_no_parameters_where_calls_are_compared_as_wholes():
    made = acting(W, '{"name": "get_weather", "parameters": null}')
    assert correctness(GOLD, made, intermediate=True) == pytest.approx(1.5)
    assert correctness(GOLD, made) == -3


def test_nan_equals_itself_in_equal_lists_and_inside_values_only():
    bare, nested = (
        f'{{"name": "f", "parameters": {{"a": {x}, "b": 1}}}}' for x in ("NaN", "[NaN]")
    )
    assert correctness(acting(bare), acting(bare)) == 3
    assert correctness(acting(bare), acting(bare.replace("1", "2"))) == pytest.approx(0)
    assert correctness(acting(nested), acting(nested.replace("1", "2"))) == pytest.approx(1.5)


def test_unicode_is_compared_as_it_is():
    composed, apart = call("café", city="東京 🎉"), call("cafe\u0301", city="東京 🎉")
    raw = json.dumps(json.loads(composed), ensure_ascii=False)
    assert raw != composed and correctness(acting(composed), acting(raw)) == 3
    assert correctness(acting(composed), acting(apart)) == -3


# What takes hours if some part of scoring is quadratic: 10 MB of text, or 10,000 calls and more.
SIZES = """
import json, resource, sys
from torl_jax.rewards.toolrl import ToolRLReward, score, score_trajectory
resource.setrlimit(resource.RLIMIT_CPU, (150, 150))
W = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'
ONE = '{"name": "get_weather", "parameters": {"city": %s}}'
N = 10_000_000
def block(body):
    return "<think> t </think>\\n<tool_call>\\n" + body + "\\n</tool_call>"
def repeated(text):
    return text * (N // len(text))
def many(line, count):
    return "\\n".join(line % i for i in range(count))
OUTPUTS = {
    "a long thought": block(W).replace(" t ", repeated("w ")),
    "no word": block(W).replace(" t ", repeated("\\u2028")),
    "thoughts": repeated("<think>"), "ends": repeated("</think>\\n"),
    "calls": repeated("<tool_call>"), "ends of calls": repeated("</tool_call>"),
    "both tags": repeated("<tool_call>\\n</tool_call>\\n"),
    "starts": repeated("<think></think>\\n<tool_call>\\n"),
    "almost ends": block(repeated("\\n</tool_call")), "less than": repeated("<"),
    "responses": "<think></think>\\n" + repeated("<response></response>"),
    "line ends": block("1" + repeated("\\n") + "1"),
    "lists": block(repeated("[")), "objects": block(repeated('{"a":')),
    "a long value": block(ONE % json.dumps(repeated("x"))),
    "digits": block(repeated("1")), "fraction": block("1." + repeated("1")),
    "escapes": block('"' + repeated("\\\\u0041") + '"'),
    "keys": block(ONE % ("1, " + ", ".join('"k%d": 1' % i for i in range(N // 100)))),
    "equal calls": block("\\n".join([ONE % 1] * (N // 960))),
    "calls of one name": block(many(ONE, N // 960)),
    "calls of other names": block(many('{"name": "f%d"}', N // 200)),
    "brackets": block(ONE % ("[" + "[]," * (N // 60) + "[]]")),
}
VARIANTS = [ToolRLReward(length=True), ToolRLReward(refined=True), ToolRLReward(intermediate=True),
            ToolRLReward(matching="optimal")]
GOLDS = [block(many(ONE, 5)), "<think> t </think>\\n<response> r </response>",
         block(W) + "\\n<response> r </response>", "<think> t </think>"]
for name, output in OUTPUTS.items():
    print(name, flush=True)
    for variant in VARIANTS:
        score(output, GOLDS[0], variant=variant, step=1)
    for gold in GOLDS[1:]:
        score(output, gold, variant=VARIANTS[0], step=1)
    score_trajectory([output, "x"], GOLDS[0] + "\\n" + GOLDS[1], variant=VARIANTS[0], step=1)
print("all")
"""


def test_size_costs_linearly():
    done = subprocess.run([sys.executable, "-c", SIZES], cwd=ROOT, capture_output=True, text=True)
    reached = done.stdout.strip().rpartition("\n")[2]
    assert (done.returncode, reached) == (0, "all"), f"ended at {reached!r}: {done.stderr[-500:]}"
