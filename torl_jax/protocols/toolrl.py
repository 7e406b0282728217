"""ToolRL's markup: a thought, a block of calls in lines of JSON, a response.

    <think> The user asks for the weather. </think>
    <tool_call>
    {"name": "get_weather", "parameters": {"city": "Oslo"}}
    </tool_call>                                      <- live: the stop string
    <obs> [{"name": "get_weather", "results": 11}] </obs>         <- the tool's words

    <think> ... </think>
    <response> It is 11 degrees. </response>

Paper: "ToolRL: Reward is All Tool Learning Needs", arXiv 2504.13958. There a problem is
one step: the policy writes to its end-of-text token and no call is carried out
(`calls` = 0). With `calls` > 0 the calls are carried out and the episode goes on behind
what they gave, which stands there as it does in a history of the released data.

Deviations: the reward reads the first block of an output. Here a turn ends where its
first block closes; should that block have been opened more than once, the last opening
counts, so that a thought may name the tag.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from torl_jax.episode import Call, End, Observation, Problem
from torl_jax.errors import UserError
from torl_jax.protocols.blocks import Block
from torl_jax.protocols.text import StopFinder

OPEN, STOP = "<tool_call>", "</tool_call>"
ANSWER, ANSWERED = "<response>", "</response>"

Render = Callable[[Sequence[Mapping[str, str]]], str]


@dataclasses.dataclass(frozen=True)
class ToolRL:
    """The protocol of ToolRL with at most `calls` blocks carried out an episode.

    `render` turns messages into a prompt that ends where the assistant's turn begins
    (`ChatTemplate.render`). When no call is left the policy writes on to its end. Raises
    UserError for a negative budget.
    """

    render: Render
    calls: int = 0

    def __post_init__(self) -> None:
        if self.calls < 0:
            raise UserError(f"calls is {self.calls}: give 0 (a single step) or more")

    def prompt(self, problem: Problem) -> str:
        """The problem's system message, where it has one, and its question as the user's."""
        system = [{"role": "system", "content": problem.system}] if problem.system else []
        return self.render([*system, {"role": "user", "content": problem.question}])

    def stops(self, calls_made: int) -> tuple[str, ...]:
        """The tag that closes a block, as long as calls are left."""
        return () if calls_made >= self.calls else (STOP,)

    def finder(self, calls_made: int) -> StopFinder:
        """What finds it."""
        return StopFinder(self.stops(calls_made))

    def end(self, stop: str, calls_made: int) -> End | None:
        """Never: with no call left there is no stop."""
        return None

    def blocks(self, turn_text: str) -> list[Block]:
        """The tool blocks that the turn opens, in order; a second opening drops the first."""
        found: list[Block] = []
        start = turn_text.find(OPEN)
        while start >= 0:
            begin = start + len(OPEN)
            again, end = turn_text.find(OPEN, begin), turn_text.find(STOP, begin)
            closed = end >= 0 and (again < 0 or end < again)
            stop = end if closed else again if again >= 0 else len(turn_text)
            found.append(Block(turn_text[begin:stop], start, closed))
            start = again
        return found

    def answer_at(self, turn_text: str) -> int | None:
        """Where the turn's last complete response begins; None without one."""
        end = turn_text.rfind(ANSWERED)
        start = turn_text.rfind(ANSWER, 0, max(end, 0))
        return start if start >= 0 else None

    def call(self, turn_text: str) -> Call | None:
        """The lines of the block that the turn's stop closes; None if there is none or it is blank.

        A stop string can end inside a token: what that spells behind it is no part of it.
        """
        before, stop, _ = turn_text.partition(STOP)
        blocks = self.blocks(before + stop)
        whole = bool(blocks) and blocks[-1].closed and bool(blocks[-1].code.strip())
        return Call(blocks[-1].code) if whole else None

    def insertion(self, turn_text: str, observation: Observation | None) -> str:
        """The observation on a line of its own and a blank line; empty if nothing ran.

        No newline comes first where the token in which the stop string ended spells one.
        """
        if observation is None:
            return ""
        return (
            f"{'' if turn_text.endswith(chr(10)) else chr(10)}<obs> {observation.text} </obs>\n\n"
        )
