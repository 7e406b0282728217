"""JSON schemas of parameters: references resolved, values checked against them.

Of JSON Schema (2020-12, and OpenAPI 3.0's dialect) what says which values a model may
give: type, enum, const, properties, required, additionalProperties, items, anyOf, oneOf,
allOf, $ref within the document, nullable. What else a schema says (patterns, ranges) is
left to the tool itself. One rule is stricter: an integer is written without a point. A keyword
that is null is not there, as in tables, which have a column for each.
"""

import json
from collections.abc import Mapping
from typing import Any

SHOWN = 80  # characters of a value that a message repeats
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def resolved(schema: Any, document: Any) -> Any:
    """`schema` with what its references name in `document` in their place.

    Equal references share one object, so that the result is no larger than the document. A
    schema inside itself allows anything there. Raises ValueError for a reference that
    names nothing in the document.
    """
    known: dict[str, Any] = {}
    open_now: set[str] = set()

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        beside = {key: walk(value) for key, value in node.items() if key != "$ref"}
        if beside.get("nullable") is True and isinstance(kind := beside.get("type"), str):
            beside["type"] = [kind, "null"]
        reference = node.get("$ref")
        if not isinstance(reference, str):  # a property may be called so
            return {**beside, "$ref": walk(reference)} if "$ref" in node else beside
        target = follow(reference)
        return {**target, **beside} if beside and isinstance(target, dict) else target

    def follow(reference: str) -> Any:
        if reference in open_now:
            return {}
        if reference not in known:
            open_now.add(reference)
            known[reference] = walk(pointed(document, reference))
            open_now.discard(reference)
        return known[reference]

    return walk(schema)


def pointed(document: Any, reference: str) -> Any:
    """What a reference such as `#/components/schemas/Pet` names. Raises ValueError."""
    if not reference.startswith("#"):
        raise ValueError(f"$ref {reference!r} is outside the document: bring it into it")
    found = document
    for part in filter(None, reference[1:].split("/")):
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            raise ValueError(f"$ref {reference!r} names nothing in the document")
        found = found[key]
    return found


def merged(schema: Any) -> Any:
    """A resolved schema whose `allOf` has become one object schema, as far as that is one."""
    if not isinstance(schema, dict) or not isinstance(schema.get("allOf"), list):
        return schema
    parts = [{k: v for k, v in schema.items() if k != "allOf"}, *map(merged, schema["allOf"])]
    if not all(isinstance(part, dict) for part in parts):
        return schema
    whole: dict[str, Any] = {}
    for part in parts:
        whole = {**part, **whole}
    whole["properties"] = {k: v for part in parts for k, v in part.get("properties", {}).items()}
    whole["required"] = list(dict.fromkeys(key for part in parts for key in needed(part)))
    return whole


def needed(schema: Mapping[str, Any]) -> list[str]:
    """The properties that must be there; a `required: true`, of older dialects, names none."""
    found = schema.get("required")
    return found if isinstance(found, list) else []


def kinds(schema: Any) -> list[str]:
    """The types that a resolved schema names, those of its alternatives where it has some."""
    if not isinstance(schema, dict):
        return []
    found = schema.get("type") or []
    found = [found] if isinstance(found, str) else list(found)
    for key in ("anyOf", "oneOf"):
        found += [kind for each in schema.get(key) or () for kind in kinds(each)]
    return list(dict.fromkeys(found))


def fault(schema: Any, parameters: Mapping[str, Any]) -> str:
    """What is wrong with a call's parameters, in words; "" if nothing is.

    `schema` is resolved and of an object; unknown parameters are faults unless it has
    `additionalProperties`, whose schema they then must fit.
    """
    properties, others = schema.get("properties") or {}, schema.get("additionalProperties", False)
    if others is None or others is False:
        for key in parameters:
            if key not in properties:
                legal = ", ".join(properties) or "none"
                return f"unknown parameter {shown(key)}; the parameters are: {legal}"
    for key in needed(schema):
        if key not in parameters:
            return f"the parameter {shown(key)} is missing"
    for key, value in parameters.items():
        if found := wrong(properties.get(key, others), value, f"the parameter {shown(key)}"):
            return found
    return ""


def wrong(schema: Any, value: Any, where: str) -> str:
    """What is wrong with a value, `where` in the parameters; "" if nothing is."""
    if not isinstance(schema, dict):
        return f"{where} is not allowed" if schema is False else ""
    allowed = schema.get("type", [])
    allowed = [allowed] if isinstance(allowed, str) else allowed
    if allowed and not any(_is(value, kind) for kind in allowed):
        return f"{where} is {shown(value)}, expected {' or '.join(allowed)}"
    legal = [schema["const"]] if "const" in schema else schema.get("enum")
    if legal is not None and not any(_same(value, each) for each in legal):
        return f"{where} is {shown(value)}, expected one of {', '.join(map(shown, legal))}"
    for key in ("anyOf", "oneOf"):
        found = [wrong(each, value, where) for each in schema.get(key) or ()]
        if found and all(found):
            return " or ".join(dict.fromkeys(found))
    for each in schema.get("allOf") or ():
        if found := wrong(each, value, where):
            return found
    return _inside(schema, value, where)


def _inside(schema: dict[str, Any], value: Any, where: str) -> str:
    """What is wrong inside an object or an array."""
    if isinstance(value, dict):
        properties, others = (
            schema.get("properties") or {},
            schema.get("additionalProperties", True),
        )
        for key in needed(schema):
            if key not in value:
                return f"{where} lacks {shown(key)}"
        for key, each in value.items():
            if found := wrong(properties.get(key, others), each, f"{shown(key)} of {where}"):
                return found
    if isinstance(value, list):
        for place, each in enumerate(value):
            if found := wrong(schema.get("items", {}), each, f"item {place} of {where}"):
                return found
    return ""


def shown(value: Any) -> str:
    """A value as the policy would write it, shortened."""
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _is(value: Any, kind: str) -> bool:
    # In Python True is an int.
    return isinstance(value, TYPES.get(kind, (object,))) and (
        kind == "boolean" or not isinstance(value, bool) or kind not in TYPES
    )


def _same(value: Any, legal: Any) -> bool:
    return value == legal and isinstance(value, bool) == isinstance(legal, bool)
