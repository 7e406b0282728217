"""What a caller asks for over HTTP, checked: any JSON comes in, typed values or BadRequest go out.

    POST /run_code      {code, language, stdin, run_timeout, files, fetch_files, ...}
    POST /run_jupyter   {cells, cell_timeout, total_timeout, files, fetch_files}
    POST /session       {timeout, seed, echo}, and its cells {code, timeout}

Fields that nobody knows are passed over, as SandboxFusion does.
"""

import base64
import binascii
import json
import math
import posixpath
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]

TIMEOUT = 10.0  # seconds, where a request names none
TOTAL_TIMEOUT = 45.0
MOST_VALUES = 100_000  # in one body: a request needs few, and millions would take all memory
MOST_FETCHED = 256


class BadRequest(Exception):
    """The request cannot be served, in one line; `status` is the HTTP status for it."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Program:
    """One checked /run_code request. `patience` is the seconds it may wait for a place."""

    code: str
    stdin: str | None
    timeout: float
    patience: float
    seed: int
    files: dict[str, bytes]
    fetch: dict[str, str]  # what the file is called in the request: in the directory
    request_id: str | int | None


@dataclass(frozen=True)
class Notebook:
    """One checked /run_jupyter request. `cell_timeout` 0: bounded by the total only."""

    cells: list[str]
    cell_timeout: float
    total_timeout: float
    files: dict[str, bytes]
    fetch: dict[str, str]
    request_id: str | int | None


def decode(body: bytes) -> Body:
    """A JSON object, or BadRequest."""
    if _values(body) > MOST_VALUES:
        raise BadRequest(f"body has more than {MOST_VALUES} values", 400)
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise BadRequest("body is nested too deeply", 400) from None
    except ValueError as error:
        raise BadRequest(f"body is not JSON: {line(error)}", 400) from error
    if not isinstance(value, dict):
        raise BadRequest(f"body is a JSON {type(value).__name__}, expected an object", 400)
    return value


def program(body: Body, max_timeout: float) -> Program:
    """Checks a /run_code request. Raises BadRequest."""
    language = _text(body, "language", "python")
    if language != "python":
        raise BadRequest(f"language is {short(language)}, expected 'python', the only one here")
    _number(body, "memory_limit_MB", -1, math.inf, low=-1)  # the server's own holds: bounded
    compile_timeout = _number(body, "compile_timeout", TIMEOUT, math.inf)
    return Program(
        code=_text(body, "code"),
        stdin=None if body.get("stdin") is None else _text(body, "stdin"),
        timeout=_number(body, "run_timeout", TIMEOUT, max_timeout),
        patience=compile_timeout,
        seed=_whole(body, "seed", 0),
        files=_files(body),
        fetch=_fetch(body),
        request_id=_request_id(body),
    )


def notebook(body: Body, max_timeout: float) -> Notebook:
    """Checks a /run_jupyter request. Raises BadRequest."""
    cells = body.get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells):
        raise BadRequest(f"cells is {short(cells)}, expected a list of strings")
    if body.get("kernel", "python3") != "python3":
        raise BadRequest(f"kernel is {short(body['kernel'])}, expected 'python3'")
    return Notebook(
        cells=cells,
        cell_timeout=_number(body, "cell_timeout", 0.0, max_timeout, low=0.0),
        total_timeout=_number(body, "total_timeout", TOTAL_TIMEOUT, max_timeout),
        files=_files(body),
        fetch=_fetch(body),
        request_id=_request_id(body),
    )


def cell(body: Body, max_timeout: float) -> tuple[str, float | None, str | int | None]:
    """Checks a cell of a session: code, deadline or None, request id. Raises BadRequest."""
    timeout = None
    if body.get("timeout") is not None:
        timeout = _number(body, "timeout", TIMEOUT, max_timeout)
    return _text(body, "code"), timeout, _request_id(body)


def session(body: Body, max_timeout: float) -> tuple[float, int, bool]:
    """Checks the options of a new session: default deadline, seed, echo. Raises BadRequest."""
    echo = body.get("echo", False)
    if not isinstance(echo, bool):
        raise BadRequest(f"echo is {short(echo)}, expected true or false")
    timeout = _number(body, "timeout", min(TIMEOUT, max_timeout), max_timeout)
    return timeout, _whole(body, "seed", 0), echo


def _files(body: Body) -> dict[str, bytes]:
    given = body.get("files")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadRequest(f"files is {short(given)}, expected an object of path: base64")
    files = {}
    for name, text in given.items():
        if text is None:
            continue
        if not isinstance(text, str):
            raise BadRequest(f"file {short(name)} is {short(text)}, expected base64 or null")
        place = _place(name)
        if place in files:
            raise BadRequest(f"files has two names for {short(place)}")
        try:
            files[place] = _bytes(text)
        except ValueError as error:
            raise BadRequest(f"file {short(name)} is not base64: {line(error)}") from error
    return files


def _fetch(body: Body) -> dict[str, str]:
    given = body.get("fetch_files")
    if given is None:
        return {}
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise BadRequest(f"fetch_files is {short(given)}, expected a list of paths")
    if len(given) > MOST_FETCHED:
        raise BadRequest(f"fetch_files has {len(given)} paths, expected at most {MOST_FETCHED}")
    places = {name: _place(name) for name in given}
    if len(set(places.values())) < len(places):  # each would get the file once more
        raise BadRequest("fetch_files has two names for one file")
    return places


def _place(name: str) -> str:
    """The path inside the working directory that a request means."""
    place = posixpath.normpath(name)
    try:
        place.encode()
    except UnicodeEncodeError:
        place = ""
    outside = place.startswith(("/", "../")) or place in ("", ".", "..")
    if not name or "\0" in name or outside:
        raise BadRequest(f"path {short(name)} is not inside the working directory")
    return place


def _text(body: Body, name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        found = short(value) if name in body else "missing"
        raise BadRequest(f"{name} is {found}, expected a string")
    return value


def _number(body: Body, name: str, default: float, high: float, low: float | None = None) -> float:
    """More than 0, or at least `low` where given. No NaN: it is in no range."""
    value = body.get(name)
    if value is None:
        value = min(default, high)
    least = f"at least {low:g}" if low is not None else "more than 0"
    most = f" and at most {high:g}" if math.isfinite(high) else ""
    wanted = isinstance(value, int | float) and not isinstance(value, bool)
    if not wanted or not (value > 0 or (low is not None and value >= low)) or value > high:
        raise BadRequest(f"{name} is {short(value)}, expected {least}{most}")
    return float(min(value, 1e9))  # an int of a thousand digits is no float


def _whole(body: Body, name: str, default: int) -> int:
    value = body.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
        raise BadRequest(f"{name} is {short(value)}, expected an integer from 0 to 2**32 - 1")
    return value


def _request_id(body: Body) -> str | int | None:
    value = body.get("request_id")
    if isinstance(value, bool) or not isinstance(value, str | int | None) or len(str(value)) > 256:
        raise BadRequest(f"request_id is {short(value)}, expected at most 256 characters")
    return value


def _values(body: bytes) -> int:
    """About how many values the JSON has: the commas outside of strings, found without parsing."""
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 4 * MOST_VALUES:  # a key and a string have four
        return MOST_VALUES + 1
    return sum(part.count(b",") for part in bare.split(b'"')[::2])


def _bytes(text: str) -> bytes:
    """Raises ValueError where `text` is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def short(value: object) -> str:
    """A value in an error message."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def line(error: object) -> str:
    """Any text as one line."""
    return " ".join(str(error).split())
