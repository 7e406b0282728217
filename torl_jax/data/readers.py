"""Files as numbered rows: parquet, jsonl, json arrays and csv.

A reader gives a file's column names (dotted into nested ones) and its rows, each a dict or
the reason why it is none, with its number: counted from 0, blank lines and all, the header of
a csv file not counted. One bad row spoils no other.

csv is read by the standard library in strict mode: it keeps row numbers exact, where parallel
readers lose them, and refuses a quote that is never closed, instead of swallowing what follows.
"""

import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow
import pyarrow.parquet

DEPTH = 4  # levels of nested columns that are named
DIGITS = 4_000  # of a JSON number that become an int; Python turns longer ones back only on request
ALIEN = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as "surrogateescape" keeps them


class Unusable(Exception):
    """Why the row at hand makes no problem."""


class Unreadable(Exception):
    """Why a file is not of the kind that its name says."""


Rows = Iterator[tuple[int, dict[str, Any] | Unusable]]


class Table(NamedTuple):
    """A file's columns, and its rows as soon as it is known which columns are wanted."""

    columns: list[str]
    rows: Callable[[Sequence[str]], Rows]


def parquet(file: BinaryIO) -> Table:
    """Reads wanted columns only, so that a remote file is not fetched whole."""
    with _damage(""):
        source = pyarrow.parquet.ParquetFile(file)
        columns = list(_fields(source.schema_arrow))

    def rows(wanted: Sequence[str]) -> Rows:
        batches, number = source.iter_batches(batch_size=8192, columns=list(wanted)), 0
        while True:
            with _damage(f"from row {number} on: "):
                batch = next(batches, None)
            if batch is None:
                break
            for row in _values(batch):
                yield number, row
                number += 1
        # A damaged page may end early without an error.
        if number != source.metadata.num_rows:
            raise Unreadable(f"it has {number} rows where it says {source.metadata.num_rows}")

    return Table(columns, rows)


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, ValueError) as error:
        raise Unreadable(where + _line(error)) from error
    except OSError as error:
        # What the operating system or the network said is not about the file.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise Unreadable(where + _line(error)) from error


def _values(batch: pyarrow.RecordBatch) -> list[Any]:
    """The rows of a batch; a value that Python cannot hold spoils only its own row."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        reason = _line(error)
    if batch.num_rows == 1:
        return [Unusable(reason)]
    half = batch.num_rows // 2
    return _values(batch.slice(0, half)) + _values(batch.slice(half))


def _fields(parent: Iterable[Any], prefix: str = "", depth: int = DEPTH) -> Iterator[str]:
    for field in parent:
        yield prefix + field.name
        if pyarrow.types.is_struct(field.type) and depth > 1:
            yield from _fields(field.type, f"{prefix}{field.name}.", depth - 1)


def jsonl(file: BinaryIO) -> Table:
    """An object a line."""
    lines = file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return _table((n, _parsed(line)) for n, line in enumerate(lines) if line.strip())


def json_array(file: BinaryIO) -> Table:
    """One array of rows, or else an object a line, as `jsonl`."""
    data = file.read()
    if not data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return jsonl(io.BytesIO(data))
    try:
        values = _decode(data.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(_line(error)) from error
    return _table(enumerate(map(_record, values)))


def _parsed(line: bytes) -> dict[str, Any] | Unusable:
    try:
        return _record(_decode(line.decode("utf-8")))
    except UnicodeDecodeError:
        return Unusable("not UTF-8")
    except (ValueError, RecursionError) as error:
        return Unusable(f"not JSON ({_line(error)})")


def _decode(text: str) -> Any:
    return json.loads(
        text, parse_int=lambda digits: int(digits) if len(digits) < DIGITS else digits
    )


def _record(value: Any) -> dict[str, Any] | Unusable:
    """A row; a list of objects, as conversations are published, has columns "0", "1", ..."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {str(n): item for n, item in enumerate(value)}
    return Unusable(f"a {type(value).__name__}, not an object")


def _table(rows: Iterable[tuple[int, dict[str, Any] | Unusable]]) -> Table:
    found = list(rows)
    columns: dict[str, None] = {}  # an ordered set
    for _, row in found:
        if isinstance(row, dict):
            columns |= dict.fromkeys(_keys(row))
    return Table(list(columns), lambda wanted: iter(found))


def _keys(row: dict[str, Any], prefix: str = "", depth: int = DEPTH) -> Iterator[str]:
    for name, value in row.items():
        yield prefix + name
        if isinstance(value, dict) and depth > 1:
            yield from _keys(value, f"{prefix}{name}.", depth - 1)


def comma_separated(file: BinaryIO) -> Table:
    """A header, then a row a record; a record may span lines inside quotes."""
    text = file.read().decode("utf-8-sig", "surrogateescape")
    # A field is as long as the file at most; the module's limit is one for the whole process.
    before = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        records = list(itertools.dropwhile(lambda record: record == [], _records(text)))
    finally:
        csv.field_size_limit(before)
    if not records:
        raise Unreadable("it is empty")
    header = records.pop(0)
    if isinstance(header, Unusable):
        raise Unreadable(str(header))
    if ALIEN.search("".join(header)):
        raise Unreadable("its header is not UTF-8")
    if twice := [name for n, name in enumerate(header) if name in header[:n]]:
        raise Unreadable(f"its header names {twice[0]!r} twice")
    rows = [(n, _fitted(header, record)) for n, record in enumerate(records) if record != []]
    return Table(header, lambda wanted: iter(rows))


def _records(text: str) -> list[list[str] | Unusable]:
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, strict=True)
    found: list[list[str] | Unusable] = []
    for _ in itertools.count():
        begin = reader.line_num + 1
        try:
            found.append(next(reader))
        except StopIteration:
            break
        except csv.Error as error:
            found.append(Unusable(f"not csv ({error}, from line {begin} of the file)"))
    return found


def _fitted(header: list[str], record: list[str] | Unusable) -> dict[str, Any] | Unusable:
    if isinstance(record, Unusable):
        return record
    if len(record) != len(header):
        return Unusable(f"{len(record)} fields where the header has {len(header)}")
    return dict(zip(header, record, strict=True))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


READERS = {
    ".parquet": parquet,
    ".jsonl": jsonl,
    ".json": json_array,
    ".csv": comma_separated,
}
