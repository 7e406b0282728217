"""Problems from files: parquet and jsonl, read by declared column mappings.

A `Schema` says where a row keeps its question, its answer and its name. Paths
are dotted into nested columns (`reward_model.ground_truth`). A question may be
plain text or a list of {role, content} messages, of which the user's one counts
(a row's own system message is dropped: the prompt is the protocol's business).

A row that cannot be used is never kept silently: it is listed with its number
(counted from 0) and its reason, then either fatal or skipped, by choice.
"""

import collections
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from torl_jax.episode import Problem
from torl_jax.errors import UserError

LISTED = 20  # bad rows named in a message; the rest are counted


@dataclasses.dataclass(frozen=True)
class Schema:
    """Where a row keeps what a Problem needs; optional columns may be absent.

    `ids` are tried in order until one is present; the row's number is the last
    resort. `source` and `split` name the set that the row belongs to.
    """

    question: str
    answer: str
    ids: tuple[str, ...] = ("id", "unique_id")
    source: str = "data_source"
    split: str = ""

    @property
    def needed(self) -> tuple[str, str]:
        """The columns without which a file is refused."""
        return (self.question, self.answer)

    @property
    def wanted(self) -> tuple[str, ...]:
        """All columns that are looked at."""
        return tuple(c for c in (*self.needed, *self.ids, self.source, self.split) if c)


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that makes no problem: its number from 0, and why."""

    row: int
    reason: str


class _BadRow(Exception):
    """Why the row at hand makes no problem."""


# What a reader gives besides the columns: numbered rows, read when asked for.
Rows = Callable[[Schema], Iterator[tuple[int, Any]]]


def read(
    path: str | Path,
    schema: str | Schema = "auto",
    bad_rows: Literal["error", "skip"] = "error",
) -> list[Problem]:
    """The problems of a file, in its order.

    `schema` is a name in SCHEMAS, a Schema, or "auto": the first of SCHEMAS whose
    needed columns are there. Raises UserError for a file that is missing, of an
    unknown kind, unreadable, without the needed columns or without a usable row,
    and, unless `bad_rows` is "skip", for any unusable row.
    """
    if bad_rows not in ("error", "skip"):
        raise UserError(f"bad_rows is {bad_rows!r}: give 'error' or 'skip'")
    problems, bad = scan(path, schema)
    if not bad and problems:
        return problems
    summary = f"{path}: {len(bad)} of {len(bad) + len(problems)} rows are unusable"
    if bad:
        more = f", and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        summary += f" ({'; '.join(f'row {b.row}: {b.reason}' for b in bad[:LISTED])}{more})"
    if bad and bad_rows == "error":
        raise UserError(f"{summary}: mend them, or pass over them (--config.data.bad_rows=skip)")
    if not problems:
        raise UserError(f"{summary}, so no problem is left: give a file with problems")
    logging.warning("%s; skipped", summary)
    return problems


def scan(path: str | Path, schema: str | Schema = "auto") -> tuple[list[Problem], list[BadRow]]:
    """The problems of a file and, apart, the rows that make none. Raises as `read`."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"data file {path} does not exist: give a {' or '.join(READERS)} file")
    if path.suffix not in READERS:
        raise UserError(f"data file {path} is of no known kind: give {' or '.join(READERS)}")
    columns, rows = READERS[path.suffix](path)
    chosen = _choose(path, columns, schema)
    problems, bad = [], []
    seen: collections.Counter[str] = collections.Counter()
    for number, row in rows(chosen):
        try:
            problem = _problem(row, number, chosen, path.stem)
        except _BadRow as reason:
            bad.append(BadRow(number, str(reason)))
            continue
        seen[problem.id] += 1
        if seen[problem.id] > 1:  # sets repeat problems to weigh them: tell them apart
            problem = dataclasses.replace(problem, id=f"{problem.id}#{seen[problem.id]}")
        problems.append(problem)
    return problems, bad


def _choose(path: Path, columns: Sequence[str], schema: str | Schema) -> Schema:
    """The schema to read `path` by, whose needed columns are all there."""
    if isinstance(schema, str) and schema != "auto" and schema not in SCHEMAS:
        raise UserError(f"schema {schema!r} is not known: give auto or {', '.join(SCHEMAS)}")
    if schema == "auto":
        candidates = list(SCHEMAS.values())
    else:
        candidates = [SCHEMAS[schema] if isinstance(schema, str) else schema]
    for candidate in candidates:
        if set(candidate.needed) <= set(columns):
            return candidate
    needed = " or ".join(" + ".join(c.needed) for c in candidates)
    raise UserError(
        f"{path} has the columns {', '.join(columns) or '(none)'}, but {needed} "
        "is needed: rename its columns or declare a schema"
    )


