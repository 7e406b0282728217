r"""ToolRL's reward: the shape of an output and its tool calls, by rule (arXiv 2504.13958).

    total = format + correctness + length
    format       its range's maximum where the output has the gold's shape, else its minimum
    correctness  minimum + (maximum - minimum) S / S_max; 0 where the gold calls nothing
    length       min(1, round(words of the thought / target, 2)), with `length` only, else 0

`shapes.py` says what a shape is, `matching.py` what S is, `calls.py` how calls are read;
docs/toolrl.md has the whole with the ranges of each variant. Defaults are the released
rules: format 0 or 1, correctness -3 to 3. Where the release differs from the paper an
option says so (`matching`, `schedule`). Pure functions of text: no environment variable,
nothing printed, any output has a score.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import Any, Literal

from torl_jax.episode import Score
from torl_jax.rewards import calls, matching, shapes
from torl_jax.rewards.calls import Gold, MalformedGold, Unreadable
from torl_jax.rewards.matching import Match, Rules

STAGE = 30  # the step at which two_stage turns from format to correctness
SCALE_STEPS = 150  # dynamic_scale, released
LENGTH_STEPS = 105  # dynamic_length, released
WORDS = 512  # of a thought, for the whole length reward
MOST = 256  # calls of a gold that `check_gold` lets pass

# A model's chat markers: before its turn, after it.
FAMILIES = {
    "qwen": ("<|im_start|>assistant", "<|im_end|>"),
    "llama": ("<|start_header_id|>assistant<|end_header_id|>", "<|eot_id|>"),
}
THOUGHT = re.compile(f"^{shapes.THINK}.*?{shapes.THINK_END}", re.MULTILINE | re.DOTALL)

Range = tuple[float, float]


@dataclass(frozen=True)
class ToolRLReward:
    """Which reward: the release's switches, how calls are paired, what schedules count.

    length          adds the length reward, 0 to 1
    dynamic_length  its target grows: 384 to 640 words over 105 steps; without `length` nothing
    equal_max       correctness in -1 .. 1
    two_stage       before step 30 correctness / 3; from then on format / 2
    dynamic_scale   from format -2 .. 2 and correctness -2 .. 2 to -1 .. 1 and the full range,
                    over 150 steps; applied after two_stage and equal_max
    refined         names and keys are compared as ordered lists, equal or 0
    intermediate    a call is right as a whole or not at all
    coarse          all calls are right, in order, or the minimum; before the two above
    matching        "greedy", as released, or "optimal", the paper's best assignment
    schedule        "released": steps as above; "paper": p = step / `steps`, at most 1, with the
                    length target 512 (1 + p), format -2 + p .. 2 - p, correctness +-(2 + p)
    steps           the run's number of steps, for "paper"

    Raises ValueError for other values.
    """

    length: bool = False
    dynamic_length: bool = False
    equal_max: bool = False
    two_stage: bool = False
    dynamic_scale: bool = False
    refined: bool = False
    intermediate: bool = False
    coarse: bool = False
    matching: Literal["greedy", "optimal"] = "greedy"
    schedule: Literal["released", "paper"] = "released"
    steps: int = 0

    def __post_init__(self) -> None:
        for field in fields(self)[:8]:
            if not isinstance(getattr(self, field.name), bool):
                raise ValueError(f"{field.name} is {getattr(self, field.name)!r}, expected a bool")
        if self.matching not in ("greedy", "optimal"):
            raise ValueError(f"matching is {self.matching!r}, expected 'greedy' or 'optimal'")
        if self.schedule not in ("released", "paper"):
            raise ValueError(f"schedule is {self.schedule!r}, expected 'released' or 'paper'")
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}, expected 0 or more")
        if self.schedule == "paper" and not self.steps:
            raise ValueError(
                "schedule is 'paper', which counts shares of a run, and steps is 0: give "
                "ToolRLReward(steps=N) the run's number of steps (a run gives it config.run.steps)"
            )

    @property
    def rules(self) -> Rules:
        """What counts as a match."""
        optimal = self.matching == "optimal"
        return Rules(self.refined, self.intermediate, self.coarse, optimal)

    def ranges(self, step: int) -> tuple[Range, Range]:
        """(minimum, maximum) of format and of correctness at `step` (from 1; 0 before training).

        The maximum falls below the minimum where the released dynamic_scale with equal_max
        runs on after step 300, as it does there.
        """
        form, right = 1.0, 1.0 if self.equal_max else 3.0
        if self.two_stage and step < STAGE:
            right /= 3
        elif self.two_stage:
            form /= 2
        if not self.dynamic_scale:
            return (0.0, form), (-right, right)
        if self.schedule == "paper":
            p = self._share(step)
            most = 2 + (right - 2) * p
            return (-2 + p, 2 + (form - 2) * p), (-most, most)
        p = step / SCALE_STEPS
        most = min(3.0, 2 + (right - 2) * p)
        return (min(-1.0, -2 + 2 * p), max(1.0, 2 - (2 - form) * p)), (-most, most)

    def target(self, step: int) -> float:
        """The words of a thought that earn the whole length reward."""
        if not self.dynamic_length:
            return WORDS
        if self.schedule == "paper":
            return WORDS * (1 + self._share(step))
        return 384 + 256 * step / LENGTH_STEPS

    def _share(self, step: int) -> float:
        return min(1.0, step / self.steps)


def score(output: str, gold: str, *, variant: ToolRLReward, step: int) -> Score:
    """The reward of an output (one turn, without chat markers) for a gold text of one step.

    `parts`: format, correctness, length; `total` is their sum. `correct`, whatever the
    variant: the gold's calls and no other, each with its parameters, in any order (where
    the gold calls nothing: no tool tag at all), and the shape. Raises MalformedGold, and
    ValueError for a negative step; for no output.
    """
    wanted = calls.read_gold(gold)
    text = output.strip()
    found = matching.NONE
    if wanted.kind[0]:
        made = _read(text)
        found = matching.NONE if made is None else matching.match(wanted, made, variant.rules)
    elif shapes.TOOLS not in text:
        found = matching.ALL
    fits = shapes.SHAPES[wanted.kind](text)
    return _scored(wanted, float(fits), found, text, variant, step)


def score_trajectory(turns: Sequence[str], gold: str, *, variant: ToolRLReward, step: int) -> Score:
    """The reward of a whole episode with live tools; for a gold text of all its steps.

    turns: what the policy wrote, turn by turn, without observations. gold: the steps'
    texts one behind another, each from `<think>` at the start of a line.
    Format: the mean over turns of the shape that a turn's own kind needs (with a tool tag a
    thought and a block, else a thought and a response), in the variant's range.
    Correctness: all calls of all turns against all gold calls, matched as in `score`; a block
    that cannot be used counts as one call that matches nothing. Length: the last thought's.

    Not in the paper, whose turns are scored one by one. One turn with a gold of one step
    has the result of `score`, except where the turn's kind is not the gold's: other tags
    than its own, a gold with both blocks or neither, a tool tag that only the thought names.
    Raises as `score`.
    """
    wanted = calls.read_gold_steps(gold)
    texts = [turn.strip() for turn in turns] or [""]
    fits, made, tagged = 0, [], False
    for text in texts:
        acts = shapes.TOOLS in text
        tagged |= acts
        fits += shapes.SHAPES[acts, not acts](text)
        if acts:
            block = _read(text)
            # With an odd gold a call that cannot be used may yet be the gold's own.
            usable = block is not None and (
                not wanted.plain or matching.grouped(wanted, block, variant.rules) is not None
            )
            made += block if block is not None and usable else [matching.VOID]
    if wanted.kind[0]:
        found = matching.match(wanted, made, variant.rules)
    else:
        found = matching.NONE if tagged else matching.ALL
    return _scored(wanted, fits / len(texts), found, texts[-1], variant, step)


def check_gold(gold: str) -> str:
    """Why a gold text (of one step or more) cannot be scored against, in one line; else "".

    Also where it has more than `MOST` calls: `score` takes these, but pairs of one name cost
    the gold's calls times the output's. A text that passes may still ask for what its author
    did not mean (a thought that names `<response>` asks for one): `score(gold, gold, ...).correct`
    is False then.
    """
    try:
        calls.read_gold(gold)
        count = len(calls.read_gold_steps(gold).calls)
    except MalformedGold as error:
        return str(error)
    return f"{count} gold calls, more than {MOST}" if count > MOST else ""


def without_thought(gold: str) -> str:
    """A gold text whose thoughts are empty: what they mention is no tag any more.

    For golds with thoughts in free text; the score of any output is otherwise the same.
    """
    return THOUGHT.sub(shapes.THINK + shapes.THINK_END, gold.strip())


def extract(decoded: str, family: str) -> str:
    """The assistant's last turn in a decoded conversation, stripped (as released).

    From the last marker of an assistant's turn, or the start, to the next marker of its end,
    or the end. `family`: "qwen" or "llama"; ValueError for others.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}, expected one of {', '.join(FAMILIES)}")
    opening, closing = FAMILIES[family]
    return decoded.rpartition(opening)[2].partition(closing)[0].strip()


def _read(text: str) -> list[Any] | None:
    """The values in the first tool block; None where there is none that can be read."""
    body = shapes.tool_body(text)
    if body is None:
        return None
    try:
        return calls.read(body)
    except Unreadable:
        return None


def _scored(
    gold: Gold, fits: float, found: Match, last: str, variant: ToolRLReward, step: int
) -> Score:
    """The parts in their ranges. `fits`: the share of turns in shape; `last`: the last turn."""
    if step < 0:
        raise ValueError(f"step is {step}, expected 0 or more")
    (worst, best), (low, high) = variant.ranges(step)
    length = 0.0
    if variant.length:
        target = variant.target(step)
        length = min(1.0, round(shapes.thought_words(last, ceil(target)) / target, 2))
    parts = {
        "format": worst + (best - worst) * fits,
        "correctness": low + (high - low) * found.share if gold.kind[0] else 0.0,
        "length": length,
    }
    return Score(sum(parts.values()), found.exact and fits == 1, parts)
