"""What a caller asks for, checked: any JSON comes in, an Ask or Refused goes out.

A field that would change the answer is carried out or refused, never passed over; so is
one that nobody knows. NEUTRAL ones are let through with the values that change nothing,
IGNORED ones with any.

This module is part of the words world: no jax.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sandbox.orders import BadRequest, decode

Body = Mapping[str, Any]

MOST_CHOICES = 128  # of one request: prompts x n
MOST_STOPS = 16
STOP_LENGTH = 1024  # characters
COLDEST = 1e-3  # below it logits overflow; 0 is greedy

IGNORED = frozenset(
    ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "parallel_tool_calls": (True,),
    "repetition_penalty": (1,),
    "min_p": (0,),
}
SAMPLING = frozenset(("max_tokens", "temperature", "top_p", "top_k", "n", "seed", "stop"))
SHARED = SAMPLING | {"model", "stream", "stream_options", "execute_tools"}
CHAT = SHARED | {"messages", "max_completion_tokens", "tools", "tool_choice"}
PLAIN = SHARED | {"prompt"}
ROLES = ("system", "developer", "user", "assistant", "tool")


class Refused(Exception):
    """A request that is not served, in one line; `param` is the field that was wrong."""

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


@dataclass(frozen=True)
class Ask:
    """One checked request, of chat (`messages`, `tools`) or of plain completion (`prompts`).

    `max_tokens` None: as many as the kind has by default. `seed` None: the server draws one.
    """

    kind: Literal["chat", "completion"]
    model: str
    prompts: tuple[str, ...]
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    n: int
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    execute: bool


def read(data: bytes) -> Body:
    """A JSON object; fields that are null are left out. Raises Refused."""
    try:
        body = decode(data)
        # A lone surrogate is a string in JSON, but no text that could be tokenized.
        json.dumps(body, ensure_ascii=False).encode()
    except BadRequest as error:
        raise Refused(str(error), status=error.status) from error
    except UnicodeEncodeError as error:
        raise Refused("the request holds half a surrogate pair, which is no text") from error
    return {name: value for name, value in body.items() if value is not None}


def chat(body: Body) -> Ask:
    """Checks a request for /v1/chat/completions. Raises Refused."""
    _known(body, CHAT)
    tools, declined = _tools(body), _declined(body)
    return _ask(
        body,
        kind="chat",
        messages=_messages(body),
        tools=() if declined else tools,
        max_tokens=_most(body, ("max_completion_tokens", "max_tokens")),
    )


def completion(body: Body) -> Ask:
    """Checks a request for /v1/completions. Raises Refused."""
    _known(body, PLAIN)
    prompt = body.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not all(isinstance(text, str) for text in prompts):
        raise Refused(f"prompt is {_short(prompt)}, expected text or a list of texts", "prompt")
    if not prompts or not all(prompts):
        raise Refused("prompt is empty, expected text", "prompt")
    most = _most(body, ("max_tokens",))
    return _ask(body, kind="completion", prompts=tuple(prompts), max_tokens=most)


def _ask(body: Body, **own: Any) -> Ask:
    """The fields that both kinds have, and `own`."""
    options = body.get("stream_options", {})
    stream = _flag(body, "stream")
    if not isinstance(options, dict) or options.keys() - {"include_usage", "include_obfuscation"}:
        raise Refused(
            f"stream_options is {_short(options)}, expected {{'include_usage': true}}",
            "stream_options",
        )
    if options and not stream:
        raise Refused("stream_options is for stream: true", "stream_options")
    n = _whole(body, "n", 1, low=1, high=MOST_CHOICES)
    if n * len(own.get("prompts", ())) > MOST_CHOICES:
        raise Refused(
            f"{len(own['prompts'])} prompts x n {n}: at most {MOST_CHOICES} choices a request", "n"
        )
    temperature = _number(body, "temperature", 1.0, 0.0, 2.0)
    if 0 < temperature < COLDEST:
        raise Refused(
            f"temperature is {temperature:g}: give 0 (greedy), or at least {COLDEST:g}",
            "temperature",
        )
    top_p = _number(body, "top_p", 1.0, 0.0, 1.0)
    if not top_p:
        raise Refused("top_p is 0 and leaves nothing to sample from: give more", "top_p")
    fields: dict[str, Any] = {"prompts": (), "messages": (), "tools": ()} | own
    return Ask(
        model=_text(body, "model"),
        n=n,
        temperature=temperature,
        top_p=top_p,
        top_k=max(_whole(body, "top_k", 0, low=-1, high=2**31 - 1), 0),
        seed=_whole(body, "seed", 0, -(2**63), 2**63 - 1) if "seed" in body else None,
        stops=_stops(body),
        stream=stream,
        include_usage=_flag(options, "include_usage"),
        execute=_flag(body, "execute_tools"),
        **fields,
    )


def _known(body: Body, legal: frozenset[str]) -> None:
    for name, value in body.items():
        if name in legal or name in IGNORED:
            continue
        if name not in NEUTRAL:
            raise Refused(f"unknown field {_short(name)}", name)
        # True == 1 in Python, and is not what these fields hold.
        if not any(value == fine and type(value) in _types(fine) for fine in NEUTRAL[name]):
            raise Refused(
                f"{name} is {_short(value)}, which this server does not offer: leave it away", name
            )


def _types(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) is int else (type(value),)


def _messages(body: Body) -> tuple[dict[str, Any], ...]:
    found = body.get("messages")
    if not isinstance(found, list) or not found:
        raise Refused(f"messages is {_short(found)}, expected a list of messages", "messages")
    return tuple(_message(message, f"messages[{i}]") for i, message in enumerate(found))


def _message(message: Any, where: str) -> dict[str, Any]:
    """With its content as one text, and `developer` under its older name."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise Refused(
            f"{where}.role is {_short(role)}, expected one of {', '.join(ROLES)}", "messages"
        )
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        plain = [text for text in texts if isinstance(text, str)]
        if len(plain) < len(texts):
            raise Refused(f"{where}.content has a part that is not text", "messages")
        content = "".join(plain)
    if content is None and role == "assistant" and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise Refused(f"{where}.content is {_short(content)}, expected text", "messages")
    role = "system" if role == "developer" else role
    return {k: v for k, v in message.items() if v is not None} | {"role": role, "content": content}


