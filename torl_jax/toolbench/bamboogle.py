"""Bamboogle as ToolRL measures it: questions of two hops, a web search, a judge (table 3).

A dialogue is a value; nothing here samples, searches or judges:

    Dialogue --prompt--> messages for the policy
             --heard(reply)--> it searches (`query`), has an answer, or the round is lost
             --found(entries)--> the next round's dialogue

There are at most ROUNDS replies. A reply without a tool tag answers: by its response, else by what
follows its thought. Any other asks: the first line of its last tool block is read as a Python
literal, as in the released loop, so that JSON's true, false and null lose the round (LITERALS has
JSON, and either). The parameter `query` is searched for and what was found is written behind the
reply, with a nudge of the user's: to go on where it is needed, after the third round to answer
now. A lost round leaves no trace. Who has not answered in the last round is wrong. A search that
is asked for in the last round counts as a call, as it does in the paper's figures (up to 3.71 a
question), but is not carried out: nobody would read it.

This module is part of the words world: no jax.
"""

import ast
import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.protocols.toolrl import OPEN
from torl_jax.toolbench.blocks import last_block

NAME = "bamboogle"
SIZE = 125
ROUNDS = 4
SEARCH = dialogue.Tool(
    "Search",
    "Looks something up on the web and gives back the first entries that it finds.",
    {"query": {"description": "What to look for.", "type": "string", "default": ""}},
)
GO_ON = (
    "Think about what these entries say. If something is still missing, call Search again; "
    "otherwise give the final answer in your response, as short as it can be."
)
ANSWER_NOW = (
    "Do not call Search any more. Give the final answer in your response now, as short as it "
    "can be."
)


@dataclasses.dataclass(frozen=True)
class Item:
    """A question with its gold answer."""

    id: str
    question: str
    gold: str

    @property
    def name(self) -> str:
        """Its id among the items of all benchmarks."""
        return f"{NAME}:{self.id}"


@dataclasses.dataclass(frozen=True)
class Round:
    """A reply, what it searched for (None: nothing that could be read), what was found."""

    reply: str
    query: str | None = None
    entries: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """What was said about `question` so far; `answer` where there is a final one."""

    question: str
    rounds: tuple[Round, ...] = ()
    answer: str | None = None

    @property
    def query(self) -> str | None:
        """What is to be searched for before the next round; None where nothing is."""
        if self.over or not self.rounds or self.rounds[-1].entries is not None:
            return None
        return self.rounds[-1].query

    @property
    def over(self) -> bool:
        """Whether there is an answer, or no round is left."""
        return self.answer is not None or len(self.rounds) == ROUNDS

    @property
    def calls(self) -> int:
        """Searches that were asked for."""
        return sum(one.query is not None for one in self.rounds)

    @property
    def user(self) -> str:
        """The user message of the next round."""
        text = f"{dialogue.HISTORY}\n<user> {self.question.strip()} </user>"
        for number, one in enumerate(self.rounds, start=1):
            if one.query is None or one.entries is None:
                continue
            seen = dialogue.obs([(SEARCH.name, list(one.entries))])
            nudge = ANSWER_NOW if number == ROUNDS - 1 else GO_ON
            text += f"\n\n{one.reply.strip()}\n{seen}\n\n<user> {nudge} </user>"
        return text

    def problem(self, item: Item, system: str) -> Problem:
        """The next round as the sampler takes it; each round draws chances of its own."""
        name = f"{item.name}/{len(self.rounds) + 1}" if self.rounds else item.name
        return Problem(name, self.user, item.gold, source=NAME, system=system)

    def heard(self, reply: str, literal: str = "python") -> "Dialogue":
        """With the policy's reply; `literal` of LITERALS. Not while a search is open."""
        if self.over or self.query is not None:
            raise ValueError("no reply is due")
        if OPEN not in reply:
            rounds = (*self.rounds, Round(reply))
            return dataclasses.replace(self, rounds=rounds, answer=final(reply))
        return dataclasses.replace(self, rounds=(*self.rounds, Round(reply, asked(reply, literal))))

    def found(self, entries: Sequence[str]) -> "Dialogue":
        """With what the search found."""
        if self.query is None:
            raise ValueError("no search is open")
        *before, last = self.rounds
        last = dataclasses.replace(last, entries=tuple(entries))
        return dataclasses.replace(self, rounds=(*before, last))


def system(trained: str = "") -> str:
    """The system message: ours, or one that a policy was `trained` on, with the search tool.

    The evaluation's copies of the prompt end with a newline that the training's have not.
    """
    text = dialogue.with_tools(trained, [SEARCH]) if trained else dialogue.system([SEARCH])
    return text.rstrip("\n") + "\n"


def final(reply: str) -> str:
    """The answer of a reply that calls no tool."""
    _, tag, response = reply.rpartition("<response>")
    if tag:
        return response.partition("</response>")[0].strip()
    return reply.rpartition("</think>")[2].strip()


def asked(reply: str, literal: str = "python") -> str | None:
    """The query of the first call of a reply's last block; None where none can be read."""
    first = (last_block(reply) or "").strip().partition("\n")[0]
    try:
        match LITERALS[literal](first):
            case {"parameters": {"query": str(query)}} if query.strip():
                return query
    # All that a literal of a policy's can raise: brackets nested too deep are a MemoryError.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return None


def _python(line: str) -> Any:
    with warnings.catch_warnings():  # of odd escapes in what a policy wrote
        warnings.simplefilter("ignore")
        return ast.literal_eval(line)


def _either(line: str) -> Any:
    try:
        return _python(line)
    except (ValueError, SyntaxError):
        return json.loads(line)


# How the line of a call is read; "python" is the release's.
LITERALS: Mapping[str, Callable[[str], Any]] = {
    "python": _python,
    "json": json.loads,
    "either": _either,
}


def read(path: str) -> list[Item]:
    """The questions of a JSON file, a list of {"Question", "Answer"}; UserError for another."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{NAME}={path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); fetch it again") from None
    items = []
    for index, row in enumerate(rows if isinstance(rows, list) else ()):
        match row:
            case {"Question": str(question), "Answer": str(gold)} if question.strip():
                items.append(Item(str(index), question, gold))
            case _:
                raise UserError(f"{path} item {index} has no Question and Answer, both texts")
    if not items:
        raise UserError(f"{path} is no list of questions; give Bamboogle's data.json")
    return items


def notes(items: Sequence[Item]) -> list[str]:
    """What a person should know of the items before believing their figures."""
    if len(items) == SIZE:
        return []
    return [f"{NAME}: {len(items)} questions here, the published set has {SIZE}"]
