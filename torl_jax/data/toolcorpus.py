r"""What the base of the tool-calling quickstart was pretrained on: calls, right and flawed.

A document is a problem of `requests.py` and one of its possible answers, cut where a rollout
cuts it:

    PROMPT  System: 1. Name: call_person\n...\nUser: Please call Ida.\nAssistant:\n
    POLICY  <think> Which tool fits? </think>\n<tool_call>\n{"name": ...}\n</tool_call>

(then end-of-text). The markup is one of several HABITS, of which the right one is only the most
common, and the calls have any number of FLAWS, each with a share of its own. Which habit and
which flaws are drawn without a look at the request: the base knows every habit and keeps to none,
so a structured reward has something to choose among, and most answers something partly right.
Held-out problems never occur.

The stream begins with drills: one errand, later two, no list of tools, the right answer. A small
decoder finds what to copy where there is little else, and much later, or not at all, in a long
prompt.
"""

import dataclasses
import json
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torl_jax.data import requests
from torl_jax.data.corpus import STREAM, Document
from torl_jax.data.requests import NO_TOOL, THOUGHT, TOOLS, Request
from torl_jax.data.vocabulary import END_OF_TEXT
from torl_jax.episode import Author
from torl_jax.protocols.chat import ChatTemplate

# End of text ends the assistant's turn.
TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- 'Assistant:\\n' + message['content'] + eos_token + '\\n' }}"
    "{%- else %}"
    "{{- message['role'] | capitalize + ': ' + message['content'] + '\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'Assistant:\\n' }}{%- endif %}"
)
CHAT = ChatTemplate(TEMPLATE, {"eos_token": END_OF_TEXT}, "torl_jax.data.toolcorpus")
# Where no tool fits comes twice as often as in training: it is what is hardest to see.
KINDS = ("one", "two", "one", "none")
# Drills before the first other document; over half as many their share falls to nothing. The first
# are of one errand: words are copied after 20,000 of them, numbers after 55,000.
DRILLS = 72_000
SINGLE = 56_000
RIGHT = "right"
# Ways to write an answer, and how often each is.
HABITS: Mapping[str, int] = MappingProxyType(
    {
        RIGHT: 50,
        "bare": 8,  # no thought
        "gap": 10,  # a blank line after the thought
        "inline": 6,  # blanks for line breaks
        "chat": 9,  # goes on after the block
        "open": 7,  # the block is not closed
        "fenced": 5,  # the calls within a fence
        "other": 5,  # a response for a call, a call for a response
    }
)
# What may be wrong with the calls, each by itself, and its share of documents.
FLAWS: Mapping[str, float] = MappingProxyType(
    {
        "tool": 0.06,  # another tool of the list
        "value": 0.12,  # one that the request does not say
        "type": 0.12,  # a number as text, a text as list, a list as text
        "omitted": 0.10,  # a parameter too few
        "renamed": 0.10,  # a parameter by another name
        "added": 0.08,  # a parameter too many
        "extra": 0.08,  # a call too many
        "first": 0.25,  # only the first of two calls
    }
)
RENAMED = "value"
ADDED = ("note", "none")
CLOSING = "Is there anything else?"


@dataclasses.dataclass
class _Draft:
    """A call being spoilt."""

    name: str
    arguments: dict[str, Any]

    @property
    def line(self) -> str:
        return json.dumps({"name": self.name, "parameters": self.arguments})

    def pick(self, rng: random.Random) -> str | None:
        """A parameter's name; None where a flaw before has left none out."""
        return rng.choice(list(self.arguments)) if self.arguments else None


