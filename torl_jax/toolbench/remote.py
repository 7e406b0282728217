"""Posting JSON to a server that may fail, and reading what was recorded of one.

A passing trouble (no connection, no answer in time, 408, 429, 5xx, a reply of another shape) is
tried again; after TRIES the call is `Unavailable`, which says nothing of the policy. A server that
refuses us (401, 403, 404) or has moved is the user's to mend: a key is for the one that was named.

This module is part of the words world: no jax.
"""

import json
import random
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from torl_jax.errors import UserError

TRIES = 4
SECONDS = 60.0  # for one try
REFUSED = (401, 403, 404)

A = TypeVar("A")


class Unavailable(Exception):
    """No answer was to be had: a failure of ours, never of the policy."""


def pause(attempt: int) -> None:
    """Waits before try number `attempt` (from 1), longer each time and somewhat at random."""
    time.sleep(2.0**attempt * random.uniform(0.5, 1.0))


class Poster:
    """Posts JSON to `url`; may be called from several threads."""

    def __init__(
        self, url: str, headers: Mapping[str, str], wait: Callable[[int], object] = pause
    ) -> None:
        self.url, self._wait = url, wait
        self._http = httpx2.Client(headers=headers, timeout=SECONDS, follow_redirects=False)

    def __call__(self, body: Mapping[str, Any], read: Callable[[Any], A]) -> A:
        """What `read` makes of the reply's JSON; it raises ValueError for another shape."""
        failure = ""
        for attempt in range(TRIES):
            if attempt:
                self._wait(attempt)
            try:
                reply = self._http.post(self.url, json=body)
            except httpx2.HTTPError as error:
                failure = f"{type(error).__name__}: {_line(str(error)) or 'no reason given'}"
                continue
            if reply.status_code in REFUSED:
                raise UserError(
                    f"{self.url} refuses us ({reply.status_code}: {_line(reply.text)}); check the "
                    "address and the key in the environment"
                )
            if reply.has_redirect_location:
                raise UserError(f"{self.url} has moved: name {reply.headers['location']} instead")
            failure = f"status {reply.status_code}: {_line(reply.text)}"
            if reply.status_code < 300:
                try:
                    return read(reply.json())
                except (ValueError, RecursionError) as error:
                    failure = f"a reply of another shape: {_line(str(error))}"
            elif reply.status_code < 500 and reply.status_code not in (408, 429):
                break  # it will not take this request the next time either
        raise Unavailable(f"{self.url}: {failure}")

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()


def is_url(where: str) -> bool:
    """Whether it is an address and no file."""
    return where.startswith(("http://", "https://"))


def check_url(where: str) -> None:
    """UserError for an address that cannot be asked."""
    try:
        host = urllib.parse.urlsplit(where).hostname and httpx2.URL(where).host
    except (ValueError, httpx2.InvalidURL) as error:
        raise UserError(f"{where} is no address ({error}); give http://HOST/PATH") from None
    if not host:
        raise UserError(f"{where} names no host; give http://HOST/PATH")


def recorded(path: str, kind: type[A]) -> A:
    """The JSON of a record; UserError for a file that is none, or holds no `kind`."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a URL or a record"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({_line(str(error))})") from None
    if not isinstance(found, kind):
        raise UserError(f"{path} holds a {type(found).__name__}, not a {kind.__name__}")
    return found


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
