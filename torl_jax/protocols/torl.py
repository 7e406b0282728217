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

from torl_jax.episode import Call, Observation, Problem
from torl_jax.errors import UserError

STOP = "```output"
QUESTION = "{question}"
PROMPT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant "
    "solves it.\n"
    "User: Please integrate natural language reasoning with programs to solve the problem "
    "above, and put your final answer within \\boxed{}.\n"
    f"{QUESTION}\n"
    "Assistant:\n"
)


@dataclasses.dataclass(frozen=True)
class ToRL:
    """The protocol of ToRL with at most `calls` tool calls an episode (C).

    `prompt_template` holds `{question}` exactly once and may hold any other
    braces. While calls are left a turn ends at the output fence; after that the
    policy writes on in plain text to its end. Raises UserError for a template
    without its one `{question}` or a negative budget.
    """

    prompt_template: str = PROMPT
    calls: int = 1

    def __post_init__(self) -> None:
        found = self.prompt_template.count(QUESTION)
        if found != 1:
            raise UserError(
                f"prompt template has {QUESTION} {found} times: write it exactly once, "
                "where the problem's text goes"
            )
        if self.calls < 0:
            raise UserError(f"calls is {self.calls}: give 0 (no tool) or more")

    def prompt(self, problem: Problem) -> str:
        """The template with the problem's question in its place."""
        return self.prompt_template.replace(QUESTION, problem.question)

    def stops(self, calls_made: int) -> tuple[str, ...]:
        """The output fence while calls are left, then nothing."""
        return (STOP,) if calls_made < self.calls else ()

    def call(self, turn_text: str) -> Call | None:
        """The code of the turn's last Python block; None if that is unclosed or blank."""
        code = last_block(turn_text.partition(STOP)[0])
        return Call(code) if code.strip() else None

    def insertion(self, turn_text: str, observation: Observation | None) -> str:
        """The rest of the output block; empty if nothing ran.

        The stop string can end inside a token that also spells a newline: then the
        slot's first line is already complete.
        """
        if observation is None:
            return ""
        return ("" if turn_text.endswith("\n") else "\n") + observation.text + "\n```\n"


def last_block(text: str) -> str:
    """The lines of the last fenced Python block of `text`; "" if it was never closed.

    A line that starts or ends with the Python fence opens a block and drops the one
    before it; a line that starts with any other fence closes it. Indented fences
    do not close, and other languages' fences do not open.
    """
    lines: list[str] = []
    inside = False
    for line in text.split("\n"):
        if line.startswith("```python") or line.endswith("```python"):
            lines, inside = [], True
        elif line.startswith("```"):
            inside = False
        elif inside:
            lines.append(line + "\n")
    return "" if inside else "".join(lines)