def _spelt_wrong(value: Any) -> Any:
    """The value with another type."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return [value] if isinstance(value, str) else str(value)


def _another(value: Any, request: Request, rng: random.Random) -> Any:
    """A value of the same type that is not in the request."""
    named = [v for errand in request.errands for v in errand.arguments.values()]
    alike = [p for t in TOOLS.values() for p in t.parameters]
    while True:
        drawn = rng.choice(alike).draw(rng)
        if type(drawn) is type(value) and drawn not in named:
            return drawn


def _tool(calls: list[_Draft], request: Request, rng: random.Random) -> None:
    call = rng.choice(calls)
    if others := [name for name in request.tools if name != call.name]:
        call.name = rng.choice(others)


def _value(calls: list[_Draft], request: Request, rng: random.Random) -> None:
    call = rng.choice(calls)
    if key := call.pick(rng):
        call.arguments[key] = _another(call.arguments[key], request, rng)


def _type(calls: list[_Draft], request: Request, rng: random.Random) -> None:
    call = rng.choice(calls)
    if key := call.pick(rng):
        call.arguments[key] = _spelt_wrong(call.arguments[key])


def _omitted(calls: list[_Draft], request: Request, rng: random.Random) -> None:
    call = rng.choice(calls)
    if key := call.pick(rng):
        del call.arguments[key]


def _renamed(calls: list[_Draft], request: Request, rng: random.Random) -> None:
    call = rng.choice(calls)
    if key := call.pick(rng):
        call.arguments = {RENAMED if k == key else k: v for k, v in call.arguments.items()}


def _added(calls: list[_Draft], request: Request, rng: random.Random) -> None:
    rng.choice(calls).arguments |= dict([ADDED])


def _extra(calls: list[_Draft], request: Request, rng: random.Random) -> None:
    calls.append(_invented(request, rng))


def _first(calls: list[_Draft], request: Request, rng: random.Random) -> None:
    del calls[1:]


def _invented(request: Request, rng: random.Random) -> _Draft:
    """A call of a listed tool with values from nowhere."""
    tool = TOOLS[rng.choice(request.tools)]
    return _Draft(tool.name, {p.name: p.draw(rng) for p in tool.parameters})


# Applied in this order: what needs a call as it was comes first, the number of calls last.
_SPOIL: Mapping[str, Callable[[list[_Draft], Request, random.Random], None]] = {
    "value": _value,
    "type": _type,
    "renamed": _renamed,
    "omitted": _omitted,
    "added": _added,
    "tool": _tool,
    "first": _first,
    "extra": _extra,
}


def lines_of(request: Request, flaws: Collection[str], rng: random.Random) -> list[str]:
    """The calls for the request, one to a line, with these flaws."""
    calls = [_Draft(e.tool, dict(e.arguments)) for e in request.calls]
    for flaw, spoil in _SPOIL.items():
        if flaw in flaws:
            spoil(calls, request, rng)
    return [call.line for call in calls]


def answer(habit: str, lines: Sequence[str]) -> str:
    """What the assistant writes: these calls, or a response where there are none."""
    gap = {"gap": "\n\n", "inline": " "}.get(habit, "\n")
    if lines:
        inner, tag = " " if habit == "inline" else "\n", "tool_call"
        body = "\n".join(lines)
        body = f"```json\n{body}\n```" if habit == "fenced" else body
    else:
        inner, tag, body = " ", "response", NO_TOOL
    thought = "" if habit == "bare" else f"<think> {THOUGHT} </think>{gap}"
    close = "" if habit == "open" else f"{inner}</{tag}>"
    return f"{thought}<{tag}>{inner}{body}{close}" + (f"\n{CLOSING}" if habit == "chat" else "")


def draw(rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """(habit, flaws) with the corpus' odds."""
    habit = rng.choices(list(HABITS), weights=list(HABITS.values()))[0]
    return habit, tuple(flaw for flaw, share in FLAWS.items() if rng.random() < share)


def prompt(request: Request, listed: bool = True) -> str:
    """The text that the assistant continues, with the list of tools or without."""
    system = {"role": "system", "content": requests.system(request.tools)}
    return CHAT.render([system] * listed + [{"role": "user", "content": request.text}])


def drill(seed: int, index: int) -> Document:
    """Document `index` of the stream as it begins."""
    kinds = ("one",) if index < SINGLE else ("one", "two")
    request, _ = requests.request(seed + STREAM, index, kinds)
    text = answer(RIGHT, lines_of(request, (), random.Random(0)))
    pieces = ((Author.PROMPT, prompt(request, listed=False)), (Author.POLICY, text))
    return Document(request.kind, "drill", pieces)


def document(
    seed: int,
    index: int,
    style: str | None = None,
    kinds: Sequence[str] = KINDS,
    held_out: bool = False,
) -> Document:
    """Document `index` of the stream `seed`: a pure function of its arguments.

    `style` is a habit and flaws joined by "+", as in "gap+value+first"; None draws one. Held-out
    documents (for the gate) are asked for by name. A document's `style` names the flaws that
    were drawn, though some requests have no room for some.
    """
    rng = random.Random(f"document {seed} {index}")
    if style is None and index < (1 + rng.random() / 2) * DRILLS:
        return drill(seed, index)
    # A stream of its own: a training run of the same seed meets other problems.
    request, _ = requests.request(seed + STREAM, index, kinds, held_out)
    if style is None:
        habit, flaws = draw(rng)
    else:
        habit, *flaws = style.split("+")
    lines = lines_of(request, flaws, rng) if request.calls else []
    if habit == "other":
        lines = [] if lines else [_invented(request, rng).line]
    text = answer(habit, lines)
    pieces = ((Author.PROMPT, prompt(request)), (Author.POLICY, text))
    return Document(request.kind, "+".join([habit, *flaws]), pieces)


# Where the parts of an answer lie that are read from the prompt: group 1 of each.
_NAME = re.compile(r'(\{"name": "[^"]*")')
_KEY = re.compile(r'"((?!name"|parameters")\w+)": ')
_VALUE = re.compile(r'"(?!name"|parameters")\w+": ((?:\[[^\]]*\]|"[^"]*"|\d+)[,}])')
_TAG = re.compile(r"(</?(?:tool_call|response)>)")


def spans(document: Document) -> dict[str, list[tuple[int, int, int]]]:
    """(piece, start, end) in characters of what the gate looks at in a right document.

    tag: a call or a response, and no further call; name: the tools'; key: the parameters';
    value: each with the mark behind it, so that none is left out and none added.
    """
    at = len(document.pieces) - 1
    text = document.pieces[at][1]
    patterns = {"tag": _TAG, "name": _NAME, "key": _KEY, "value": _VALUE}
    found = {name: [(at, *m.span(1)) for m in p.finditer(text)] for name, p in patterns.items()}
    return {name: where for name, where in found.items() if where}
