"""ToolRL's text: a system message with its tools, a dialogue as one user message, a target.

    system   role, tools, steps, output format, notes; parts apart by a blank line
    user     **Dialogue Records History**
             <user> What is the weather in Oslo? </user>

             <think> ... </think>
             <tool_call>
             {"name": "get_weather", "parameters": {"city": "Oslo"}}
             </tool_call>
             <obs> [{"name": "get_weather", "results": {"sky": "clear"}}] </obs>
    target   <think> ... </think>
             <response> It is clear in Oslo. </response>

Paper: "ToolRL: Reward is All Tool Learning Needs", arXiv 2504.13958. The structure, the labels and
the separators are those of the released data; JSON is spelled as `json.dumps` spells it, ASCII
only. What is said in full sentences is said in our words: to evaluate a model on the very prompt
that it was trained on, take that prompt from its data and exchange the tools (`with_tools`).

Dialogues are given as OpenAI-style messages. A thought is an assistant message's
`reasoning_content`, or a <think> block that its content begins with; in a history a fixed
sentence stands for it, as in the released data. A part that cannot be written raises ValueError
with the reason in one line.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

HISTORY = "**Dialogue Records History**"
# What stands for a thought that is not known, or not shown.
CALLING = "One of the tools fits what is asked, so I call it with the parameters that it needs."
ANSWERING = "No tool is needed now, so I answer the user myself."

ROLE = (
    "You are an assistant in a dialogue of several turns. Call tools where they help to do what "
    "the user asks for, and give every reply the structure that is described below."
)
TOOLS = "**Available Tools**\nThese are the tools that a reply may call:"
REST = """\
**Steps for Each Turn**
1. **Think:** Go over what has been said so far, and work out what the user wants now.
2. **Decide on Tool Usage:** Where a tool is called for, name it and give its parameters.
3. **Respond Appropriately:** Where an answer is called for, write one that agrees with all before.

**Output Format**
```plaintext
<think> What you think </think>
<tool_call>
{"name": "A tool's name", "parameters": {"A parameter's name": "Its value", "...": "..."}}
{"name": "...", "parameters": {"...": "...", "...": "..."}}
...
</tool_call>
<response> What you tell the user </response>
```

**Important Notes**
1. Every reply begins with its `<think>` field. At least one of `<tool_call>` and `<response>` \
comes after it; a reply may have both.
2. A `<tool_call>` field may hold several calls, one a line. Each is a JSON object with a "name" \
field and a "parameters" field; where a tool needs no parameters, these are an empty object.
3. Take the history of the dialogue into account: what the user said, the earlier `<tool_call>` \
and `<response>` fields, and what the tools gave back, which is marked as `<obs>`."""
NO_TOOLS = "(none)"

BREAK = re.compile(r"\s*[\r\n]\s*")
FIRST = re.compile(rf"^(?=1\. Name: |{re.escape(NO_TOOLS)}$)", re.MULTILINE)
ENTRY = re.compile(r"(\d+)\. Name: ([^\n]*)\nDescription: (.*?)\nParameters: ([^\n]*)", re.DOTALL)
THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
TAGS = tuple(f"<{end}{tag}>" for tag in ("think", "tool_call", "response") for end in ("", "/"))
ROLES = ("user", "assistant", "tool")


@dataclasses.dataclass(frozen=True)
class Tool:
    """A tool as a prompt shows it.

    `parameters`: for each name its `description`, `type` and `default` ("" where there is none).
    Raises ValueError for a name that is blank or more than one line.
    """

    name: str
    description: str
    parameters: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not self.name.strip() or BREAK.search(self.name):
            raise ValueError(f"a tool's name is one line of text, not {self.name!r}")

    @classmethod
    def from_openai(cls, tool: Mapping[str, Any]) -> "Tool":
        """A tool of an OpenAI-style request: {"type": "function", "function": {...}}, or what is
        in its `function`.

        Of the JSON schema each parameter keeps its description, its type ("any" where none is
        given) and its default: the released format has no place for `required` or `enum`.
        """
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(f"a tool needs a function with a name: {_short(tool)}")
        name, described = function["name"], function.get("description") or ""
        if not isinstance(described, str):
            raise ValueError(f"the description of {name} is a {type(described).__name__}, not text")
        parameters = {
            key: {
                "description": schema.get("description", ""),
                "type": schema.get("type", "any"),
                "default": schema.get("default", ""),
            }
            for key, schema in _properties(name, function.get("parameters") or {}).items()
        }
        return cls(name, described, parameters)

    def entry(self, number: int) -> str:
        """Its entry in a list: three lines."""
        described = BREAK.sub(" ", self.description)
        parameters = json.dumps(self.parameters)
        return f"{number}. Name: {self.name}\nDescription: {described}\nParameters: {parameters}"


def tool_list(tools: Sequence[Tool]) -> str:
    """The numbered entries, a newline between two."""
    return "\n".join(tool.entry(k) for k, tool in enumerate(tools, 1)) or NO_TOOLS


def system(tools: Sequence[Tool], more: str = "") -> str:
    """The system message for these tools; `more`: what a conversation's own one says, put last."""
    parts = (ROLE, f"{TOOLS}\n{tool_list(tools)}", REST, more.strip())
    return "\n\n".join(part for part in parts if part)


