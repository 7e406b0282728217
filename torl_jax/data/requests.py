"""Invented tools and requests for them: what the tool-calling quickstart is trained on.

A problem is a list of one to three tools (its system message) and a request for one or two
errands, or for one that no listed tool does. The gold answer holds the calls, or, where no tool
fits, a response. What is left to learn is *how to call*, if a model below a million parameters can
copy: names and numbers come from vocabularies that are too large to learn by heart which of them a
tool is given, and of two errands, if not of one tool, each has vocabularies of its own.

A problem is a pure function of (seed, index, kinds, held_out). An errand (a tool and its
arguments) is held out or not by a hash of its own, and a problem holds errands of one side only:
no errand of a held-out problem is ever asked for, listed tools or not, in training. Errands of one
value are never held out: that a tool is not given a certain word might be learnt as a rule.
"""

import dataclasses
import json
import random
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.protocols.dialogue import Tool

HELD_OUT_SHARE = 8  # one in so many errands of several values is held out
SIZES = {1: 4, 2: 4, 3: 2}  # lengths of the list of tools, and how often each is
MOST_PARAMETERS = 5  # of all listed tools together: prompts stay short
SAME_TOOL_SHARE = 0.1  # of two errands
THOUGHT = "Which tool fits?"
NO_TOOL = "No tool can do that."
FRAMES = {
    1: ("Please {0}.", "Can you {0}?"),
    2: ("Please {0}, then {1}.", "Can you {0}, then {1}?"),
}
# Kinds of problem: errands asked for that a listed tool does, or "none" does.
KINDS = ("one", "two", "none")
# One in eight asks for what no tool does.
TURNS = ("one", "two", "one", "two", "one", "none", "one", "two")

_WORDS = {
    "city": """
        Oslo Rome Paris Lima Cairo Delhi Quito Tokyo Berlin Madrid Vienna Athens Dublin Lisbon
        Prague Warsaw Kyoto Osaka Seoul Hanoi Dakar Tunis Accra Lagos Nairobi Havana Bogota Denver
        Boston Austin Geneva Milan Naples Turin Lyon Porto Seville Bergen Malmo Riga
    """,
    "person": """
        Anna Ben Clara David Emma Felix Grace Hugo Ida Jonas Karla Leo Marta Nils Olga Paul Rosa
        Simon Tara Ulf Vera Walter Yara Zoe Adam Bella Carl Diana Erik Fiona Georg Helen Ivan
        Julia Kurt Lena Max Nora Otto Petra
    """,
    "item": """
        milk rice salt bread tea apples eggs soup sugar flour butter cheese beans nuts honey pears
        plums grapes lemons onions leeks corn oats pasta fish ham juice jam oil soap
    """,
    "room": "kitchen bedroom office hall attic garage cellar studio library nursery pantry lounge",
    "money": "euro yen peso rupee dollar pound franc krone rand real lira won",
    "colour": "red blue green yellow black white pink purple orange brown grey silver gold beige",
    "word": """
        house river tree bridge moon stone cloud field garden window mountain summer winter forest
        island letter mirror needle ocean pencil
    """,
    "language": """
        French Hindi Greek Korean Swahili German Polish Turkish Arabic Danish Finnish Thai
    """,
}
WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {kind: tuple(words.split()) for kind, words in _WORDS.items()}
)
NUMBERS = range(2, 40)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A tool's parameter: `type` as the list names it, `drawn` from WORDS or NUMBERS ("number")."""

    name: str
    type: str
    drawn: str

    def draw(self, rng: random.Random) -> Any:
        """A value; a list has two or three different members."""
        members = NUMBERS if self.drawn == "number" else WORDS[self.drawn]
        if self.type == "array":
            return rng.sample(members, rng.randrange(2, 4))
        return rng.choice(members)


