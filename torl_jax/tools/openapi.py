"""An OpenAPI 3 document as functions: each operation is one, and says how it is asked.

The function's name is the `operationId` (else method and path), its description the
summary and the description. Its parameters are those of path, query, header and cookie, and
the properties of a body that is an object; any other body is one parameter `body`.
Values are placed by the document's own styles: form, simple and deepObject, exploded or
not, or as JSON where a parameter has `content`. Bodies are JSON or URL-encoded forms.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from torl_jax.errors import UserError
from torl_jax.tools import schemas
from torl_jax.tools.toolbox import Function

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
PLACES = ("path", "query", "header", "cookie")
OWN = ("accept", "content-type", "authorization")  # OpenAPI: as parameters these are ignored
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
STYLES = {
    "path": ("simple",),
    "query": ("form", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a parameter goes: `into` is one of PLACES; `style` "json" is its `content`."""

    name: str
    into: str
    style: str
    explode: bool


@dataclasses.dataclass(frozen=True)
class Request:
    """What is sent; `url` has its query."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None


@dataclasses.dataclass(frozen=True)
class Operation:
    """`media` is the body's media type, "" without one.

    `whole`: the body is one parameter; `needed`: it is sent even where it is empty.
    """

    function: Function
    method: str
    url: str
    places: tuple[Place, ...]
    media: str
    whole: bool
    needed: bool

    def request(self, given: Mapping[str, Any]) -> Request:
        """The request of a call whose parameters fit the schema.

        Raises ValueError, in words for whoever gave them, where a value has no place there.
        """
        path, query, cookies, headers = self.url, [], [], {}
        for place in self.places:
            if place.name not in given or given[place.name] is None:
                continue
            pairs = list(_spelled(place, given[place.name]))
            if place.into == "path":
                path = path.replace(f"{{{place.name}}}", _segment(place.name, pairs))
            elif place.into == "query":
                query += pairs
            elif place.into == "cookie":
                cookies += [f"{_cookie(place, key)}={quote(value)}" for key, value in pairs]
            else:
                headers[place.name] = _header(place.name, pairs)
        if cookies:
            headers["Cookie"] = "; ".join(cookies)
        taken = {place.name for place in self.places}
        rest = {key: value for key, value in given.items() if key not in taken}
        content = None
        if self.media and (rest or self.needed):
            content = _body(self.media, rest["body"] if self.whole and rest else rest)
            headers["Content-Type"] = self.media
        url = path + (("&" if "?" in path else "?") + urlencode(query) if query else "")
        return Request(self.method.upper(), url, headers, content)


def operations(
    document: Any, where: str, base: str = "", sent: Collection[str] = ()
) -> tuple[list[Operation], list[str]]:
    """The operations of a document that came from `where`, and why others cannot be called.

    `base` is the URL that paths follow; empty, it is the document's first server, relative to
    `where`. `sent` names the headers that are sent with every call: they are no parameters.
    Raises UserError for what is no OpenAPI 3 document.
    """
    taken = {*OWN, *map(str.lower, sent)}
    version = document.get("openapi") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not str(version).startswith("3."):
        raise UserError(
            f"{where} is no OpenAPI 3 document (its `openapi` is {version!r}); give one of "
            "version 3.0 or 3.1"
        )
    found, skipped = [], []
    for path, item in (document.get("paths") or {}).items():
        try:
            item = schemas.resolved(item or {}, document)
        except ValueError as error:
            raise UserError(f"{where}, path {path}: {error}") from error
        for method in METHODS:
            if isinstance(described := item.get(method), dict):
                root = base or _server(document, item, described, where)
                try:
                    found.append(_operation(method, path, item, described, root, taken))
                except ValueError as error:
                    skipped.append(f"{method.upper()} {path} left out: {error}")
                except (KeyError, TypeError, AttributeError) as error:
                    reason = f"{type(error).__name__}: {error}"
                    raise UserError(
                        f"{where}, {method} {path} is not as OpenAPI has it ({reason})"
                    ) from error
    names = [each.function.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where} has two operations {name!r}: give each its operationId")
    if not found:
        raise UserError(f"{where} has no operation that can be called; {'; '.join(skipped[:3])}")
    return found, skipped


def _operation(
    method: str,
    path: str,
    item: dict[str, Any],
    described: dict[str, Any],
    root: str,
    taken: Collection[str],
) -> Operation:
    declared = {
        (each["in"], each["name"]): each
        for each in [*item.get("parameters", ()), *described.get("parameters", ())]
        if _header_of(each) not in taken
    }
    places, properties, required = [], {}, []
    for (into, name), each in declared.items():
        place, schema = _parameter(each)
        if name in properties:
            raise ValueError(f"two of its parameters are named {name}")
        places.append(place)
        properties[name] = schema
        if each.get("required") or into == "path":
            required.append(name)
    for name in re.findall(r"\{([^{}]*)\}", path):
        if ("path", name) not in declared:
            raise ValueError(f"its path has {{{name}}}, which is no parameter")
    media, body, needed = _payload(described.get("requestBody"))
    whole = bool(media) and not (isinstance(body, dict) and "properties" in body)
    inner = {"body": body} if whole else body.get("properties", {}) if media else {}
    for name, schema in inner.items():
        if name in properties:
            raise ValueError(f"a parameter and a property of the body are both named {name}")
        properties[name] = schema
    required += ["body"] if whole and needed else []
    required += schemas.needed(body) if media and not whole and needed else []
    schema = {"type": "object", "properties": properties, "required": required}
    texts = [described.get("summary") or "", described.get("description") or ""]
    about = " ".join(" ".join(dict.fromkeys(filter(None, texts))).split())
    name = described.get("operationId") or re.sub(r"[\W_]+", "_", f"{method}_{path}").strip("_")
    function = Function(name, about, schema)
    return Operation(function, method, root.rstrip("/") + path, tuple(places), media, whole, needed)


def _header_of(each: dict[str, Any]) -> str:
    """The header that a declared parameter is sent in, in small letters; "" for no header."""
    return {"header": each["name"].lower(), "cookie": "cookie"}.get(each["in"], "")


def _parameter(each: dict[str, Any]) -> tuple[Place, Any]:
    """Where a declared parameter goes, and its schema. Raises ValueError."""
    into, name = each["in"], each["name"]
    schema, style = each.get("schema", {}), each.get("style")
    if content := each.get("content"):
        media, holder = next(iter(content.items()))
        if media != JSON:
            raise ValueError(f"its parameter {name} is {media}")
        schema, style = holder.get("schema", {}), "json"
    style = style or ("form" if into in ("query", "cookie") else "simple")
    if into not in PLACES or style not in (*STYLES[into], "json"):
        raise ValueError(f"its parameter {name} has the style {style} in {into}")
    schema = dict(schema) if isinstance(schema, dict) else {}
    if about := each.get("description"):
        schema["description"] = about
    return Place(name, into, style, each.get("explode", style == "form")), schema


def _payload(body: dict[str, Any] | None) -> tuple[str, Any, bool]:
    """The body's media type ("" without a body), schema and whether it must be there."""
    if not body:
        return "", {}, False
    content = body.get("content") or {}
    for media, holder in content.items():
        kind = media.partition(";")[0].strip().lower()
        if kind in (JSON, FORM) or kind.endswith("+json"):
            return media, schemas.merged(holder.get("schema", {})), bool(body.get("required"))
    if content or body.get("required"):
        raise ValueError(f"its body is {' or '.join(content) or 'of no media type'}")
    return "", {}, False