def _problem(row: Any, number: int, schema: Schema, stem: str) -> Problem:
    if isinstance(row, _BadRow):
        raise row
    question = _question(_get(row, schema.question))
    answer = _text(_get(row, schema.answer), "answer")
    source = str(_get(row, schema.source) or stem)
    names = [n for n in (_get(row, name) for name in schema.ids) if n is not None and n != ""]
    name = str(names[0]) if names else str(number)
    split = _get(row, schema.split)
    return Problem(
        "/".join([source, *([str(split)] if split else []), name]), question, answer, source
    )


def _get(row: dict[str, Any], path: str) -> Any:
    """The value at a dotted path; None where any step is absent."""
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _question(value: Any) -> str:
    if not isinstance(value, list):
        return _text(value, "question")
    if not all(isinstance(m, dict) and "role" in m and "content" in m for m in value):
        raise _BadRow("question is a list of something else than {role, content}")
    asked = [m["content"] for m in value if m["role"] == "user"]
    if len(asked) != 1:
        raise _BadRow(f"{len(asked)} user messages where 1 is needed")
    return _text(asked[0], "question")


def _text(value: Any, what: str) -> str:
    """`value` as text; whole numbers lose their ".0"."""
    if value is None or value == "":
        raise _BadRow(f"no {what}")
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _BadRow(f"{what} is a {type(value).__name__}, not text")
    if not value.strip():
        raise _BadRow(f"{what} is blank")
    if any("\ud800" <= c <= "\udfff" for c in value):  # JSON can spell half a character
        raise _BadRow(f"{what} holds half a character (a lone surrogate)")
    return value


def _parquet(path: Path) -> tuple[list[str], Rows]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not readable as parquet ({error}): fetch it again") from error
    columns = _fields(file.schema_arrow)

    def rows(schema: Schema) -> Iterator[tuple[int, Any]]:
        wanted = {c.partition(".")[0] for c in schema.wanted if c in columns}
        number = 0
        for batch in file.iter_batches(columns=sorted(wanted)):
            for row in _rows(batch):
                yield number, row
                number += 1

    return columns, rows


def _rows(batch: pyarrow.RecordBatch) -> list[Any]:
    """The rows of a batch; one bad string spoils only its own row."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [_BadRow("not UTF-8")]
        return [row for n in range(batch.num_rows) for row in _rows(batch.slice(n, 1))]


def _fields(parent: Any, prefix: str = "") -> list[str]:
    """Dotted names of a parquet schema's columns, nested structs' too."""
    names = []
    for field in parent:
        names.append(prefix + field.name)
        if pyarrow.types.is_struct(field.type):
            names += _fields(field.type, prefix + field.name + ".")
    return names


def _jsonl(path: Path) -> tuple[list[str], Rows]:
    parsed = [
        (n, _line(line)) for n, line in enumerate(path.read_bytes().split(b"\n")) if line.strip()
    ]
    columns: dict[str, None] = {}  # an ordered set
    for _, row in parsed:
        if isinstance(row, dict):
            columns |= dict.fromkeys(_keys(row))

    def rows(_: Schema) -> Iterator[tuple[int, Any]]:
        return iter(parsed)

    return list(columns), rows


def _line(line: bytes) -> dict[str, Any] | _BadRow:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return _BadRow("not UTF-8")
    except (ValueError, RecursionError) as error:
        return _BadRow(f"not JSON ({error})")
    return row if isinstance(row, dict) else _BadRow(f"a {type(row).__name__}, not an object")


def _keys(row: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in row.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _keys(value, prefix + name + ".")


SCHEMAS = {
    "verl": Schema(
        question="prompt",
        answer="reward_model.ground_truth",
        ids=("extra_info.id", "extra_info.index"),
        split="extra_info.split",
    ),
    "question": Schema(question="question", answer="answer"),
    "problem": Schema(question="problem", answer="answer"),
}
READERS = {".parquet": _parquet, ".jsonl": _jsonl}
