"""ZeroTIR's markup: a thought in which Python runs, an answer in tags.

    ... Assistant: <think>          <- the prompt ends with an open tag
    Let me count.
    ```python                       <- from here on only the closing fence is watched for
    print(347 * 28 + 91)
    ```                             <- the stop string: the block is run
    ```output
    9807
    ```                             <- the tool's words


    </think> <answer> \\boxed{9807} </answer>         <- ends the episode

Nothing in the prompt speaks of fences or of how many programs may run: a base model has to
come upon them by itself.

Paper: "Agent RL Scaling Law: Agent RL with Spontaneous Code Execution for Mathematical
Problem Solving" (ZeroTIR), arXiv 2505.07773.

Deviations: 1. A stop string ends with the token that it ends in, as everywhere here; so no
newline is put before the output where that token spells one. 2. No end-of-text token is
put behind an answer that the policy did not end itself: it would not be trained on.
"""

import dataclasses
from collections.abc import Callable, Sequence

from torl_jax.episode import Call, End, Observation, Problem
from torl_jax.protocols import prompts
from torl_jax.protocols.blocks import Block, compat
from torl_jax.protocols.text import Stage, Stop, StopFinder

PYTHON = "While thinking, the Assistant may write Python code and use what it prints. "
PROMPT = (
    "A conversation between User and Assistant. The User asks a question, the Assistant solves "
    "it. The Assistant first thinks the problem through and then gives the answer: the thoughts "
    "stand between <think> and </think>, the answer between <answer> and </answer>, that is, "
    f"<think> thoughts </think> <answer> answer </answer>. {PYTHON}"
    "User: Put your answer between <answer> and </answer>; the final answer is read from "
    "\\boxed{} in it.\n"
    f"This is the problem:{prompts.QUESTION}\n"
    "Assistant: <think>"
)
# The control: the same without a word of Python.
PLAIN_PROMPT = PROMPT.replace(PYTHON, "")

OPEN, CLOSE = "```python", "\n```"
ANSWERED = "</answer>"
ROLES = ("User:", "Human:", "Assistant:")
LIMIT = 256  # tokens of what is inserted
TOO_LONG = "The output is too long to be shown."


@dataclasses.dataclass(frozen=True)
class ZeroTIR:
    """The protocol of ZeroTIR with at most `calls` programs an episode (N_max).

    `lengths` counts the tokens of texts (`Tokenizer.lengths`): output of more than `limit`
    is replaced by a sentence that says so. `prompt_template` holds `{question}` exactly once;
    empty, it is the paper's, or the control without Python where `calls` is 0. With no call
    left the policy writes on to its end, and nothing that it writes is run. Raises UserError for
    a template without its one `{question}` or a negative budget.
    """

    lengths: Callable[[Sequence[str]], list[int]]
    prompt_template: str = ""
    calls: int = 2
    limit: int = LIMIT

    def __post_init__(self) -> None:
        if not self.prompt_template:
            object.__setattr__(self, "prompt_template", PROMPT if self.calls else PLAIN_PROMPT)
        prompts.check(self.prompt_template, self.calls)

    def prompt(self, problem: Problem) -> str:
        """The template with the problem's question in its place."""
        return prompts.fill(self.prompt_template, problem.question)

    def stops(self, calls_made: int) -> tuple[str, ...]:
        """The end of an answer and words of roles; a block's end, as long as calls are left."""
        return (*ROLES, ANSWERED) if calls_made >= self.calls else (*ROLES, ANSWERED, CLOSE)

    def finder(self, calls_made: int) -> "StopFinder | Fences":
        """What finds them: a fence closes only what was opened, and in code nothing else stops."""
        stops = StopFinder((*ROLES, ANSWERED))
        return stops if calls_made >= self.calls else Fences((*ROLES, ANSWERED), OPEN, CLOSE)

    def end(self, stop: str, calls_made: int) -> End | None:
        """Why the episode ends at this stop; None where a block is to be run."""
        return {CLOSE: None, ANSWERED: End.ANSWER}.get(stop, End.ROLE)

    def blocks(self, turn_text: str) -> list[Block]:
        """The Python blocks that the turn opens, in order."""
        return compat(turn_text)

    def answer_at(self, turn_text: str) -> int | None:
        """Where the last closed answer begins."""
        end = turn_text.rfind(ANSWERED)
        start = turn_text.rfind("<answer>", 0, max(end, 0))
        return start if start >= 0 else None

    def call(self, turn_text: str) -> Call | None:
        """The code between the turn's last two fences; None if it is blank."""
        _, _, code = turn_text.rpartition(CLOSE)[0].rpartition(OPEN)
        return Call(code.lstrip("\n") + "\n") if code.strip() else None

    def insertion(self, turn_text: str, observation: Observation | None) -> str:
        """The output in a block of its own and two blank lines; empty if nothing ran."""
        if observation is None:
            return ""
        first = "" if turn_text.endswith("\n") else "\n"
        whole = f"{first}```output\n{observation.text}\n```\n\n\n"
        if self.lengths([whole])[0] <= self.limit:
            return whole
        return f"{first}```output\n{TOO_LONG}\n```\n\n\n"


class Fences:
    """Finds stops outside of a block, and in a block its closing fence alone.

    Used as a `StopFinder`. The opening fence is no stop: nothing pauses there.
    """

    def __init__(self, outside: Sequence[str], opening: str, closing: str) -> None:
        self.stages = (Stage(tuple(outside), opening), Stage((closing,)))
        self._opening, self._inside = opening, StopFinder((closing,))
        self._finder = StopFinder((*outside, opening))
        self._tokens = self._bytes = 0  # of the turn: seen
        self._first = self._begin = 0  # of the turn: seen before the finder began

    def feed(self, pieces: Sequence[bytes]) -> Stop | None:
        """As `StopFinder.feed`."""
        found = self._finder.feed(pieces)
        if found is None:
            self._tokens += len(pieces)
            self._bytes += sum(map(len, pieces))
            return None
        tokens, end = self._first + found.tokens, self._begin + found.end
        if found.text != self._opening:
            return Stop(tokens, found.text, end)
        # The token in which the fence ended may spell more: that is in the block already.
        kept = tokens - self._tokens
        rest = b"".join(pieces[:kept])[end - self._bytes :]
        self._finder, self._first, self._begin = self._inside, tokens - 1, end
        self._tokens, self._bytes = tokens - 1, end
        return self.feed([rest, *pieces[kept:]])
