"""Turns tool-calling conversations into rows that ToolRL trains on.

    python -m torl_jax.data.convert IN.jsonl --out=OUT.parquet [--bad_rows=skip]

IN.jsonl holds a conversation a line (IN.json: a list of them), as OpenAI's API and most published
sets have them:

    {"tools": [{"type": "function", "function": {"name": ..., "parameters": {...}}}, ...],
     "messages": [{"role": "user", "content": ...}, {"role": "assistant", "tool_calls": [...]},
                  {"role": "tool", "tool_call_id": ..., "content": ...}, ...]}

Each assistant message becomes a row: the prompt is a system message with the tools, and all that
was said before; the gold is what the assistant wrote, its thought included where it has one
(`reasoning_content`, or a <think> block before the content). A system message at the beginning is
put at the end of ours. A parameter keeps its description, type and default, and legal values join
the description; `required` has no place in the format, so a description should say what it says.
Results are written in the order of the calls. Calls that break their tool's schema, and calls
without a result that the conversation goes on from, make it one that cannot be used.

OUT is .parquet (the layout of ToolRL's files) or .json (that of its raw files). It is written
whole or not at all. For conversations that cannot be used each reason is told in a line, with
where it is met; then nothing is written, or with --bad_rows=skip the rest. Exit code 2 where
nothing is written.
"""

import collections
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
from absl import flags
from etils import epath

from torl_jax import cli, record
from torl_jax.data import readers, schemas
from torl_jax.data.conversations import Step, steps
from torl_jax.data.readers import Unreadable, Unusable
from torl_jax.errors import UserError

LISTED = 20  # reasons that are told; conversations with others are counted
# Files that are read, and what the number of a conversation counts in them.
KINDS = {".jsonl": "line", ".json": "conversation"}
WRITTEN = (".parquet", ".json")
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
    """For each conversation, counted from 1 (lines: with blank ones), its steps or the reason why
    it has none.
    """
    try:
        with path.open("rb") as file:
            found = readers.READERS[path.suffix](file).rows(())
    except OSError as error:
        kinds = " or ".join(KINDS)
        raise UserError(f"{path} cannot be read ({error.strerror}): give a {kinds} file") from error
    except Unreadable as error:
        raise UserError(
            f"{path} is no JSON list of conversations ({error}): mend it, or give a .jsonl file "
            "with one a line"
        ) from error
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


def reasons(bad: Mapping[int, str], unit: str) -> list[str]:
    """Why conversations cannot be used, by their number: a line a reason, in order."""
    places: dict[str, list[int]] = collections.defaultdict(list)
    for number, reason in bad.items():
        places[reason].append(number)
    told = list(places.items())[:LISTED]
    lines = [
        f"{unit} {where[0]}{f' and {len(where) - 1} more' if where[1:] else ''}: {reason}"
        for reason, where in told
    ]
    if left := len(bad) - sum(len(where) for _, where in told):
        lines.append(f"and {left} more, for other reasons")
    return lines


def save(path: Path, made: Sequence[Step], source: str, split: str) -> None:
    """Writes the rows as the suffix of `path` says; whole or not at all."""
    if path.suffix == ".json":
        text = json.dumps([raw(step) for step in made], ensure_ascii=False, indent=1)
        data = text.encode()
    else:
        rows = [row(step, number, source, split) for number, step in enumerate(made)]
        table, buffer = pyarrow.Table.from_pylist(rows, schema=LAYOUT), io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        data = buffer.getvalue()
    try:
        record.replace(epath.Path(path), data)
    except OSError as error:
        raise UserError(
            f"cannot write to --out={path} ({error.strerror}): choose another place, or make room"
        ) from error


def convert(
    path: Path,
    out: Path,
    bad_rows: Literal["error", "skip"] = "error",
    source: str = "",
    split: str = "train",
    tell: Callable[[str], object] = print,
) -> str:
    """Converts `path` to `out`; the line that says what it did.

    The rows are of the data source `source` ("": rlla_ and the file's name, since ToolRL's own
    code scores the sources that have rlla in their name). `tell` gets the reasons why
    conversations cannot be used, a line each. Raises UserError for files of other kinds, and where
    no row, or with bad_rows "error" not each row, can be made.
    """
    for file, kinds in ((path, KINDS), (out, WRITTEN)):
        if file.suffix not in kinds:
            raise UserError(f"{file} is no {' or '.join(kinds)} file: give one")
    if path.resolve() == out.resolve():
        raise UserError(f"{out} is the file that is read: give another to write")
    found = dict(read(path))
    if not found:
        raise UserError(f"{path} is empty: give a file with conversations")
    made = [step for each in found.values() if not isinstance(each, str) for step in each]
    bad = {number: each for number, each in found.items() if isinstance(each, str)}
    for line in reasons(bad, KINDS[path.suffix]):
        tell(line)
    summary = f"{path}: {len(bad)} of {len(found)} conversations cannot be used"
    if bad and bad_rows == "error":
        raise UserError(f"{summary}: mend them, or pass over them (--bad_rows=skip)")
    if not made:
        raise UserError(f"{summary}, so there is no row to write: mend them")
    if bad:
        tell(f"{summary}; skipped")
    save(out, made, source or f"rlla_{path.stem}", split)
    kinds = collections.Counter(step.kind for step in made)
    counts = ", ".join(f"{count} with {kind}" for kind, count in sorted(kinds.items()))
    return f"{len(made)} rows of {len(found) - len(bad)} conversations in {out} ({counts})"


def main(argv: list[str]) -> None:
    """The entry point."""
    options = flags.FLAGS
    if len(argv) != 1 or not options.out:
        raise UserError("give one file and --out=FILE, see --help")
    path, out = Path(argv[0]), Path(options.out)

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    print(convert(path, out, options.bad_rows, options.source, options.split, tell))


if __name__ == "__main__":
    flags.DEFINE_string("out", "", "File to write: .parquet or .json.")
    flags.DEFINE_enum(
        "bad_rows", "error", ["error", "skip"], "What a conversation that cannot be used is."
    )
    flags.DEFINE_string("source", "", "The rows' data_source (default: rlla_ and IN's name).")
    flags.DEFINE_string("split", "train", "The rows' split.")
    cli.run(main, __doc__ or "")
