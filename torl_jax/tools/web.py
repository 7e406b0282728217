"""The operations of an OpenAPI document as a toolbox: called over HTTP.

answered below 400                     ok: its JSON or its text
400 and above, or no JSON or text      error: what the server says
no whole answer within the time        timeout
unreachable, died, redirects, or asks for credentials or patience (401, 407, 429, 502,
503, 504)                              a failure of ours
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import yaml

from torl_jax.errors import UserError
from torl_jax.tools.loop import Loop
from torl_jax.tools.openapi import Operation, Request, operations
from torl_jax.tools.toolbox import Function, Outcome, ToolFailure, bounded, shortened

MOST_BYTES = 1 << 20  # of an answer that are read
KEPT_SECONDS = 2.0  # a connection may rest; servers close theirs after five and more
FETCH_SECONDS = 30.0
OURS = (401, 407, 429, 502, 503, 504)


class OpenAPITools:
    """The operations that the document at `source`, a file or a URL, describes.

    At most `workers` calls run at a time, with `headers` sent with each. `base`: as for
    `operations`; what that leaves out is in `skipped`. Raises UserError.
    """

    def __init__(
        self,
        source: str | Path,
        base: str = "",
        workers: int = 8,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if workers < 1:
            raise UserError(f"tools: workers is {workers}: give at least 1")
        headers = dict(headers or {})
        document = read(str(source), headers)
        found, self.skipped = operations(document, str(source), base, headers)
        check(found, str(source))
        for line in self.skipped:
            logging.warning("%s: %s", source, line)
        self._operations = {each.function.name: each for each in found}
        self.functions: Mapping[str, Function] = {
            name: each.function for name, each in self._operations.items()
        }
        self._headers = {"Accept": "application/json, text/*", "Accept-Encoding": "identity"}
        self._headers |= headers
        self._gate = asyncio.Semaphore(workers)
        self._client = httpx2.AsyncClient(
            limits=httpx2.Limits(keepalive_expiry=KEPT_SECONDS),
            headers=self._headers,
            # What a server sets in one episode must not come back in another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )
        self._loop = Loop("openapi-tools")

    def submit(self, name: str, parameters: Mapping[str, Any], timeout: float) -> "Future[Outcome]":
        """Calls the operation; see Toolbox.submit."""
        operation = self._operations[name]
        answer: Future[Outcome] = Future()
        try:
            return self._loop.submit(self._call(operation, operation.request(parameters), timeout))
        except ValueError as error:
            answer.set_result(Outcome(str(error), "error"))
        except RuntimeError:
            answer.set_exception(ToolFailure("the tools were closed"))
        return answer

    def close(self) -> None:
        """Ends calls and connections."""
        self._loop.close(self._client.aclose())

    def __enter__(self) -> "OpenAPITools":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _call(self, operation: Operation, request: Request, timeout: float) -> Outcome:
        async with self._gate:
            begin = time.monotonic()
            try:
                async with asyncio.timeout(timeout):
                    outcome = await self._ask(request, timeout)
            except TimeoutError:
                words = f"stopped: no answer within {timeout:g} s"
                outcome = Outcome(words, "timeout")
            except httpx2.InvalidURL as error:  # the document's own was looked at
                outcome = Outcome(f"the parameters make no URL: {error}", "error")
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}".removesuffix(": ")
                raise ToolFailure(f"{operation.url}: {reason}") from error
            return Outcome(outcome.results, outcome.status, time.monotonic() - begin)

    async def _ask(self, request: Request, timeout: float) -> Outcome:
        # Who cannot be reached in half the time is not there; who does not answer is slow.
        patience = httpx2.Timeout(None, connect=timeout / 2)
        async with self._client.stream(
            request.method,
            request.url,
            headers=request.headers,
            content=request.content,
            timeout=patience,
        ) as response:
            if response.status_code in OURS or response.has_redirect_location:
                raise ToolFailure(
                    f"{request.method} {request.url}: HTTP {response.status_code} "
                    f"{response.headers.get('location', response.reason_phrase)}"
                )
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MOST_BYTES:
                    break
            return answered(response, bytes(body))


def answered(response: httpx2.Response, body: bytes) -> Outcome:
    """What a response says."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    readable = not kind or kind.startswith("text/") or kind.endswith(("json", "xml"))
    if not readable and body:
        return Outcome(f"the server answered with {kind}, which is no text", "error")
    charset = response.charset_encoding or "utf-8"
    with contextlib.suppress(LookupError):  # a charset that nobody knows
        "".encode(charset)
        return _read(response.status_code, kind, body, body.decode(charset, "replace"))
    return _read(response.status_code, kind, body, body.decode("utf-8", "replace"))


def _read(status: int, kind: str, body: bytes, text: str) -> Outcome:
    if status >= 400:
        return Outcome(shortened(f"HTTP {status}: {text}".rstrip(": ")), "error")
    if not body:
        return Outcome(None)
    if len(body) > MOST_BYTES:
        return Outcome(f"{shortened(text)} and more")
    try:
        return Outcome(bounded(json.loads(text, parse_constant=_no_number)))
    except (ValueError, RecursionError):
        if kind.endswith("json"):
            return Outcome(shortened(f"the server's answer is no JSON: {text}"), "error")
        return Outcome(shortened(text))


def read(source: str, headers: Mapping[str, str]) -> Any:
    """The document in a file or at a URL, JSON or YAML. Raises UserError."""
    try:
        if source.startswith(("http://", "https://")):
            response = httpx2.get(
                source, headers=dict(headers), timeout=FETCH_SECONDS, follow_redirects=False
            )
            if response.has_redirect_location:
                # The headers are meant for the host that was named.
                raise UserError(
                    f"the tools of {source} have moved: name {response.headers['location']} instead"
                )
            response.raise_for_status()
            text = response.text
        else:
            text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UserError(f"the tools of {source} cannot be read: {error}") from error
    try:
        # JSON is YAML but for a few of its escapes, and YAML has dates: both become JSON.
        if text.lstrip().startswith("{"):
            return json.loads(text)
        return json.loads(json.dumps(yaml.safe_load(text), default=str))
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source} is neither JSON nor YAML ({reason})") from error


def check(found: Iterable[Operation], where: str) -> None:
    """UserError for an operation that has no URL which could be asked."""
    for each in found:
        try:
            httpx2.URL(each.url)
        except httpx2.InvalidURL as error:
            raise UserError(f"{where}: {each.url!r} is no URL ({error})") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
