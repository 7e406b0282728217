"""Turns tool-calling conversations into rows that ToolRL trains on.

    python -m torl_jax.data.convert IN.jsonl --out=OUT.parquet [--bad_rows=skip]

IN.jsonl holds a conversation a line, as OpenAI's API and most published sets have them:

    {"tools": [{"type": "function", "function": {"name": ..., "parameters": {...}}}, ...],
     "messages": [{"role": "user", "content": ...}, {"role": "assistant", "tool_calls": [...]},
                  {"role": "tool", "tool_call_id": ..., "content": ...}, ...]}

Each assistant message becomes a row: the prompt is a system message with the tools, and all that
was said before; the gold is what the assistant wrote, its thought included where it has one
(`reasoning_content`, or a <think> block before the content). A system message at the beginning is
put at the end of ours. A parameter keeps its description, type and default; `required` and `enum`
have no place in the format, so a description should say what they say.

OUT is .parquet (the layout of ToolRL's files) or .json (that of its raw files). It is written
whole or not at all. A conversation that cannot be used is named with its line and the reason; then
nothing is written, or with --bad_rows=skip the rest. Exit code 2 where nothing is written.
"""

import collections
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
from absl import flags
from etils import epath

from torl_jax import cli, record
from torl_jax.data import readers, schemas
from torl_jax.data.readers import Unusable
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.protocols.dialogue import Tool
from torl_jax.rewards import toolrl

