"""What is sent back, in OpenAI's shapes: completions, chunks of a stream, errors, models.

This module is part of the words world: no jax.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from torl_jax.serving.dialogue import Reply
from torl_jax.serving.fields import Ask

Object = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """A finished answer. `stop`: the string that ended it, if one did."""

    text: str
    reason: str
    stop: str | None
    reply: Reply | None = None

    @property
    def finish(self) -> Object:
        """Why it ended, as OpenAI says it; `stop_reason` is an addition."""
        called = self.reply is not None and self.reply.calls
        return {
            "finish_reason": "tool_calls" if called else self.reason,
            "stop_reason": self.stop,
            "logprobs": None,
        }


@dataclass(frozen=True)
class Letterhead:
    """What every object about one request begins with."""

    chat: bool
    id: str
    model: str
    created: int

    @classmethod
    def of(cls, ask: Ask, created: float) -> "Letterhead":
        """For a new answer to `ask`."""
        chat = ask.kind == "chat"
        prefix = "chatcmpl-" if chat else "cmpl-"
        return cls(chat, prefix + secrets.token_hex(12), ask.model, int(created))

    def whole(self, choices: list[Choice], usage: Object) -> Object:
        """The answer at once."""
        body = [
            {"index": index, **(self._said(choice)), **choice.finish}
            for index, choice in enumerate(choices)
        ]
        return self._object("chat.completion", body) | {"usage": usage}

    def opening(self, index: int) -> Object | None:
        """The chunk that begins a choice, where there is one."""
        return self._chunk(index, {"role": "assistant", "content": ""}) if self.chat else None

    def text(self, index: int, text: str) -> Object:
        """A chunk of text."""
        return self._chunk(index, {"content": text} if self.chat else text)

    def parts(self, index: int, reply: Reply) -> Object:
        """A chunk with a whole message; of the content only what there is."""
        calls = [call | {"index": i} for i, call in enumerate(_calls(reply))]
        delta = {
            "content": reply.content,
            "reasoning_content": reply.reasoning,
            "tool_calls": calls or None,
        }
        return self._chunk(index, {name: value for name, value in delta.items() if value})

    def closing(self, index: int, choice: Choice) -> Object:
        """The chunk that says why a choice ended."""
        return self._chunk(index, {} if self.chat else "", choice.finish)

    def usage(self, usage: Object) -> Object:
        """The last chunk, where it was asked for."""
        return self._object("chat.completion.chunk", []) | {"usage": usage}

    def _said(self, choice: Choice) -> Object:
        if not self.chat:
            return {"text": choice.text}
        reply = choice.reply or Reply(choice.text)
        message: Object = {"role": "assistant", "content": reply.content}
        if reply.reasoning is not None:
            message["reasoning_content"] = reply.reasoning
        if reply.calls:
            message["tool_calls"] = _calls(reply)
        return {"message": message}

    def _chunk(self, index: int, delta: Object | str, finish: Object | None = None) -> Object:
        said = {"delta": delta} if self.chat else {"text": delta}
        ended = finish or {"finish_reason": None, "logprobs": None}
        return self._object("chat.completion.chunk", [{"index": index, **said, **ended}])

    def _object(self, kind: str, choices: list[Object]) -> Object:
        return {
            "id": self.id,
            "object": kind if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _calls(reply: Reply) -> list[Object]:
    return [
        {
            "id": "call_" + secrets.token_hex(12),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for name, arguments in reply.calls
    ]


def usage(prompt: int, completion: int) -> Object:
    """Tokens of all prompts, each counted once, and of all choices, tool output included."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def error(message: str, status: int, param: str | None = None, code: str | None = None) -> Object:
    """A refusal or a failure."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {
        "error": {
            "message": " ".join(message.split()),
            "type": kind,
            "param": param,
            "code": code,
        }
    }


def model(name: str, created: float, context: int) -> Object:
    """A model as /v1/models lists it; `max_model_len` is an addition."""
    return {
        "id": name,
        "object": "model",
        "created": int(created),
        "owned_by": "torl_jax",
        "max_model_len": context,
    }
