"""From an OpenAPI document to requests, without a server."""

import copy
import json

import pytest

from torl_jax.errors import UserError
from torl_jax.tools.openapi import operations

PET = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "Its name."},
        "age": {"$ref": "#/components/schemas/Age"},
    },
    "required": ["name"],
}
DOCUMENT = {
    "openapi": "3.0.3",
    "servers": [
        {"url": "https://{host}.example.org/v1/", "variables": {"host": {"default": "api"}}}
    ],
    "components": {
        "schemas": {
            "Age": {"type": "integer", "nullable": True},
            "Pet": PET,
            "Dog": {
                "allOf": [
                    {"$ref": "#/components/schemas/Pet"},
                    {"properties": {"breed": {"type": "string"}}},
                ]
            },
        },
        "parameters": {
            "Id": {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        },
    },
    "paths": {
        "/pets/{id}": {
            "parameters": [{"$ref": "#/components/parameters/Id"}],
            "get": {
                "operationId": "get_pet",
                "summary": "A pet.",
                "description": "By its\nnumber.",
                "parameters": [
                    {
                        "name": "tags",
                        "in": "query",
                        "schema": {"type": "array", "items": {"type": "string"}},
                    },
                    {"name": "flat", "in": "query", "explode": False, "schema": {"type": "array"}},
                    {
                        "name": "box",
                        "in": "query",
                        "style": "deepObject",
                        "schema": {"type": "object"},
                    },
                    {"name": "page", "in": "query", "schema": {"type": "object"}},
                    {
                        "name": "filter",
                        "in": "query",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    },
                    {
                        "name": "deep",
                        "in": "query",
                        "description": "Deeper.",
                        "schema": {"type": "boolean", "default": False},
                    },
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                    {"name": "session", "in": "cookie", "schema": {"type": "string"}},
                ],
            },
            "put": {
                "operationId": "put_pet",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Dog"}}
                    },
                },
            },
        },
        "/pets": {
            "post": {
                "operationId": "form",
                "requestBody": {
                    "content": {
                        "application/x-www-form-urlencoded": {
                            "schema": {"$ref": "#/components/schemas/Pet"}
                        }
                    }
                },
            },
            "delete": {
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"type": "array", "items": {"type": "integer"}}
                        }
                    },
                }
            },
            "patch": {
                "operationId": "upload",
                "requestBody": {"required": True, "content": {"multipart/form-data": {}}},
            },
        },
    },
}


@pytest.fixture
def found():
    operations_, skipped = operations(DOCUMENT, "petstore.yaml")
    assert skipped == ["PATCH /pets left out: its body is multipart/form-data"]
    return {each.function.name: each for each in operations_}


def test_operations_are_functions(found):
    assert list(found) == ["get_pet", "put_pet", "form", "delete_pets"]
    pet = found["get_pet"].function
    assert pet.description == "A pet. By its number."
    assert pet.schema["required"] == ["id"]
    assert pet.schema["properties"]["deep"] == {
        "type": "boolean",
        "default": False,
        "description": "Deeper.",
    }
    put = found["put_pet"].function.schema
    assert list(put["properties"]) == ["id", "name", "age", "breed"]
    assert put["required"] == ["id", "name"]
    assert put["properties"]["age"]["type"] == ["integer", "null"]
    assert found["form"].function.schema["required"] == []
    assert found["delete_pets"].function.schema["required"] == ["body"]
    assert [each.function.shown().entry(1) for each in found.values()]  # each can be shown


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, ""),
        ({"tags": ["a b", "c&d"]}, "?tags=a+b&tags=c%26d"),
        ({"flat": [1, "x"]}, "?flat=1%2Cx"),
        ({"box": {"a": 1, "b": True}}, "?box%5Ba%5D=1&box%5Bb%5D=true"),
        ({"page": {"size": 2}}, "?size=2"),
        ({"filter": {"x": [1]}}, "?filter=%7B%22x%22%3A+%5B1%5D%7D"),
        ({"deep": True, "tags": None}, "?deep=true"),
    ],
)
def test_a_query_is_spelled_by_its_style(found, given, url):
    request = found["get_pet"].request({"id": "7", **given})
    assert (request.method, request.content) == ("GET", None)
    assert request.url == "https://api.example.org/v1/pets/7" + url


def test_headers_and_cookies(found):
    request = found["get_pet"].request({"id": "7", "X-Trace": "abc", "session": "a;b"})
    assert request.headers == {"X-Trace": "abc", "Cookie": "session=a%3Bb"}
    for bad in ("a\r\nHost: evil", "é", " a", "a ", "a\t"):
        with pytest.raises(ValueError, match="the parameter X-Trace is sent in a header"):
            found["get_pet"].request({"id": "7", "X-Trace": bad})


def test_keys_of_a_cookie_that_a_model_wrote_are_quoted():
    cookie = {"name": "c[0]", "in": "cookie", "schema": {"type": "object"}}
    ((operation, *_), _) = operations(change((*GET, "parameters"), [cookie]), "api.yaml")
    given = {"x; session=evil": "1", "a\r\nb": "é", "c[0]": 2}
    request = operation.request({"id": "7", "c[0]": given})
    assert request.headers["Cookie"] == "x%3B%20session%3Devil=1; a%0D%0Ab=%C3%A9; c[0]=2"


