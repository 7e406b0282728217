"""References brought in, and values held against schemas."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.tools import schemas
from torl_jax.tools.toolbox import Function

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "share": {"type": "number"},
        "unit": {"type": ["string", "null"], "enum": ["c", "f", None]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "at": {"anyOf": [{"type": "integer"}, {"type": "object", "required": ["lat"]}]},
        "deep": {"properties": {"x": {"const": 1}}, "additionalProperties": {"type": "boolean"}},
        "any": {},
    },
    "required": ["city"],
}


@pytest.mark.parametrize(
    "given_",
    [
        {"days": 3, "share": 1},
        {"share": 0.5, "unit": None},
        {"unit": "c", "tags": []},
        {"tags": ["a"], "at": 7},
        {"at": {"lat": 1, "lon": 2}},
        {"deep": {"x": 1, "y": True}},
        {"any": [None, {"x": 1.5}]},
    ],
)
def test_what_fits(given_):
    assert schemas.fault(SCHEMA, {"city": "Oslo", **given_}) == ""


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"citty": "x"}, 'unknown parameter "citty"; the parameters are: city, days, share'),
        ({"days": "3"}, 'the parameter "days" is "3", expected integer'),
        ({"days": 3.0}, 'the parameter "days" is 3.0, expected integer'),
        ({"days": True}, 'the parameter "days" is true, expected integer'),
        ({"share": False}, "expected number"),
        ({"unit": "k"}, 'the parameter "unit" is "k", expected one of "c", "f", null'),
        ({"unit": 1}, "expected string or null"),
        ({"tags": "a"}, "expected array"),
        ({"tags": ["a", 1]}, 'item 1 of the parameter "tags" is 1, expected string'),
        ({"at": "x"}, 'is "x", expected integer or the parameter "at" is "x"'),
        ({"at": {"lon": 1}}, 'the parameter "at" lacks "lat"'),
        ({"deep": {"x": True}}, '"x" of the parameter "deep" is true, expected one of 1'),
        ({"deep": {"y": 0}}, '"y" of the parameter "deep" is 0, expected boolean'),
        ({"city": None}, 'the parameter "city" is null, expected string'),
        ({"city": ["x" * 999]}, "..., expected string"),
    ],
)
def test_what_does_not_fit_is_said(given_, words):
    assert words in schemas.fault(SCHEMA, {"city": "Oslo", **given_})


def test_a_missing_parameter_and_additional_ones():
    assert schemas.fault(SCHEMA, {}) == 'the parameter "city" is missing'
    assert schemas.fault({"properties": {}, "additionalProperties": True}, {"x": 1}) == ""
    assert "the parameters are: none" in schemas.fault({}, {"x": 1})


def test_references_are_brought_in():
    document = {
        "defs": {
            "a/b": {"type": "string", "nullable": True},
            "tree": {"type": "object", "properties": {"left": {"$ref": "#/defs/tree"}}},
            "both": {"$ref": "#/defs/a~1b", "description": "mine"},
        }
    }
    assert schemas.resolved({"$ref": "#/defs/both"}, document) == {
        "type": ["string", "null"],
        "nullable": True,
        "description": "mine",
    }
    tree = schemas.resolved({"$ref": "#/defs/tree"}, document)
    assert tree["properties"]["left"] == {}
    with pytest.raises(ValueError, match="'#/defs/none' names nothing"):
        schemas.resolved({"x": [{"$ref": "#/defs/none"}]}, document)
    with pytest.raises(ValueError, match="is outside the document"):
        schemas.resolved({"$ref": "other.yaml#/x"}, document)


def test_a_required_that_is_no_list_names_nothing():
    inner = {"type": "object", "properties": {"b": {}}, "required": True}
    schema = {"properties": {"a": inner}, "required": False}
    assert schemas.fault(schema, {"a": {}}) == schemas.fault(schema, {}) == ""
    assert schemas.merged({"allOf": [inner]})["required"] == []


@pytest.mark.parametrize(
    "key", ["type", "enum", "properties", "required", "items", "anyOf", "oneOf", "allOf"]
)
def test_a_keyword_that_is_null_is_not_there(key):
    """As in tables, which have a column for every keyword."""
    schema = {"properties": {"a": {key: None}}, "required": ["a"]}
    for value in ({"x": 1}, [1], "x", None):
        assert schemas.fault(schema, {"a": value}) == ""
    assert schemas.kinds({key: None}) == []
    assert schemas.fault({key: None}, {}) == ""
    schema["properties"]["a"]["description"] = None
    shown = Function("f", "", schema).shown()
    assert shown.parameters == {"a": {"description": "", "type": "any", "default": ""}}


def test_other_parameters_are_held_against_their_schema():
    schema = {"properties": {"a": {}}, "additionalProperties": {"type": "string"}}
    assert schemas.fault(schema, {"a": 1, "b": "x"}) == ""
    assert schemas.fault(schema, {"b": 7}) == 'the parameter "b" is 7, expected string'
    for others in (True, {}):
        assert schemas.fault({**schema, "additionalProperties": others}, {"b": 7}) == ""


def test_references_that_double_thirty_times_are_shared_not_copied():
    defs = {
        f"d{i}": {"properties": {k: {"$ref": f"#/defs/d{i + 1}"} for k in "xy"}} for i in range(30)
    }
    document = {"defs": {**defs, "d30": {"type": "integer"}}}
    found = schemas.resolved({"$ref": "#/defs/d0"}, document)
    assert found["properties"]["x"] is found["properties"]["y"]


def test_all_of_is_one_object():
    parts = [{"properties": {"x": {}}, "required": ["x"]}, {"allOf": [{"properties": {"y": {}}}]}]
    whole = schemas.merged({"allOf": parts, "properties": {"z": {}}, "required": ["z"]})
    assert list(whole["properties"]) == ["z", "x", "y"] and whole["required"] == ["z", "x"]
    assert "allOf" not in whole


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*SCHEMA["properties"], "other"]), VALUES))
def test_a_value_of_any_kind_is_judged(parameters):
    words = schemas.fault(SCHEMA, parameters)
    assert words or ("city" in parameters and "other" not in parameters)
    json.dumps(words)
