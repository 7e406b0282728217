"""What a protocol is: the markup by which a policy calls a tool and is answered.

A protocol is pure and holds no state: it turns a problem into a prompt, says
which strings end a turn, reads a call out of what the policy wrote in that turn,
and spells what is written back. It never runs anything, sees a token id or
looks at another author's text.
"""

from collections.abc import Sequence
from typing import Protocol as Interface

from torl_jax.episode import Call, End, Observation, Problem
from torl_jax.protocols.blocks import Block
from torl_jax.protocols.text import Stage, Stop


class Finder(Interface):
    """Watches one turn, token by token, for its end: `text.StopFinder`, or one with rules.

    `stages` say what it looks out for, so that the device can too (`machine.py`).
    """

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One after another; none has stops where nothing ends a turn."""
        ...

    def feed(self, pieces: Sequence[bytes]) -> Stop | None:
        """The stop that these tokens' bytes complete; None to go on."""
        ...


class Protocol(Interface):
    """How one family of prompts and tool calls is written.

    A *turn* is what the policy wrote since the prompt or the last observation,
    up to and including the token in which a stop string ended.
    """

    def prompt(self, problem: Problem) -> str:
        """The text that the policy continues."""
        ...

    def stops(self, calls_made: int) -> tuple[str, ...]:
        """The strings that can end the next turn."""
        ...

    def finder(self, calls_made: int) -> Finder:
        """What finds the first of them that does; for one turn."""
        ...

    def end(self, stop: str, calls_made: int) -> End | None:
        """Why this stop ends the episode; None where only the turn ends."""
        ...

    def blocks(self, turn_text: str) -> list[Block]:
        """The blocks of code (or of tool calls) that the turn opens, in order, run or not."""
        ...

    def answer_at(self, turn_text: str) -> int | None:
        """Where the turn's last complete final answer begins; None without one."""
        ...

    def call(self, turn_text: str) -> Call | None:
        """What the turn asks the tool to do; None if it asks for nothing complete."""
        ...

    def insertion(self, turn_text: str, observation: Observation | None) -> str:
        """What is written after the turn, by the author TOOL; may be empty.

        `observation` is None when `call` was.
        """
        ...
