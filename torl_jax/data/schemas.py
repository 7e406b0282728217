"""Schemas: where a row keeps its question, its answer and its name; from a row to a Problem.

Columns are dotted into nested ones (`reward_model.ground_truth`). A question may be plain text
or a list of {role, content} messages, of which the user's one is the question and the system's one
goes along (`Problem.system`: ToRL's prompt leaves it out, ToolRL's begins with it). Instructions
that a published set writes around each question are taken off (`unwrapped`). Where the answer is
a whole turn of a dialogue, which begins with a thought, it and the question stay as they are.

Published layouts, in the order in which they are looked for (SCHEMAS):

  verl      prompt (messages), reward_model.ground_truth, extra_info: verl's training files (arXiv
            2409.19256), and in its layout those of ToRL (GAIR-NLP/ToRL, data/torl_data; `stype` for
            `style`), SimpleTIR and SimpleRL-Zoo, DAPO-Math-17k (BytedTsinghua-SIA on the hub)
  question  question, answer: the evaluation sets of Qwen2.5-Math (QwenLM/Qwen2.5-Math,
            evaluation/data/*/test.jsonl), GSM8K
  problem   problem, answer: DeepScaleR (agentica-org/DeepScaleR-Preview-Dataset on the hub,
            deepscaler.json), the rest of Qwen2.5-Math's
  final     question, final_answer: DeepMath-103K (zwhe99 on the hub), OlympiadBench (a list)
  orz       [{from, value}, {from, ground_truth: {value, pass_at_n}}]: Open-Reasoner-Zero (its
            repository, data/orz_math_57k_collected.json, and the sets of 72k and 13k)
  rlla      instruction, input, output: ToolRL's raw files (qiancheng0/ToolRL, rlla_rl.json,
            rlla_sft.json); its parquet files have verl's layout
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torl_jax.config import unknown_key
from torl_jax.data.readers import ALIEN, Unusable
from torl_jax.episode import Problem
from torl_jax.errors import UserError

COLUMNS_LISTED = 20  # columns named in a message; the rest are counted
# Characters of a text. Published ones stay far below; a dialogue of as many fills 100,000 tokens.
LONGEST = 400_000
TURN = "<think>"  # how an answer begins that is a whole turn of a dialogue
COLUMNS = ("question", "answer", "id", "source", "system")  # what a column mapping may declare


@dataclasses.dataclass(frozen=True)
class Schema:
    """Where a row keeps what a Problem needs; optional columns may be absent.

    `ids` are tried in order until one is present; the row's number is the last
    resort. `source` and `split` name the set that the row belongs to. `system`: the system
    message, where it has a column of its own. `required`: columns without which a file is
    refused, besides the question's, the answer's and the system message's.
    """

    question: str
    answer: str
    ids: tuple[str, ...] = ("id", "unique_id")
    source: str = "data_source"
    split: str = ""
    system: str = ""
    required: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns without which a file is refused."""
        own = (self.system,) if self.system else ()
        return (self.question, self.answer, *own, *self.required)

    @property
    def wanted(self) -> tuple[str, ...]:
        """All columns that are looked at."""
        return tuple(c for c in (*self.needed, *self.ids, self.source, self.split) if c)


def candidates(schema: str | Schema, columns: Mapping[str, str]) -> list[Schema]:
    """The schemas to try, with the columns that were declared."""
    if isinstance(schema, str) and schema != "auto" and schema not in SCHEMAS:
        raise UserError(f"schema {schema!r} is not known: give auto or {', '.join(SCHEMAS)}")
    for key, column in columns.items():
        if key not in COLUMNS:
            raise unknown_key("config.data.columns", key, list(COLUMNS))
        if not isinstance(column, str) or not column:
            raise UserError(f"config.data.columns.{key} is {column!r}; expected a column's name")
    if {"question", "answer"} <= columns.keys():
        known = [Schema("", "")]
    elif schema == "auto":
        known = list(SCHEMAS.values())
    else:
        known = [SCHEMAS[schema] if isinstance(schema, str) else schema]
    changes: dict[str, Any] = {k: columns[k] for k in ("question", "answer") if k in columns}
    changes["required"] = tuple(columns[k] for k in ("id", "source") if k in columns)
    if "id" in columns:
        changes |= {"ids": (columns["id"],), "split": ""}
    changes |= {k: columns[k] for k in ("source", "system") if k in columns}
    return [dataclasses.replace(each, **changes) for each in known] if columns else known


def choose(name: str, columns: Sequence[str], among: Sequence[Schema]) -> Schema:
    """The first schema whose needed columns are all there."""
    for candidate in among:
        if set(candidate.needed) <= set(columns):
            return candidate
    shown = [c if c.isprintable() else ascii(c) for c in columns[:COLUMNS_LISTED]]
    more = f" and {len(columns) - COLUMNS_LISTED} more" if len(columns) > COLUMNS_LISTED else ""
    if {"messages", "tools"} <= set(columns) and not any("messages" in c.needed for c in among):
        raise UserError(
            f"{name} has conversations (messages and tools): make rows of them with python -m "
            "torl_jax.data.convert, and give what it writes"
        )
    needed = " or ".join(dict.fromkeys(" + ".join(c.needed) for c in among))
    raise UserError(
        f"{name} has the columns {', '.join(shown) or '(none)'}{more}, but {needed} is needed: "
        "rename its columns, or declare them for training: "
        "--config.data.columns=\"{'question': 'NAME', 'answer': 'NAME'}\""
    )


