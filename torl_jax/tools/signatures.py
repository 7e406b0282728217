"""A Python module's public functions as tools: name, docstring, JSON schema of the signature.

    def get_weather(city: str, days: Annotated[int, "How many, from today on."] = 1) -> dict:
        \"\"\"The weather of a city.

        Args:
            city: Its name, in English.
        \"\"\"

A function is public if it is defined in the module and its name has no leading
underscore, or if `__all__` names it. Each needs a docstring, whose text before `Args:`
is the description, and a hint for every parameter: str, int, float, bool, None, list,
dict, Literal, unions of these, Any. A parameter's own description is a text in its
Annotated, or its lines under `Args:`, where nothing but parameters may be described.
"""

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

ARGS = re.compile(r"^(?:Args|Arguments|Parameters):[ \t]*$", re.MULTILINE)
# A section ends the description; `Args:` has the parameters' own.
SECTION = re.compile(
    r"^(?:Args|Arguments|Parameters|Returns|Raises|Yields|Examples?):", re.MULTILINE
)
ITEM = re.compile(r"(\*{0,2}\w+)[ \t]*(?:\([^)\n]*\))?:[ \t]*(.*)")
NAMES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}


def functions(module: types.ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions of a module, in the order of its file. Raises ValueError for none."""
    names = getattr(module, "__all__", None)
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and (
            name in names
            if names is not None
            else value.__module__ == module.__name__ and not name.startswith("_")
        )
    }
    if not found:
        raise ValueError("no public function in it: define one, with type hints and a docstring")
    return found


def described(function: Callable[..., Any]) -> dict[str, Any]:
    """{"name", "description", "schema"}. Raises ValueError for what cannot be described."""
    name, text = function.__name__, inspect.getdoc(function) or ""
    section = SECTION.search(text)
    about = text[: section.start()] if section else text
    if not about.strip():
        raise ValueError(f"{name} has no docstring: say there what the tool does")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # a hint is an expression: it may raise anything
        raise ValueError(f"a type hint of {name} cannot be read: {error}") from error
    notes, properties, required = _notes(text), {}, []
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"{name} takes {parameter}: give its parameters one by one, by name")
        if key not in hints:
            raise ValueError(f"the parameter {key} of {name} has no type hint: give one")
        try:
            properties[key] = schema(hints[key])
        except TypeError as error:
            raise ValueError(f"the parameter {key} of {name} has the hint {error}") from error
        if key in notes:
            properties[key].setdefault("description", notes[key])
        if parameter.default is parameter.empty:
            required.append(key)
        else:
            properties[key]["default"] = _default(parameter.default, f"{key} of {name}")
    if strange := [key for key in notes if key.lstrip("*") not in properties]:
        raise ValueError(
            f"the docstring of {name} describes {strange[0]} under Args:, which is no parameter "
            f"({', '.join(properties) or 'it has none'}): mend its name, or take it away"
        )
    shape = {"type": "object", "properties": properties, "required": required}
    return {"name": name, "description": " ".join(about.split()), "schema": shape}


def schema(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type hint. Raises TypeError for one that no JSON value has."""
    if hint is Any:
        return {}
    if hint is None or hint in NAMES:
        return {"type": NAMES[type(None) if hint is None else hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        texts = [each for each in arguments[1:] if isinstance(each, str)]
        return {**schema(arguments[0]), **({"description": texts[0]} if texts else {})}
    if origin is Literal:
        kinds = list(dict.fromkeys(NAMES.get(type(each), "") for each in arguments))
        if "" in kinds:
            raise TypeError(f"{hint}, a value of which JSON does not have")
        return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        parts = [schema(each) for each in arguments]
        if all(
            part.keys() <= {"type", "items"} and isinstance(part.get("type"), str) for part in parts
        ):
            # `items` speaks of lists only, and two lists of different items cannot be merged.
            items = [part["items"] for part in parts if "items" in part]
            if len(items) <= 1:
                return {
                    "type": [p["type"] for p in parts],
                    **({"items": items[0]} if items else {}),
                }
        return {"anyOf": parts}
    if origin is list:
        return {"type": "array", "items": schema(arguments[0])}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": schema(arguments[1])}
    shown = hint.__name__ if isinstance(hint, type) and not arguments else str(hint)
    raise TypeError(
        f"{shown}: take str, int, float, bool, None, list, dict, Literal, a union, or Any"
    )


def _default(value: Any, where: str) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the default of {where} is {value!r}, which JSON cannot hold") from error
    return value


def _notes(text: str) -> Mapping[str, str]:
    """What a docstring says of each parameter under `Args:`."""
    if (start := ARGS.search(text)) is None:
        return {}
    lines = text[start.end() :].split("\n")[1:]
    notes: dict[str, str] = {}
    margin, name = None, ""
    for line in lines:
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        margin = depth if margin is None else margin
        if depth == 0 or depth < margin:
            break
        if depth == margin and (item := ITEM.fullmatch(line.strip())):
            name = item[1]
            notes[name] = item[2]
        elif name:
            notes[name] = f"{notes[name]} {line.strip()}".strip()
    return notes
