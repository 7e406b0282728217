"""From a Python file to its tools: what is described, and what is refused in which words."""

import types
from typing import Annotated, Any, Literal

import pytest

from tests.tools import sample
from torl_jax.tools import signatures
from torl_jax.tools.toolbox import Function


def test_a_file_becomes_tools():
    found = signatures.functions(sample)
    assert list(found) == ["add", "weather", "act"]
    assert signatures.described(found["add"]) == {
        "name": "add",
        "description": "Adds two numbers.",
        "schema": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "The first of them."},
                "b": {"type": "integer", "description": "What is added.", "default": 1},
            },
            "required": ["a"],
        },
    }


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("which colour", 'which colour. One of "red".'),
        ("Which? ", 'Which? One of "red".'),
        (None, 'One of "red".'),
    ],
)
def test_legal_values_are_a_sentence_of_their_own(said, shown):
    schema = {"properties": {"x": {"type": "string", "description": said, "enum": ["red"]}}}
    assert Function("paint", "Paints.", schema).shown().parameters["x"]["description"] == shown


def test_a_policy_is_shown_types_defaults_and_legal_values():
    shown = Function(**signatures.described(sample.weather)).shown()
    assert shown.entry(1) == (
        "1. Name: weather\nDescription: The weather of a city, as it is now.\n"
        'Parameters: {"city": {"description": "", "type": "string", "default": ""}, '
        '"unit": {"description": "One of \\"c\\", \\"f\\".", "type": "string", "default": "c"}, '
        '"days": {"description": "", "type": ["integer", "null"], "default": null}, '
        '"tags": {"description": "", "type": ["array", "null"], "default": null}}'
    )


def test_all_names_what_is_public():
    module = types.ModuleType("m")
    exec(
        "from tests.tools.sample import add\ndef other(): 'Other.'\n__all__ = ['add']", vars(module)
    )
    assert list(signatures.functions(module)) == ["add"]
    del module.__all__
    assert list(signatures.functions(module)) == ["other"]


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (None, {"type": "null"}),
        (Any, {}),
        (list, {"type": "array"}),
        (
            list[dict[str, int]],
            {
                "type": "array",
                "items": {"type": "object", "additionalProperties": {"type": "integer"}},
            },
        ),
        (bool | None, {"type": ["boolean", "null"]}),
        (int | list[str], {"type": ["integer", "array"], "items": {"type": "string"}}),
        (
            list[int] | list[str],
            {
                "anyOf": [
                    {"type": "array", "items": {"type": "integer"}},
                    {"type": "array", "items": {"type": "string"}},
                ]
            },
        ),
        (Literal["a", 1, None], {"type": ["string", "integer", "null"], "enum": ["a", 1, None]}),
        (Literal["a"] | None, {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}),
        (Annotated[float, 5, "so"], {"type": "number", "description": "so"}),
    ],
)
def test_hints(hint, schema):
    assert signatures.schema(hint) == schema


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1", "no public function"),
        ("def _f(): 'F.'", "no public function"),
        ("def f(): pass", "f has no docstring"),
        ("def f(x):\n 'F.'", "the parameter x of f has no type hint"),
        ("def f(x: bytes):\n 'F.'", "the parameter x of f has the hint bytes: take str"),
        ("def f(x: 'Nowhere'):\n 'F.'", "a type hint of f cannot be read: name 'Nowhere'"),
        ("def f(*x: int):\n 'F.'", r"f takes \*x: int: give its parameters one by one"),
        ("def f(**x: int):\n 'F.'", "give its parameters one by one"),
        ("def f(x: int, /):\n 'F.'", "give its parameters one by one"),
        ("def f(x: list = [b'']):\n 'F.'", "the default of x of f is .* which JSON cannot hold"),
        ("def f(x: float = float('inf')):\n 'F.'", "the default of x of f is inf"),
        ("def f(x: dict[int, int]):\n 'F.'", "has the hint dict"),
    ],
)
def test_what_cannot_be_described_is_said(source, words):
    module = types.ModuleType("m")
    exec(source, vars(module))
    with pytest.raises(ValueError, match=words):
        for function in signatures.functions(module).values():
            signatures.described(function)


def test_what_is_described_is_a_parameter():
    module = types.ModuleType("m")
    exec("def f(city: str): pass\ndef g(): pass", vars(module))
    module.f.__doc__ = "Weather.\n\nArgs:\n    city: Its name.\n    cty: Its name.\n"
    module.g.__doc__ = "Nothing.\n\nArgs:\n    x: A number.\n"
    with pytest.raises(ValueError, match=r"f describes cty under Args:, .* no parameter \(city\)"):
        signatures.described(module.f)
    with pytest.raises(ValueError, match=r"g describes x under Args:, .*\(it has none\): mend"):
        signatures.described(module.g)