def _server(
    document: dict[str, Any], item: dict[str, Any], described: dict[str, Any], where: str
) -> str:
    """The URL of the first server that is declared nearest to the operation."""
    servers = described.get("servers") or item.get("servers") or document.get("servers")
    server: dict[str, Any] = servers[0] if servers else {"url": "/"}
    url = server["url"]
    for name, variable in (server.get("variables") or {}).items():
        url = url.replace(f"{{{name}}}", str(variable["default"]))
    url = urljoin(where, url) if urlsplit(where).scheme in ("http", "https") else url
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{where} names no server (found {url!r}): give one as {where}#http://HOST")
    return url


def _spelled(place: Place, value: Any) -> Iterator[tuple[str, str]]:
    """The parameter's pairs of key and text, as its style has them."""
    name, style, explode = place.name, place.style, place.explode
    if style == "json":
        yield name, json.dumps(value)
    elif isinstance(value, dict):
        pairs = [(key, _text(each)) for key, each in value.items()]
        if style == "deepObject":
            yield from ((f"{name}[{key}]", text) for key, text in pairs)
        elif explode and style == "form":
            yield from pairs
        elif explode:
            yield name, ",".join(f"{key}={text}" for key, text in pairs)
        else:
            yield name, ",".join(part for pair in pairs for part in pair)
    elif isinstance(value, list):
        texts = [_text(each) for each in value]
        yield from (
            [(name, t) for t in texts] if explode and style == "form" else [(name, ",".join(texts))]
        )
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    """A value in a URL; what is inside a list's item or a property stays JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _segment(name: str, pairs: list[tuple[str, str]]) -> str:
    text = ",".join(text for _, text in pairs)
    if text in ("", ".", ".."):
        raise ValueError(f"the parameter {name} cannot be {text!r}: it is a part of the path")
    return quote(text, safe=",")


def _header(name: str, pairs: list[tuple[str, str]]) -> str:
    text = ",".join(text for _, text in pairs)
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise ValueError(
            f"the parameter {name} is sent in a header: use plain ASCII characters, and no blank "
            "before or behind them"
        )
    return text


def _cookie(place: Place, key: str) -> str:
    """A cookie's name: the document's, or a key that whoever called has written."""
    return key if key == place.name else quote(key, safe="")


def _body(media: str, value: Any) -> bytes:
    if media.partition(";")[0].strip().lower() != FORM:
        return json.dumps(value, allow_nan=False).encode()
    if not isinstance(value, dict):
        raise ValueError("the body is a form: give an object")
    pairs = [
        (key, _text(each))
        for key, found in value.items()
        for each in (found if isinstance(found, list) else [found])
    ]
    return urlencode(pairs).encode()
