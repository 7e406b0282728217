"""ToRL's markup: fenced Python, a fenced output, an answer in \\boxed{}.

    ```python
    print(347 * 28 + 91)
    ```
    ```output            <- the policy writes this line itself: the stop string
    9807                 <- the tool's words, and the closing fence
    ```

Paper: "ToRL: Scaling Tool-Integrated RL", arXiv 2503.23383.

Deviations from the released code:
1. Sampled ids are kept. It cuts a round's text before the stop string, spells
   the slot itself and encodes everything anew; here the stop string stays as the
   policy wrote it (and is trained), and only what follows is inserted.
2. So no newline is put before the stop string where the policy wrote none.
3. A block of blank lines asks for nothing; there, it was run.
"""

import dataclasses
from typing import Literal

from torl_jax.episode import Call, End, Observation, Problem
from torl_jax.protocols import prompts
from torl_jax.protocols.blocks import BLOCKS, Block, last_code
from torl_jax.protocols.text import StopFinder
from torl_jax.rewards.boxes import box_at

STOP = "```output"
PROMPT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant "
    "solves it.\n"
    "User: Please integrate natural language reasoning with programs to solve the problem "
    "above, and put your final answer within \\boxed{}.\n"
    f"{prompts.QUESTION}\n"
    "Assistant:\n"
)
# What is asked for where no tool is at hand (C = 0).
PLAIN_PROMPT = PROMPT.replace(
    "integrate natural language reasoning with programs to solve the problem above",
    "reason step by step to solve the problem above",
)


@dataclasses.dataclass(frozen=True)
class ToRL:
    """The protocol of ToRL with at most `calls` tool calls an episode (C).

    `prompt_template` holds `{question}` exactly once and may hold any other
    braces; empty, it is the paper's, or one without programs where `calls` is 0.
    While calls are left a turn ends at the output fence; after that the policy
    writes on in plain text to its end (`past` "text"), or asking once more ends the
    episode ("end", as verl-tool does). `extraction` says which fences hold code. Raises
    UserError for a template without its one `{question}` or a negative budget.
    """

    prompt_template: str = ""
    calls: int = 1
    past: Literal["text", "end"] = "text"
    extraction: Literal["compat", "tolerant"] = "compat"

    def __post_init__(self) -> None:
        if not self.prompt_template:
            template = PROMPT if self.calls else PLAIN_PROMPT
            object.__setattr__(self, "prompt_template", template)
        prompts.check(self.prompt_template, self.calls)

    def prompt(self, problem: Problem) -> str:
        """The template with the problem's question in its place."""
        return prompts.fill(self.prompt_template, problem.question)

    def stops(self, calls_made: int) -> tuple[str, ...]:
        """The output fence; once no call is left only where it ends the episode."""
        return () if calls_made >= self.calls and self.past == "text" else (STOP,)

    def finder(self, calls_made: int) -> StopFinder:
        """What finds it."""
        return StopFinder(self.stops(calls_made))

    def end(self, stop: str, calls_made: int) -> End | None:
        """The fence ends the episode once no call is left."""
        return End.CALLS if calls_made >= self.calls else None

    def blocks(self, turn_text: str) -> list[Block]:
        """The Python blocks that the turn opens, in order."""
        return BLOCKS[self.extraction](turn_text)

    def answer_at(self, turn_text: str) -> int | None:
        """Where the last complete box begins."""
        return box_at(turn_text)

    def call(self, turn_text: str) -> Call | None:
        """The code of the turn's last Python block; None if that is unclosed or blank."""
        before, stop, _ = turn_text.partition(STOP)
        code = last_code(self.blocks(before + stop))
        return Call(code) if code.strip() else None

    def insertion(self, turn_text: str, observation: Observation | None) -> str:
        """The rest of the output block; empty if nothing ran.

        The stop string can end inside a token that also spells a newline: then the
        slot's first line is already complete.
        """
        if observation is None:
            return ""
        return ("" if turn_text.endswith("\n") else "\n") + observation.text + "\n```\n"
