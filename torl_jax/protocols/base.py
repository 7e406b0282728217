"""What a protocol is: the markup by which a policy calls a tool and is answered.

A protocol is pure and holds no state: it turns a problem into a prompt, says
which strings end a turn, reads a call out of what the policy wrote in that turn,
and spells what is written back. It never runs anything, sees a token id or
looks at another author's text.
"""

from typing import Protocol as Interface

from torl_jax.episode import Call, Observation, Problem
from torl_jax.protocols.blocks import Block


class Protocol(Interface):
    """How one family of prompts and tool calls is written.

    A *turn* is what the policy wrote since the prompt or the last observation,
    up to and including the token in which a stop string ended.
    """

    def prompt(self, problem: Problem) -> str:
        """The text that the policy continues."""
        ...

    def stops(self, calls_made: int) -> tuple[str, ...]:
        """The strings that end the next turn."""
        ...

    def spent(self, calls_made: int) -> bool:
        """Whether no call is left: a stop then ends the episode."""
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
