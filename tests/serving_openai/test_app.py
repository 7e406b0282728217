"""What the application makes of a request before anything is sampled."""

import asyncio
import json

import pytest

from tests.serving_openai.server import ROOT
from torl_jax.protocols.text import Tokenizer
from torl_jax.serving import dialogue, fields
from torl_jax.serving.app import App, Served
from torl_jax.serving.fields import Refused

CONTEXT = 128


class Counted(Tokenizer):
    """Knows what was encoded."""

    def __init__(self, folder):
        super().__init__(folder)
        self.seen = []

    def encode(self, text, special=True):
        self.seen.append(text)
        return super().encode(text, special)


@pytest.fixture(scope="module")
def text():
    return Counted(ROOT / "assets/tiny-base")


def prepared(text, body, check=fields.completion):
    async def ask():
        dialect = dialogue.torl(None)
        app = App(Served("tiny", CONTEXT, text, dialect, "off", False, "torl"), None, None)
        return app._prepare(json.dumps({"model": "tiny", **body}).encode(), check)

    text.seen.clear()
    return asyncio.run(ask())


def test_what_cannot_fit_is_refused_before_its_tokens_are_counted(text):
    for prompts in ("12 " * 1_000_000, ["1", "12 " * 1_000_000]):
        with pytest.raises(Refused, match="context is 128 tokens; the prompt has at least") as seen:
            prepared(text, {"prompt": prompts})
        assert (seen.value.code, seen.value.param) == ("context_length_exceeded", "prompt")
        assert text.seen == []


def test_what_may_fit_is_counted(text):
    longest = max(range(len(text)), key=lambda token: len(text.bytes_of(token)))
    word = text.bytes_of(longest).decode()
    _, order, _ = prepared(text, {"prompt": word * (CONTEXT - 1), "max_tokens": 1})
    assert order.prompts == ((longest,) * (CONTEXT - 1),)
    with pytest.raises(Refused, match="the prompt has 127 and max_tokens is 2"):
        prepared(text, {"prompt": word * (CONTEXT - 1), "max_tokens": 2})
    with pytest.raises(Refused, match="the prompt has at least 128 and the answer needs 1 more"):
        prepared(text, {"prompt": word * CONTEXT})
