"""How a conversation becomes a prompt, and an answer the parts of a message.

    torl       one user message: the question in the recipe's own prompt
    toolrl     tools and history as the policy was trained on them, by the chat template;
               without tools the messages as they are
    template   the messages by the tokenizer's chat template, whatever the recipe

This module is part of the words world: no jax.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from torl_jax.data import conversations
from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.protocols.base import Protocol
from torl_jax.protocols.chat import ChatTemplate
from torl_jax.serving.fields import Ask, Refused


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer in parts; `calls` are (tool's name, its arguments as JSON)."""

    content: str | None
    reasoning: str | None = None
    calls: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Opening:
    """What the policy continues, the strings that end its turn besides the caller's, and how
    its text is read (None: it is the content as it comes)."""

    prompt: str
    stops: tuple[str, ...] = ()
    parts: Callable[[str], Reply] | None = None


# Raises Refused for what this kind of policy cannot be asked.
Dialect = Callable[[Ask], Opening]


def torl(markup: Protocol) -> Dialect:
    """For a policy that answers one question with fenced Python.

    A turn ends where it asks for a program's output, unless programs are executed.
    """

    def begin(ask: Ask) -> Opening:
        _no_tools(ask)
        roles = [message["role"] for message in ask.messages]
        if roles != ["user"]:
            raise Refused(
                f"messages have the roles {', '.join(roles)}: this policy was trained on single "
                "questions, give one user message (or the whole text to /v1/completions)",
                "messages",
            )
        problem = Problem("asked", ask.messages[0]["content"], "")
        return Opening(markup.prompt(problem), () if ask.execute else markup.stops(0))

    return begin


def template(chat: ChatTemplate) -> Dialect:
    """For a policy of which nothing but its chat template is known."""

    def begin(ask: Ask) -> Opening:
        _no_tools(ask)
        return Opening(_render(chat, ask.messages))

    return begin


def toolrl(chat: ChatTemplate, served: Sequence[dialogue.Tool] = ()) -> Dialect:
    """For a policy trained on ToolRL's messages; `served`: the tools that the server executes."""

    def begin(ask: Ask) -> Opening:
        if ask.execute and ask.tools:
            raise Refused(
                "execute_tools is for the server's own tools: leave `tools` away, or carry the "
                "calls out yourself",
                "tools",
            )
        try:
            own = conversations.functions(ask.tools).values()
        except ValueError as error:
            raise Refused(str(error), "tools") from error
        try:
            tools = served if ask.execute else [function.shown() for function in own]
            if not tools:
                return Opening(_render(chat, ask.messages))
            system = [m["content"] for m in ask.messages if m["role"] == "system"]
            said = [message for message in ask.messages if message["role"] != "system"]
            said = conversations.answered(said, len(ask.messages) - len(said))
            messages = [
                {"role": "system", "content": dialogue.system(tools, "\n\n".join(system))},
                {"role": "user", "content": dialogue.history(said)},
            ]
        except ValueError as error:
            raise Refused(str(error), "messages") from error
        return Opening(_render(chat, messages), parts=None if ask.execute else parts)

    return begin


def parts(text: str) -> Reply:
    """A ToolRL answer: thought, calls, response. Text that is not wholly in its format is the
    content as it stands."""
    rest, whole = text.strip(), Reply(text)
    thought, rest = _field("think", rest)
    block, rest = _field("tool_call", rest)
    said, rest = _field("response", rest)
    calls = []
    for line in filter(None, map(str.strip, (block or "").split("\n"))):
        call = _call(line)
        if call is None:
            return whole
        calls.append(call)
    if rest or not (calls or said):
        return whole
    return Reply(said, thought, tuple(calls))


def _field(tag: str, text: str) -> tuple[str | None, str]:
    """What stands in the field that `text` begins with, and what comes after it."""
    begin, end = f"<{tag}>", f"</{tag}>"
    if not text.startswith(begin) or end not in text:
        return None, text
    inside, _, rest = text.removeprefix(begin).partition(end)
    return inside.strip(), rest.lstrip()


def _call(line: str) -> tuple[str, str] | None:
    try:
        found = json.loads(line, parse_constant=_no_number)
        json.dumps(found, allow_nan=False)  # 1e999 has become what JSON cannot say
    except (ValueError, RecursionError):
        return None
    name = found.get("name") if isinstance(found, dict) else None
    given = found.get("parameters", {}) if isinstance(found, dict) else None
    if not isinstance(name, str) or not isinstance(given, dict):
        return None
    return name, json.dumps(given)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _no_tools(ask: Ask) -> None:
    if ask.tools:
        raise Refused(
            "this policy does not call tools of the caller's: leave `tools` away "
            "(a ToolRL policy does)",
            "tools",
        )


def _render(chat: ChatTemplate, messages: Sequence[dict[str, Any]]) -> str:
    try:
        return chat.render(messages)
    except UserError as error:
        raise Refused(str(error), "messages") from error