LISTED = 20  # bad conversations named in a message; the rest are counted
LAYOUT = pyarrow.schema(
    {
        "data_source": pyarrow.string(),
        "prompt": pyarrow.list_(
            pyarrow.struct({"content": pyarrow.string(), "role": pyarrow.string()})
        ),
        "ability": pyarrow.string(),
        "reward_model": pyarrow.struct(
            {"ground_truth": pyarrow.string(), "style": pyarrow.string()}
        ),
        "extra_info": pyarrow.struct(
            {
                "index": pyarrow.int64(),
                "input": pyarrow.string(),
                "instruction": pyarrow.string(),
                "output": pyarrow.string(),
                "split": pyarrow.string(),
            }
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One assistant message as a row: the two messages of its prompt, and its gold text."""

    system: str
    history: str
    target: str

    @property
    def kind(self) -> str:
        """What the gold asks for, in words."""
        kinds = {"calls": "<tool_call>", "a response": "<response>"}
        return " and ".join(name for name, tag in kinds.items() if tag in self.target)


def steps(conversation: Mapping[str, Any]) -> list[Step]:
    """The steps of a conversation, in order. Raises ValueError where it cannot be used.

    A message of weight 0 is no step, only history.
    """
    tools = conversation.get("tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError("no list of tools under the key tools")
    messages = conversation.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("no list of messages under the key messages")
    listed = [Tool.from_openai(tool) for tool in tools]
    first, more = messages[0], ""
    if isinstance(first, dict) and first.get("role") in ("system", "developer"):
        messages, more = messages[1:], dialogue.content_of(first)
    system = dialogue.system(listed, more)
    begin = len(conversation["messages"]) - len(messages)
    known = {tool.name for tool in listed}
    found = []
    for place, message in enumerate(messages):
        if dialogue.role_of(message, begin + place) == "assistant" and message.get("weight") != 0:
            try:
                said = dialogue.history(messages[:place], begin)
                found.append(Step(system, said, _target(message, known)))
            except ValueError as error:
                raise ValueError(f"message {begin + place}: {error}") from error
    if not found:
        raise ValueError("no message of the assistant")
    return found


def _target(message: Mapping[str, Any], known: set[str]) -> str:
    """The gold text of an assistant message that calls `known` tools only."""
    target = dialogue.target(message)
    for _, name, _ in dialogue.calls_of(message):
        if name not in known:
            raise ValueError(f"a call of {name}, which is none of the tools")
    if reason := toolrl.check_gold(target):
        raise ValueError(reason)
    return target


def row(step: Step, number: int, source: str, split: str) -> dict[str, Any]:
    """A row of the parquet layout."""
    return {
        "data_source": source,
        "prompt": [
            {"content": step.system, "role": "system"},
            {"content": step.history, "role": "user"},
        ],
        "ability": "tools",
        "reward_model": {"ground_truth": step.target, "style": "rule"},
        "extra_info": {
            "index": number,
            "input": step.history,
            "instruction": step.system,
            "output": step.target,
            "split": split,
        },
    }


def raw(step: Step) -> dict[str, str]:
    """A row of the json layout."""
    return {"instruction": step.system, "input": step.history, "output": step.target}


def read(path: Path) -> Iterator[tuple[int, list[Step] | str]]:
    """For each line, counted from 1, its steps or the reason why it has none."""
    try:
        with path.open("rb") as file:
            found = readers.jsonl(file).rows(())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a .jsonl file") from error
    for number, conversation in found:
        try:
            if isinstance(conversation, Unusable):
                raise conversation
            made = steps(conversation)
            for step in made:  # what the reader of the rows refuses: a NUL, half a character
                schemas.problem(row(step, 0, "", ""), schemas.SCHEMAS["verl"], "")
            yield number + 1, made
        except (ValueError, RecursionError, Unusable) as error:
            yield number + 1, " ".join(str(error).split())[:300]


def save(path: Path, made: Sequence[Step], source: str, split: str) -> None:
    """Writes the rows as the suffix of `path` says; whole or not at all."""
    if path.suffix == ".json":
        text = json.dumps([raw(step) for step in made], ensure_ascii=False, indent=1)
        record.replace(epath.Path(path), text.encode())
        return
    rows = [row(step, number, source, split) for number, step in enumerate(made)]
    table, buffer = pyarrow.Table.from_pylist(rows, schema=LAYOUT), io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    record.replace(epath.Path(path), buffer.getvalue())


def convert(
    path: Path,
    out: Path,
    bad_rows: Literal["error", "skip"] = "error",
    source: str = "",
    split: str = "train",
) -> list[str]:
    """Converts `path` to `out` and says what it did, in lines for people.

    The rows are of the data source `source` ("": rlla_ and the file's name, since ToolRL's own
    code scores the sources that have rlla in their name). Raises UserError for files of other
    kinds, and where no row, or with bad_rows "error" not each row, can be made.
    """
    for file, kinds in ((path, (".jsonl",)), (out, (".parquet", ".json"))):
        if file.suffix not in kinds:
            raise UserError(f"{file} is no {' or '.join(kinds)} file: give one")
    made: list[Step] = []
    bad: list[str] = []
    conversations = 0
    for line, found in read(path):
        conversations += 1
        if isinstance(found, str):
            bad.append(f"line {line}: {found}")
        else:
            made += found
    more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    summary = f"{path}: {len(bad)} of {conversations} conversations cannot be used"
    named = f"{summary} ({'; '.join(bad[:LISTED])}{more})" if bad else summary
    if bad and bad_rows == "error":
        raise UserError(f"{named}: mend them, or pass over them (--bad_rows=skip)")
    if not made:
        raise UserError(f"{named}, so there is no row to write: give a file with conversations")
    save(out, made, source or f"rlla_{path.stem}", split)
    kinds = collections.Counter(step.kind for step in made)
    counts = ", ".join(f"{count} with {kind}" for kind, count in sorted(kinds.items()))
    lines = [f"{len(made)} rows of {conversations - len(bad)} conversations in {out} ({counts})"]
    return [*([f"{named}; skipped"] if bad else []), *lines]


def main(argv: list[str]) -> None:
    """The entry point."""
    options = flags.FLAGS
    if len(argv) != 1 or not options.out:
        raise UserError("give one file and --out=FILE, see --help")
    lines = convert(
        Path(argv[0]), Path(options.out), options.bad_rows, options.source, options.split
    )
    print("\n".join(lines))


if __name__ == "__main__":
    flags.DEFINE_string("out", "", "File to write: .parquet or .json.")
    flags.DEFINE_enum(
        "bad_rows", "error", ["error", "skip"], "What a conversation that cannot be used is."
    )
    flags.DEFINE_string("source", "", "The rows' data_source (default: rlla_ and IN's name).")
    flags.DEFINE_string("split", "train", "The rows' split.")
    cli.run(main, __doc__ or "")