@dataclasses.dataclass(frozen=True)
class Invented:
    """An invented tool; `phrasings` are format strings over its parameters by name."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    phrasings: tuple[str, ...]

    @property
    def drawn(self) -> set[str]:
        """The vocabularies that its values come from."""
        return {p.drawn for p in self.parameters}

    @property
    def described(self) -> Tool:
        """As a prompt shows it."""
        shown = {
            p.name: {"description": "", "type": p.type, "default": ""} for p in self.parameters
        }
        return Tool(self.name, self.description, shown)


def _tool(name: str, description: str, parameters: str, *phrasings: str) -> Invented:
    """`parameters`: "name:drawn name:drawn[] ...", where [] is a list of such."""
    made = []
    for spec in parameters.split():
        label, drawn = spec.removesuffix("[]").split(":")
        one = "integer" if drawn == "number" else "string"
        made.append(Parameter(label, "array" if spec.endswith("[]") else one, drawn))
    return Invented(name, description, tuple(made), phrasings)


TOOLS = {
    tool.name: tool
    for tool in (
        _tool(
            "get_weather", "Weather of a city.", "city:city",
            "get the weather in {city}", "look how warm it is in {city}",
        ),
        _tool(
            "book_table", "Books a table.", "city:city guests:number",
            "book a table for {guests} in {city}", "find a table in {city} for {guests}",
        ),
        _tool(
            "rent_car", "Rents a car.", "city:city days:number",
            "rent a car in {city} for {days} days", "get a car for {days} days in {city}",
        ),
        _tool(
            "find_train", "Finds a train.", "start:city end:city",
            "find a train from {start} to {end}", "get me to {end} from {start} by train",
        ),
        _tool(
            "convert_money", "Converts money.", "amount:number source:money target:money",
            "convert {amount} {source} to {target}", "change {amount} {source} into {target}",
        ),
        _tool(
            "send_money", "Sends money.", "person:person amount:number",
            "send {person} {amount} coins", "pay {amount} coins to {person}",
        ),
        _tool("call_person", "Calls somebody.", "person:person", "call {person}", "ring {person}"),
        _tool(
            "invite", "Invites people.", "people:person[] hour:number",
            "invite {people} at {hour}", "ask {people} to come at {hour}",
        ),
        _tool(
            "buy_items", "Buys items.", "items:item[]",
            "buy {items}", "get {items} from the shop",
        ),
        _tool(
            "mix_paint", "Mixes colours.", "colours:colour[]",
            "mix {colours} paint", "make paint from {colours}",
        ),
        _tool(
            "add_numbers", "Adds numbers.", "numbers:number[]",
            "add {numbers}", "sum up {numbers}",
        ),
        _tool(
            "set_heating", "Heats a room.", "room:room degrees:number",
            "heat the {room} to {degrees}", "set {degrees} degrees in the {room}",
        ),
        _tool(
            "clean_room", "Cleans a room.", "room:room",
            "clean the {room}", "tidy up the {room}",
        ),
        _tool(
            "translate", "Translates a word.", "word:word language:language",
            "translate {word} into {language}", "say {word} in {language}",
        ),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Errand:
    """One thing to do: a tool's name and its arguments."""

    tool: str
    arguments: Mapping[str, Any]

    @property
    def line(self) -> str:
        """The call, as a tool block holds it."""
        return json.dumps({"name": self.tool, "parameters": dict(self.arguments)})

    @property
    def values(self) -> list[Any]:
        """All values, those of lists one by one."""
        given = self.arguments.values()
        return [one for each in given for one in (each if isinstance(each, list) else [each])]

    @property
    def held_out(self) -> bool:
        """Whether it belongs to evaluation."""
        return len(self.values) > 1 and zlib.crc32(self.line.encode()) % HELD_OUT_SHARE == 0


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for, of which tools; `kind` "none": the errand is none of `tools`'."""

    kind: str
    tools: tuple[str, ...]
    errands: tuple[Errand, ...]
    text: str

    @property
    def calls(self) -> tuple[Errand, ...]:
        """The gold calls."""
        return () if self.kind == "none" else self.errands


def _errand(rng: random.Random, held_out: bool, among: Sequence[str]) -> Errand:
    """One of the right side whose values all differ, or a request could be read in two ways."""
    while True:
        tool = TOOLS[rng.choice(among)]
        arguments = {p.name: p.draw(rng) for p in tool.parameters}
        errand = Errand(tool.name, arguments)
        if errand.held_out == held_out and len({*map(str, arguments.values())}) == len(arguments):
            return errand