def _tools(body: Body) -> tuple[dict[str, Any], ...]:
    tools = body.get("tools", [])
    named = isinstance(tools, list) and all(
        isinstance(tool, dict)
        and tool.get("type") == "function"
        and isinstance(tool.get("function"), dict)
        for tool in tools
    )
    if not named:
        raise Refused("tools is no list of {'type': 'function', 'function': {...}}", "tools")
    return tuple(tools)


def _declined(body: Body) -> bool:
    """Whether the tools are not to be used."""
    choice = body.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise Refused(
            f"tool_choice is {_short(choice)}: a policy cannot be made to call, only 'auto' and "
            "'none' are offered",
            "tool_choice",
        )
    return choice == "none"


def _stops(body: Body) -> tuple[str, ...]:
    found = body.get("stop", [])
    stops = [found] if isinstance(found, str) else found
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise Refused(f"stop is {_short(found)}, expected texts that are not empty", "stop")
    if len(stops) > MOST_STOPS or any(len(stop) > STOP_LENGTH for stop in stops):
        raise Refused(
            f"stop: at most {MOST_STOPS} texts of at most {STOP_LENGTH} characters", "stop"
        )
    return tuple(dict.fromkeys(stops))


def _most(body: Body, names: tuple[str, ...]) -> int | None:
    given = {name: _whole(body, name, 1, low=1, high=2**31) for name in names if name in body}
    if len(set(given.values())) > 1:
        raise Refused(f"{' and '.join(given)} differ: give one of them", names[0])
    return next(iter(given.values()), None)


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise Refused(f"{name} is {_short(value)}, expected text", name)
    return value


def _flag(body: Body, name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise Refused(f"{name} is {_short(value)}, expected true or false", name)
    return value


def _whole(body: Body, name: str, default: int, low: int, high: int) -> int:
    value = body.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise Refused(
            f"{name} is {_short(value)}, expected a whole number from {low} to {high}", name
        )
    return value


def _number(body: Body, name: str, default: float, low: float, high: float) -> float:
    value = body.get(name, default)
    if type(value) not in (int, float) or not low <= value <= high:
        raise Refused(
            f"{name} is {_short(value)}, expected a number from {low:g} to {high:g}", name
        )
    return float(value)


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
