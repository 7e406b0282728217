"""Web search for Bamboogle: a server in Serper's shape, or answers that were recorded.

An answer in Serper's shape is {"answerBox": {...}, "organic": [{"title": ..., "snippet": ...}]}.
The policy reads its first entries: the answer box if there is one, then the pages.

A record is a JSON file: an object from queries to answers in that shape.

This module is part of the words world: no jax.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from torl_jax.errors import UserError
from torl_jax.toolbench import remote

ASKED, KEPT = 15, 5  # entries asked of the server, entries that the policy reads
KEY = "SERPER_API_KEY"

# From a query to what the policy reads; raises remote.Unavailable where no answer was to be had.
Search = Callable[[str], list[str]]


def entries(answer: Any) -> list[str]:
    """The first KEPT entries of an answer in Serper's shape, each a line of text.

    Raises ValueError for another shape.
    """
    pages = answer.get("organic", []) if isinstance(answer, dict) else None
    box = answer.get("answerBox") or {} if isinstance(answer, dict) else None
    if not isinstance(pages, list) or not isinstance(box, dict):
        raise ValueError("no object with a list `organic` (and an object `answerBox`)")
    found = [_line(box, ("title", "answer", "snippet"))]
    found += [_line(page, ("title", "snippet")) for page in pages if isinstance(page, dict)]
    return [entry for entry in found if entry][:KEPT]


def _line(entry: Mapping[str, Any], fields: tuple[str, ...]) -> str:
    parts = [" ".join(str(entry[field]).split()) for field in fields if entry.get(field)]
    return ": ".join(parts)


class Server:
    """Asks `url` as Serper is asked: POST {"q", "num"}, the key of SERPER_API_KEY as X-API-KEY."""

    def __init__(self, url: str, wait: Callable[[int], object] = remote.pause) -> None:
        remote.check_url(url)
        key = os.environ.get(KEY, "")
        self._post = remote.Poster(url, {"X-API-KEY": key} if key else {}, wait)

    def __call__(self, query: str) -> list[str]:
        """What the policy reads; raises remote.Unavailable after several tries."""
        return self._post({"q": query, "num": ASKED}, entries)

    def close(self) -> None:
        """Ends the connections."""
        self._post.close()


class Record:
    """Answers from a file."""

    def __init__(self, path: str) -> None:
        self._path, self._found = path, dict[str, list[str]]()
        for query, answer in remote.recorded(path, dict).items():
            try:
                self._found[query] = entries(answer)
            except ValueError as error:
                raise UserError(f"{path}: the answer to {query!r} is {error}") from None

    def __call__(self, query: str) -> list[str]:
        """What was recorded for just this query; remote.Unavailable where nothing was."""
        if query not in self._found:
            raise remote.Unavailable(f"{self._path} holds no answer to the query {query!r}")
        return self._found[query]

    def close(self) -> None:
        """Nothing: nothing was kept."""


def of(where: str) -> Server | Record:
    """The search at a URL, or in a file."""
    return Server(where) if remote.is_url(where) else Record(where)
