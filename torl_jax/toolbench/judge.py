"""Who decides whether a free answer is right: a language model, a record, or plain words.

    a URL    an OpenAI-compatible endpoint (its /v1), asked at temperature 0 for a thought and a
             judgment, a line each; right is the judgment "Yes" and nothing else
    a file   what a judge said before: [{"question", "answer", "judgment": "Yes" or "No"}, ...]
    exact    no model: the gold answer's words stand in the answer, one behind another; case,
             punctuation and articles aside. It is not what the paper did

A judge that gives no judgment has failed, as one that is out of reach: that answer is not judged,
and it is not wrong.

This module is part of the words world: no jax.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from torl_jax.errors import UserError
from torl_jax.toolbench import remote

KEY = "OPENAI_API_KEY"
EXACT = "exact"
SYSTEM = (
    "You decide whether an answer to a question is right. You are shown the question, the right "
    "answer and the answer that was given, which may be worded differently or say more. It is "
    "right if what it states as the answer means the same as the right answer.\n"
    "Reply with two lines and nothing else:\n"
    "Thought: <why, in one sentence>\n"
    "Judgment: <Yes or No>"
)
USER = "Question: {question}\nRight answer: {gold}\nAnswer given: {answer}"
JUDGMENT = re.compile(r"^[ \t]*judge?ment:[ \t]*(.*?)[ \t]*$", re.IGNORECASE | re.MULTILINE)
WORD = re.compile(r"\w+")
ARTICLES = ("a", "an", "the")


def judgment(reply: str) -> bool:
    """What the last judgment line of a reply says; ValueError without one."""
    lines = JUDGMENT.findall(reply.replace("\r\n", "\n"))
    if not lines:
        raise ValueError(f"no line with a judgment: {reply[:100]!r}")
    return lines[-1] == "Yes"


class Model:
    """A language model at an OpenAI-compatible endpoint, with the key of OPENAI_API_KEY."""

    def __init__(self, url: str, model: str, wait: Callable[[int], object] = remote.pause) -> None:
        remote.check_url(url)
        self._model = model
        key = os.environ.get(KEY, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._post = remote.Poster(f"{url.rstrip('/')}/chat/completions", headers, wait)

    def __call__(self, question: str, gold: str, answer: str) -> bool:
        """Whether the answer is right; raises remote.Unavailable after several tries."""
        shown = USER.format(question=question, gold=gold, answer=answer)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": shown}]
        body = {"model": self._model, "messages": messages, "temperature": 0}
        return self._post(body, lambda reply: judgment(_content(reply)))

    def close(self) -> None:
        """Ends the connections."""
        self._post.close()


def _content(reply: Any) -> str:
    match reply:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
    raise ValueError("no chat completion with a text")


class Record:
    """What a judge said before, from a file."""

    def __init__(self, path: str) -> None:
        self._path, self._said = path, dict[tuple[str, str], bool]()
        for row in remote.recorded(path, list):
            match row:
                case {"question": str(question), "answer": str(answer), "judgment": str(word)}:
                    self._said[question, answer] = word == "Yes"
                case _:
                    raise UserError(f"{path}: each entry has question, answer and judgment, texts")

    def __call__(self, question: str, gold: str, answer: str) -> bool:
        """What was recorded for this answer; remote.Unavailable where nothing was."""
        if (question, answer) not in self._said:
            raise remote.Unavailable(f"{self._path} holds no judgment of {answer[:100]!r}")
        return self._said[question, answer]

    def close(self) -> None:
        """Nothing: nothing was kept."""


class Exact:
    """Looks for the gold answer's words."""

    def __call__(self, question: str, gold: str, answer: str) -> bool:
        """Whether the words of `gold` stand in `answer` one behind another."""
        wanted, given = _words(gold), _words(answer)
        n = len(wanted)
        return n > 0 and any(given[i : i + n] == wanted for i in range(len(given) - n + 1))

    def close(self) -> None:
        """Nothing: nothing was kept."""


def _words(text: str) -> list[str]:
    return [word for word in WORD.findall(text.casefold()) if word not in ARTICLES]


Judge = Model | Record | Exact


def of(where: str, model: str) -> Judge:
    """The judge at a URL (`model` by name), "exact", or in a file."""
    if remote.is_url(where):
        return Model(where, model)
    return Exact() if where == EXACT else Record(where)


def described(where: str, model: str) -> Mapping[str, str]:
    """What verdicts depend on, for the notes of an evaluation."""
    return {"judge": where, **({"model": model} if remote.is_url(where) else {})}