def test_headers_that_are_the_users_own_are_no_parameters():
    own = ("Authorization", "ACCEPT", "Content-type")
    declared = [
        {"name": name, "in": "header", "required": True, "schema": {}}
        for name in (*own, "X-Key", "X-Trace")
    ]
    declared.append({"name": "session", "in": "cookie", "schema": {}})
    document = change((*GET, "parameters"), declared)
    for sent, left in (
        ((), ["id", "X-Key", "X-Trace", "session"]),
        (("x-key", "Cookie"), ["id", "X-Trace"]),
    ):
        ((operation, *_), _) = operations(document, "api.yaml", sent=sent)
        assert list(operation.function.schema["properties"]) == left
        assert not {*own} & {*operation.function.schema["required"]}


@pytest.mark.parametrize(
    ("value", "segment"),
    [("a/b?c#d", "a%2Fb%3Fc%23d"), ("{id}", "%7Bid%7D"), ("ø", "%C3%B8"), ("../x", "..%2Fx")],
)
def test_a_path_keeps_its_shape_whatever_is_put_into_it(found, value, segment):
    assert found["get_pet"].request({"id": value}).url.endswith(f"/v1/pets/{segment}")


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_a_path_is_not_left(found, value):
    with pytest.raises(ValueError, match="it is a part of the path"):
        found["get_pet"].request({"id": value})


def test_bodies(found):
    put = found["put_pet"].request({"id": "7", "name": "Łódź", "age": None})
    assert json.loads(put.content) == {"name": "Łódź", "age": None}
    assert put.headers == {"Content-Type": "application/json"} and put.method == "PUT"
    form = found["form"].request({"name": "a b", "age": 3})
    assert form.content == b"name=a+b&age=3"
    assert found["form"].request({}).content is None
    assert found["put_pet"].request({"id": "7"}).content == b"{}"
    assert json.loads(found["delete_pets"].request({"body": [1, 2]}).content) == [1, 2]


def test_the_server_is_the_nearest_one_or_the_one_given():
    document = copy.deepcopy(DOCUMENT)
    document["paths"]["/pets"]["post"]["servers"] = [{"url": "/v2"}]
    url = "http://host:1/docs/api.json"
    urls = {each.function.name: each.url for each in operations(document, url)[0]}
    assert urls["form"] == "http://host:1/v2/pets"
    assert urls["put_pet"] == "https://api.example.org/v1/pets/{id}"
    based = operations(document, "api.json", "http://localhost:8000/")[0]
    assert {each.url for each in based} == {
        "http://localhost:8000/pets/{id}",
        "http://localhost:8000/pets",
    }


def change(path, value):
    document = copy.deepcopy(DOCUMENT)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return document


GET = ("paths", "/pets/{id}", "get")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "is no OpenAPI 3 document"),
        ({"swagger": "2.0"}, "is no OpenAPI 3 document"),
        (change(("openapi",), "2.0"), "its `openapi` is '2.0'"),
        (change(("paths",), {}), "has no operation that can be called"),
        (change(("servers",), []), "names no server .* give one as api.yaml#http://HOST"),
        (change((*GET, "operationId"), "form"), "has two operations 'form'"),
        (
            change((*GET, "parameters"), [{"in": "query"}]),
            r"get /pets/\{id\} is not as OpenAPI has it \(KeyError: 'name'\)",
        ),
        (
            change((*GET, "parameters"), [{"$ref": "#/nowhere"}]),
            "path /pets/{id}: .* names nothing",
        ),
    ],
)
def test_a_document_that_cannot_be_used_is_the_users_to_mend(document, words):
    with pytest.raises(UserError, match=words):
        operations(document, "api.yaml")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            [{"name": "x", "in": "query", "style": "pipeDelimited"}],
            "its parameter x has the style pipeDelimited",
        ),
        ([{"name": "id", "in": "query"}], "two of its parameters are named id"),
        (
            [{"name": "x", "in": "query", "content": {"text/xml": {}}}],
            "its parameter x is text/xml",
        ),
    ],
)
def test_an_operation_that_cannot_be_called_is_left_out_and_named(parameters, words):
    _, skipped = operations(change((*GET, "parameters"), parameters), "api.yaml")
    assert any(line.startswith("GET /pets/{id} left out: ") and words in line for line in skipped)
    _, skipped = operations(change(("paths", "/x/{y}"), {"get": {}}), "api.yaml")
    assert "GET /x/{y} left out: its path has {y}, which is no parameter" in skipped


@pytest.mark.parametrize("required", [{}, {"required": False}, {"required": True}])
def test_a_body_that_cannot_be_sent_leaves_its_operation_out(required):
    """`required` is false where nothing is said, so most uploads are declared without it."""
    upload = {"content": {"multipart/form-data": {}, "text/csv": {}}, **required}
    path = ("paths", "/pets", "patch", "requestBody")
    found, skipped = operations(change(path, upload), "api.yaml")
    assert skipped == ["PATCH /pets left out: its body is multipart/form-data or text/csv"]
    assert "upload" not in [each.function.name for each in found]
    both = {"content": {"multipart/form-data": {}, "application/json": {}}, **required}
    assert operations(change(path, both), "api.yaml")[1] == []
    none = {"content": {}, **required}
    skipped = operations(change(path, none), "api.yaml")[1]
    assert len(skipped) == bool(required.get("required"))
