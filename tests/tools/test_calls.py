"""The lines of a tool block: which are calls, and what is said of the others."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.tools.calls import Asked, parse

GOOD = '{"name": "f", "parameters": {"x": [1, "é"]}}'


def test_calls_are_read_in_order_and_blank_lines_passed_over():
    text = f'\n{GOOD}\r\n\n  \n{{"name": "g g", "parameters": {{}}, "id": 7}}\n'
    assert parse(text, 9) == [Asked("f", {"x": [1, "é"]}), Asked("g g", {})]
    assert parse("\n \n", 9) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON (Expecting"),
        ("```json", "not JSON (Expecting"),
        ('{"name": "f", "parameters": {"x": NaN}}', "NaN is no JSON number"),
        ('{"name": "f", "parameters": {"x": -Infinity}}', "-Infinity is no JSON number"),
        ('{"name": "f", "parameters": {"x": ' + "9" * 5000 + "}}", "unreadable"),
        ('{"name": "f", "parameters": {"x": [1e999]}}', "unreadable"),
        ("[" * 100_000, "unreadable"),
        ('{"name": "f", "parameters": {"x": "\\ud800"}}', "unreadable"),
        (f"[{GOOD}]", "not an object"),
        ('"f"', "not an object"),
        ("7", "not an object"),
        ('{"parameters": {}}', 'no "name"'),
        ('{"name": 5, "parameters": {}}', 'no "name"'),
    ],
)
def test_what_is_no_call_is_told_in_words(line, words):
    (asked,) = parse(line, 9)
    assert asked.name == "" and words in asked.fault


@pytest.mark.parametrize(
    "rest", ["", ', "parameters": null', ', "parameters": []', ', "arguments": {}']
)
def test_a_call_without_parameters_keeps_its_name(rest):
    (asked,) = parse(f'{{"name": "f"{rest}}}', 9)
    assert asked.name == "f" and 'no "parameters"' in asked.fault


def test_the_last_of_equal_keys_counts():
    assert parse('{"name": "f", "name": "g", "parameters": {"x": 1, "x": 2}}', 9) == [
        Asked("g", {"x": 2})
    ]


def test_a_line_ends_at_a_newline_only():
    (asked,) = parse('{"name": "f", "parameters": {"x": "a\u2028b\x85c"}}', 9)
    assert asked.parameters == {"x": "a\u2028b\x85c"}


def test_ten_thousand_calls_are_a_few_and_one_word_about_the_rest():
    asked = parse("\n".join([GOOD] * 10_000), 3)
    assert [each.fault == "" for each in asked] == [True] * 3 + [False]
    assert "9997 more lines were not carried out" in asked[-1].fault


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.tuples(st.text(), st.dictionaries(st.text(), VALUES, max_size=3)), max_size=5),
    st.booleans(),
)
def test_what_was_written_is_read(calls, ascii_only):
    lines = [json.dumps({"name": n, "parameters": p}, ensure_ascii=ascii_only) for n, p in calls]
    assert parse("\n".join(lines), 5) == [Asked(n, p) for n, p in calls]


PIECES = st.sampled_from(
    ['{"name": ', '"f"', ', "parameters": ', "{}", "}", "\n", "[", "null", "1e999", "\ud800"]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join), st.integers(1, 4))
def test_no_text_breaks_it(text, most):
    asked = parse(text, most)
    assert len(asked) == min(sum(bool(line.strip()) for line in text.split("\n")), most + 1)
    for each in asked:
        json.dumps(each.parameters, allow_nan=False).encode()
        assert each.fault == "" or not each.parameters