def problem(
    row: dict[str, Any] | Unusable, schema: Schema, number: str, source: str = ""
) -> Problem:
    """The row's problem; `number` and `source` where it has no id or source. Raises Unusable."""
    if isinstance(row, Unusable):
        raise row
    gold = _get(row, schema.answer)
    turn = isinstance(gold, str) and gold.startswith(TURN)
    system, question = _asked(_get(row, schema.question), bare=not turn)
    answer = _text(gold, "answer") if turn else _answer(gold)
    if schema.system:
        system = _text(_get(row, schema.system), "system message")
    source = _name(_get(row, schema.source), "source") or source
    names = (_name(_get(row, name), "id") for name in schema.ids)
    name = next(filter(None, names), number)
    split = _name(_get(row, schema.split), "split")
    id = "/".join([source, *([split] if split else []), name])
    return Problem(id, question, answer, source, system)


def _get(row: dict[str, Any], path: str) -> Any:
    """The value of a column; None where any step of its path is absent."""
    if path in row:  # a csv column may be named "reward_model.ground_truth"
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _asked(value: Any, bare: bool) -> tuple[str, str]:
    """(the system message or "", the question); `bare`: without instructions around it."""
    system, question = "", value
    if isinstance(value, list):
        if not all(isinstance(m, dict) and "role" in m and "content" in m for m in value):
            raise Unusable("question is a list of something else than {role, content}")
        asked = [m["content"] for m in value if m["role"] == "user"]
        if len(asked) != 1:
            raise Unusable(f"{len(asked)} user messages where 1 is needed")
        (question,) = asked
        told = [m["content"] for m in value if m["role"] == "system"]
        if len(told) > 1:
            raise Unusable(f"{len(told)} system messages where 1 at most is needed")
        if told and told[0]:
            system = _text(told[0], "system message")
    question = _text(question, "question")
    return system, _text(unwrapped(question), "question") if bare else question


def unwrapped(question: str) -> str:
    """The question without the instructions that published sets write around it.

    They ask for other ways to answer than \\boxed{}, or say again what the prompt says.
    """
    bare = question.rstrip()
    for instruction in APPENDED:
        if bare.endswith(instruction):
            return bare.removesuffix(instruction).rstrip()
    begin, end = AROUND
    if bare.startswith(begin) and (at := bare.rfind(end)) > 0:
        return bare[:at].partition("\n")[2].strip()
    return question


def _answer(value: Any) -> str:
    """The answer as text: OlympiadBench's list of one is that one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = _text(value, "answer")
    if SOLVED in text:  # GSM8K's answers are solutions that end in "#### 18"
        text = _text(text.rpartition(SOLVED)[2].strip(), "answer")
    return text


def _name(value: Any, what: str) -> str:
    """An id, a source or a split as text; empty where there is none."""
    absent = not isinstance(value, str | int | float) or value == "" or value != value
    return "" if absent else _text(value, what)


def _text(value: Any, what: str) -> str:
    """`value` as text; whole numbers lose their ".0"."""
    if value is None or (isinstance(value, str) and value == ""):
        raise Unusable(f"no {what}")
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Unusable(f"{what} is a {type(value).__name__}, not text")
    if not value.strip():
        raise Unusable(f"{what} is blank")
    if len(value) > LONGEST:
        raise Unusable(f"{what} is {len(value)} characters long, above {LONGEST}")
    if "\0" in value:
        raise Unusable(f"{what} holds a NUL")
    if value.isascii():
        return value
    if ALIEN.search(value):
        raise Unusable(f"{what} is not UTF-8")
    if SURROGATE.search(value):  # JSON can spell half a character
        raise Unusable(f"{what} holds half a character (a lone surrogate)")
    return value


SURROGATE = re.compile("[\ud800-\udfff]")
SOLVED = "\n#### "
# verl's examples/data_preprocess for MATH (also DeepScaleR's) and for GSM8K end questions so.
APPENDED = (
    "Let's think step by step and output the final answer within \\boxed{}.",
    'Let\'s think step by step and output the final answer after "####".',
)
# DAPO-Math-17k's first line, which goes on to the form of the answer, and last line.
AROUND = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form",
    '\nRemember to put your answer on its own line after "Answer:"',
)

SCHEMAS = {
    "verl": Schema(
        question="prompt",
        answer="reward_model.ground_truth",
        ids=("extra_info.id", "extra_info.index"),
        split="extra_info.split",
    ),
    "question": Schema(question="question", answer="answer"),
    "problem": Schema(question="problem", answer="answer"),
    "final": Schema(question="question", answer="final_answer"),
    "orz": Schema(question="0.value", answer="1.ground_truth.value"),
    "rlla": Schema(question="input", answer="output", system="instruction"),
}