def tools_of(system_text: str) -> list[Tool]:
    """The tools that a system message lists, ours or one of the released data.

    Raises ValueError where there is no list, or an entry's parameters are no JSON object.
    """
    return _listed(system_text)[0]


def with_tools(system_text: str, tools: Sequence[Tool]) -> str:
    """The same system message with other tools. Raises ValueError where it lists none."""
    _, begin, end = _listed(system_text)
    return system_text[:begin] + tool_list(tools) + system_text[end:]


def history(messages: Sequence[Mapping[str, Any]], first: int = 0) -> str:
    """The user message: what was said up to here, by OpenAI-style messages.

    These are of the roles user, assistant and tool, and end with the user or a tool. `first`:
    the number of the first of them, where a reason names one.
    """
    turns: list[str] = []
    calls: list[tuple[str, str]] = []  # (id, name) of the last assistant turn's calls
    results: list[tuple[str, Any]] = []
    for place, message in enumerate(messages, first):
        role = role_of(message, place)
        if role == "tool":
            if not calls:
                raise ValueError(f"message {place} is a tool's, but no call came before it")
            results.append((_caller(message, calls, place), _result(content_of(message))))
            continue
        if results:
            turns[-1] += f"\n{obs(results)}"
            calls, results = [], []
        if role == "user":
            turns.append(f"<user> {_asked(message, place)} </user>")
            calls = []
        else:
            _, called, said = _fields(message)
            turns.append(_turn("", called, said))
            calls = [(call, name) for call, name, _ in calls_of(message)]
    if results:
        turns[-1] += f"\n{obs(results)}"
    elif not turns or messages[-1]["role"] == "assistant":
        raise ValueError("a history ends with a message of the user or of a tool")
    return f"{HISTORY}\n" + "\n\n".join(turns)


def target(message: Mapping[str, Any]) -> str:
    """What the policy should write for an assistant message: thought, calls, response.

    Raises ValueError also where a tag is part of what is said: nothing could tell it from markup.
    """
    thought, calls, said = _fields(message)
    lines = "".join(json.dumps(call) for call in calls)
    for tag in TAGS:
        if tag in thought or tag in lines or tag in said:
            raise ValueError(f"{tag} is part of what an assistant message says")
    return _turn(thought, calls, said)


def role_of(message: Any, place: int) -> str:
    """The role of message number `place`: user, assistant or tool; else ValueError.

    A tool's older name is function.
    """
    role = message.get("role") if isinstance(message, Mapping) else None
    if role == "function":
        return "tool"
    if role not in ROLES:
        raise ValueError(f"message {place} has the role {role!r}: give {', '.join(ROLES)}")
    return str(role)


def obs(results: Iterable[tuple[str, Any]]) -> str:
    """What tools gave back, as (tool's name, value that JSON holds) in order."""
    listed = [{"name": name, "results": value} for name, value in results]
    return f"<obs> {json.dumps(listed)} </obs>"