def phrase(errand: Errand, rng: random.Random) -> str:
    """The errand in words: "book a table for 4 in Oslo"."""
    words = {
        name: " and ".join([", ".join(map(str, value[:-1])), str(value[-1])])
        if isinstance(value, list)
        else str(value)
        for name, value in errand.arguments.items()
    }
    return rng.choice(TOOLS[errand.tool].phrasings).format(**words)


def _listed(errands: Sequence[Errand], kind: str, rng: random.Random) -> tuple[str, ...]:
    """The tools of the list, shuffled: those that are needed, and some that are not."""
    needed = [] if kind == "none" else list(dict.fromkeys(e.tool for e in errands))
    asked = {e.tool for e in errands}
    others = rng.sample([name for name in TOOLS if name not in asked], max(SIZES))
    chosen, count = list(needed), rng.choices(list(SIZES), weights=list(SIZES.values()))[0]
    for name in others:
        size = sum(len(TOOLS[n].parameters) for n in (*chosen, name))
        if len(chosen) < count and size <= MOST_PARAMETERS:
            chosen.append(name)
    rng.shuffle(chosen)
    return tuple(chosen)


def request(
    seed: int, index: int, kinds: Sequence[str] = TURNS, held_out: bool = False
) -> tuple[Request, random.Random]:
    """Request `index` of `seed`, and the generator that it came from.

    Kinds take turns, so any run of requests is balanced. UserError for an unknown or empty
    list of kinds.
    """
    unknown = [name for name in kinds if name not in KINDS]
    if unknown or not kinds:
        found = repr(unknown[0]) if unknown else "an empty list"
        raise UserError(f"kinds of request: found {found}; choose among {', '.join(KINDS)}")
    kind = kinds[index % len(kinds)]
    rng = random.Random(f"request {kind} {seed} {index} {held_out}")
    errands = [_errand(rng, held_out, list(TOOLS))]
    while kind == "two" and len(errands) < 2:
        first = errands[0].tool
        same = rng.random() < SAME_TOOL_SHARE
        other = [n for n, tool in TOOLS.items() if not tool.drawn & TOOLS[first].drawn]
        second = _errand(rng, held_out, [first] if same else other)
        sizes = {e.tool: len(e.arguments) for e in (errands[0], second)}
        if second != errands[0] and sum(sizes.values()) <= MOST_PARAMETERS:
            errands.append(second)
    tools = _listed(errands, kind, rng)
    text = rng.choice(FRAMES[len(errands)]).format(*(phrase(e, rng) for e in errands))
    return Request(kind, tools, tuple(errands), text), rng


def system(tools: Sequence[str]) -> str:
    """The system message: the list of the tools of these names, and nothing else."""
    return dialogue.tool_list([TOOLS[name].described for name in tools])


def gold(request: Request) -> str:
    """The answer: a thought, then the calls, one to a line, or a response."""
    if not request.calls:
        return f"<think> {THOUGHT} </think>\n<response> {NO_TOOL} </response>"
    calls = dialogue.block((call.tool, call.arguments) for call in request.calls)
    return f"<think> {THOUGHT} </think>\n{calls}"


def problem(seed: int, index: int, held_out: bool = False, kinds: Sequence[str] = TURNS) -> Problem:
    """Problem `index` of the stream `seed`; its id reads like "two-3-17"."""
    asked, _ = request(seed, index, kinds, held_out)
    return Problem(
        id=f"{asked.kind}-held-{seed}-{index}" if held_out else f"{asked.kind}-{seed}-{index}",
        question=asked.text,
        answer=gold(asked),
        source=asked.kind,
        system=system(asked.tools),
    )


def problems(
    seed: int,
    start: int,
    count: int,
    held_out: bool = False,
    kinds: Sequence[str] = TURNS,
) -> list[Problem]:
    """Problems start .. start + count - 1 of the stream `seed`."""
    return [problem(seed, i, held_out, kinds) for i in range(start, start + count)]
