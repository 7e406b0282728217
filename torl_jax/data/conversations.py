"""Tool-calling conversations, as OpenAI's API has them, as steps that a policy can be trained on.

A step is an assistant message: what is shown before it, and the gold text that it becomes. The
tools are shown as live ones are, and a gold call is one that they would carry out: of a tool
listed with the conversation, with parameters that fit its schema (`tools.schemas`). Results stand
in the order of their calls, whatever order they came in, and each call before a step has one.

What cannot be used raises ValueError with the reason in one line.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torl_jax.protocols import dialogue
from torl_jax.rewards import toolrl
from torl_jax.tools import schemas
from torl_jax.tools.toolbox import Function

Message = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One assistant message as a row: the two messages of its prompt, and its gold text."""

    system: str
    history: str
    target: str

    @property
    def kind(self) -> str:
        """What the gold asks for, in words."""
        kinds = {"calls": "<tool_call>", "a response": "<response>"}
        return " and ".join(name for name, tag in kinds.items() if tag in self.target)


def steps(conversation: Mapping[str, Any]) -> list[Step]:
    """The steps of a conversation, in order. Raises ValueError where it cannot be used.

    A message of weight 0 is no step, only history.
    """
    tools = conversation.get("tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        older = '; the older functions go there, each as {"type": "function", "function": ...}'
        hint = older if "functions" in conversation else ""
        raise ValueError(f"no list of tools under the key tools{hint}")
    messages = conversation.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("no list of messages under the key messages")
    known = functions(tools)
    first, more = messages[0], ""
    if isinstance(first, dict) and first.get("role") in ("system", "developer"):
        messages, more = messages[1:], dialogue.content_of(first)
    system = dialogue.system([function.shown() for function in known.values()], more)
    begin = len(conversation["messages"]) - len(messages)
    messages = answered(messages, begin)
    found = []
    for place, message in enumerate(messages):
        if message["role"] == "assistant" and _learnt(message, begin + place):
            if not place or messages[place - 1]["role"] == "assistant":
                raise ValueError(
                    f"message {begin + place} follows no message of the user or of a tool: give it "
                    '"weight": 0, which keeps it as history'
                )
            try:
                said = dialogue.history(messages[:place], begin)
                found.append(Step(system, said, _target(message, known)))
            except ValueError as error:
                raise ValueError(f"message {begin + place}: {error}") from error
    if not found:
        roles = [message["role"] for message in messages]
        weighted = " of weight 1" if "assistant" in roles else ""
        raise ValueError(f"no message of the assistant{weighted}")
    return found


def functions(tools: Sequence[Mapping[str, Any]]) -> dict[str, Function]:
    """The tools of a conversation by name, in order."""
    known: dict[str, Function] = {}
    for tool in tools:
        function = Function.from_openai(tool)
        if function.name in known:
            raise ValueError(f"two tools are named {function.name!r}")
        known[function.name] = function
    return known


def answered(messages: Sequence[Message], first: int = 0) -> list[Message]:
    """The messages, the results of each assistant message in the order of its calls.

    A result is of the call whose id it has; where it has none, or the calls have none, of the
    first call of its name that has no result yet. `first`: the number of the first message.
    """
    found: list[Message] = []
    calls: list[tuple[str, str]] = []  # (id, name) of the last assistant message's
    results: dict[int, Message] = {}
    for place, message in enumerate(messages, first):
        role = dialogue.role_of(message, place)
        if role == "tool":
            call = _call_of(message, calls, results.keys(), place)
            results[call] = message
            continue
        if missing := [name for k, (_, name) in enumerate(calls) if k not in results]:
            raise ValueError(f"message {place} comes before the result of a call of {missing[0]}")
        found += [results[call] for call in sorted(results)]
        results, calls = {}, []
        if role == "assistant":
            try:
                calls = [(id, name) for id, name, _ in dialogue.calls_of(message)]
            except ValueError as error:
                raise ValueError(f"message {place}: {error}") from error
            ids = [id for id, _ in calls if id]
            if twice := [id for id in ids if ids.count(id) > 1]:
                raise ValueError(f"message {place}: two calls have the id {twice[0]!r}")
        found.append(message)
    return found + [results[call] for call in sorted(results)]


def _call_of(message: Message, calls: Sequence[tuple[str, str]], done: Any, place: int) -> int:
    """Which of the calls before it a result is of; `done` are those that have one."""
    if not calls:
        raise ValueError(f"message {place} is a tool's, but no call came before it")
    given, name = message.get("tool_call_id"), message.get("name")
    ids = [id for id, _ in calls]
    if given is not None and any(ids):
        if str(given) not in ids:
            raise ValueError(
                f"message {place} is the result of tool_call_id {given!r}, which no call before "
                "it has"
            )
        if (call := ids.index(str(given))) in done:
            raise ValueError(f"message {place} is a second result of tool_call_id {given!r}")
        return call
    for call, (_, called) in enumerate(calls):
        if called == name and call not in done:
            return call
    raise ValueError(
        f"message {place} is a result of {name!r} without a tool_call_id, and no call before it "
        "that has no result is of that name"
    )


def _learnt(message: Message, place: int) -> bool:
    """Whether an assistant message is a step, by its weight."""
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise ValueError(f"message {place} has the weight {weight!r}: give 0 or 1")
    return weight != 0


def _target(message: Message, known: Mapping[str, Function]) -> str:
    """The gold text of an assistant message, whose calls are such as `known` tools carry out."""
    target = dialogue.target(message)
    for _, name, given in dialogue.calls_of(message):
        if name not in known:
            raise ValueError(f"a call of {name}, which is none of the tools")
        try:
            fault = schemas.fault(known[name].schema, given)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"the parameters of {name} are no JSON schema ({error})") from error
        if fault:
            raise ValueError(f"a call of {name} that its schema forbids: {fault}")
    if reason := toolrl.check_gold(target):
        raise ValueError(reason)
    return target