def block(calls: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """The block of these calls, (tool's name, parameters), one a line."""
    lines = [json.dumps({"name": name, "parameters": given}) for name, given in calls]
    return "\n".join(["<tool_call>", *lines, "</tool_call>"])


def _fields(message: Mapping[str, Any]) -> tuple[str, list[tuple[str, dict[str, Any]]], str]:
    """(thought, calls, what is said) of an assistant message."""
    calls = [(name, given) for _, name, given in calls_of(message)]
    said = content_of(message)
    thought = message.get("reasoning_content") or ""
    if not isinstance(thought, str):
        raise ValueError(f"reasoning_content is a {type(thought).__name__}, not text")
    if leading := THOUGHT.match(said):
        thought, said = thought or leading[1], said[leading.end() :]
    elif said.lstrip().startswith("<think>"):
        raise ValueError("a thought is never closed: </think> is missing")
    if not calls and not said.strip():
        raise ValueError("an assistant message has neither content nor tool calls")
    return thought.strip(), calls, said.strip()


def _turn(thought: str, calls: Sequence[tuple[str, Mapping[str, Any]]], said: str) -> str:
    """An assistant turn; a fixed sentence stands for a thought that is empty."""
    parts = [f"<think> {thought or (CALLING if calls else ANSWERING)} </think>"]
    if calls:
        parts.append(block(calls))
    if said:
        parts.append(f"<response> {said} </response>")
    return "\n".join(parts)


def calls_of(message: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(id or "", tool's name, parameters) for each of an assistant message's `tool_calls`.

    Or for its `function_call`, by which the API's first version asked for one.
    """
    found = []
    listed, older = message.get("tool_calls") or [], message.get("function_call")
    if not isinstance(listed, list):
        raise ValueError(f"tool_calls is no list: {_short(listed)}")
    if older is not None:
        if listed:
            raise ValueError("an assistant message has both tool_calls and function_call")
        listed = [{"function": older}]
    for call in listed:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(f"a tool call needs a function with a name: {_short(call)}")
        id = call.get("id")
        given = _arguments(function["name"], function.get("arguments"))
        found.append(("" if id is None else str(id), function["name"], given))
    return found


def _arguments(name: str, given: Any) -> dict[str, Any]:
    """The arguments of a call: an object, its text, or nothing."""
    if given is None or given == "":
        return {}
    try:
        value = json.loads(given, parse_constant=_no_number) if isinstance(given, str) else given
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the arguments of {name} are no JSON ({error}): {_short(given)}"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"the arguments of {name} are no object: {_short(value)}")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _caller(message: Mapping[str, Any], calls: Sequence[tuple[str, str]], place: int) -> str:
    """The tool whose result the message is: by the call's id, else by its own `name`."""
    given = message.get("tool_call_id")
    by_id = {call: name for call, name in calls if call}
    if given is not None and str(given) in by_id:
        return by_id[str(given)]
    if isinstance(name := message.get("name"), str) and name:
        return name
    raise ValueError(
        f"message {place} is the result of tool_call_id {given!r}, which no call before it has, "
        "and has no name"
    )


def _asked(message: Mapping[str, Any], place: int) -> str:
    text = content_of(message).strip()
    if not text:
        raise ValueError(f"message {place} is the user's and blank")
    return text


def content_of(message: Mapping[str, Any]) -> str:
    """A message's text: plain, in parts that have a text, or "" where there is none."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise ValueError(f"a message's content is not text: {_short(content)}")
        texts.append(text)
    return "".join(texts)


def _result(text: str) -> Any:
    """A tool's text as the value that it spells, where that is an object or a list."""
    try:
        value = json.loads(text, parse_constant=_no_number)
        json.dumps(value, allow_nan=False)  # 1e999 is read as Infinity
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict | list) else text


def _properties(name: str, parameters: Any) -> Mapping[str, Mapping[str, Any]]:
    """The parameters of a JSON schema, or such a mapping itself."""
    found = parameters
    if isinstance(parameters, Mapping) and (
        isinstance(parameters.get("type"), str) or "properties" in parameters
    ):
        found = parameters.get("properties") or {}
    if not isinstance(found, Mapping) or not all(isinstance(v, Mapping) for v in found.values()):
        raise ValueError(f"the parameters of {name} are no JSON schema: {_short(parameters)}")
    return found


def _listed(system_text: str) -> tuple[list[Tool], int, int]:
    """(the tools listed, where the list begins, where it ends)."""
    first = FIRST.search(system_text)
    if first is None:
        raise ValueError('no list of tools ("1. Name: ...") in the system message')
    begin = end = first.start()
    tools: list[Tool] = []
    if system_text.startswith(NO_TOOLS, begin):
        return tools, begin, begin + len(NO_TOOLS)
    while entry := ENTRY.match(system_text, end + bool(tools)):
        if int(entry[1]) != len(tools) + 1:
            break
        tools.append(Tool(entry[2], entry[3], _parameters(entry[2], entry[4])))
        end = entry.end(4)
    if not tools:
        raise ValueError("the first tool listed has no Description and Parameters lines")
    return tools, begin, end


def _parameters(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the parameters of {name} are no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"the parameters of {name} are a {type(found).__name__}, not an object")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
