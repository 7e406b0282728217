"""Problems from files: parquet, jsonl, json or csv, local or on the hub.

A path is one file or several, separated by commas, each a local file or a data set's name on the
hub (`hubdata`). A local file that exists is always itself. What its columns mean is declared, or
found among published layouts (`schemas`).

A row that cannot be used is never kept silently: it is listed with its number (counted from 0)
and its reason, then either fatal or skipped, by choice.
"""

import collections
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from torl_jax.data import hubdata
from torl_jax.data.readers import READERS, Unreadable, Unusable
from torl_jax.data.schemas import Schema, candidates, choose, problem
from torl_jax.episode import Problem
from torl_jax.errors import UserError

LISTED = 20  # bad rows named in a message; the rest are counted


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that makes no problem: its number from 0, why, and of which of several files."""

    row: int
    reason: str
    file: str = ""

    def __str__(self) -> str:
        return f"{self.file} row {self.row}: {self.reason}".lstrip()


@dataclasses.dataclass(frozen=True)
class File:
    """A file to read. Rows without a source are of `source`, without an id of `prefix` + number."""

    name: str
    source: str
    prefix: str
    open: Callable[[], AbstractContextManager[BinaryIO]]

    @property
    def suffix(self) -> str:
        """By which its reader is chosen."""
        return PurePosixPath(self.name).suffix


def read(
    path: str | Path,
    schema: str | Schema = "auto",
    bad_rows: Literal["error", "skip"] = "error",
    columns: Mapping[str, str] | None = None,
) -> list[Problem]:
    """The problems of `path`, in its order.

    `schema` is a name in SCHEMAS, a Schema, or "auto": for each file the first of SCHEMAS
    whose needed columns are there. `columns` declares them: {"question": NAME, ...}. Raises
    UserError for a file that is missing, of an unknown kind, unreadable or without the needed
    columns, where there is no usable row, and, unless `bad_rows` is "skip", for any unusable row.
    """
    if bad_rows not in ("error", "skip"):
        raise UserError(f"bad_rows is {bad_rows!r}: give 'error' or 'skip'")
    problems, bad = scan(path, schema, columns)
    if not bad and problems:
        return problems
    summary = f"{path}: {len(bad)} of {len(bad) + len(problems)} rows are unusable"
    if bad:
        more = f", and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        summary += f" ({'; '.join(map(str, bad[:LISTED]))}{more})"
    if bad and bad_rows == "error":
        raise UserError(f"{summary}: mend them, or pass over them (bad_rows=skip)")
    if not problems:
        raise UserError(f"{summary}, so no problem is left: give a file with problems")
    logging.warning("%s; skipped", summary)
    return problems


def scan(
    path: str | Path, schema: str | Schema = "auto", columns: Mapping[str, str] | None = None
) -> tuple[list[Problem], list[BadRow]]:
    """The problems of `path` and, apart, the rows that make none. Raises as `read`."""
    among = candidates(schema, columns or {})
    files = _files(str(path))
    problems, bad = [], []
    seen: collections.Counter[str] = collections.Counter()
    for file in files:
        for number, found in _rows(file, among):
            if isinstance(found, Unusable):
                bad.append(BadRow(number, str(found), file.name if len(files) > 1 else ""))
                continue
            seen[found.id] += 1
            if seen[found.id] > 1:  # sets repeat problems to weigh them: tell them apart
                found = dataclasses.replace(found, id=f"{found.id}#{seen[found.id]}")
            problems.append(found)
    return problems, bad


def check(path: str) -> None:
    """UserError where a part of `path` is no file of a known kind here, and no name on the hub.

    Reads nothing and asks no network.
    """
    for part in _parts(path):
        here, kinds = os.path.isfile(part), " or ".join(READERS)
        if here and Path(part).suffix not in READERS:
            raise UserError(f"data file {part} is of no known kind: give {kinds}")
        if not here and not hubdata.is_name(part, READERS):
            found = "is no file" if os.path.exists(part) else "does not exist"
            raise UserError(
                f"data file {part} {found}: give a {kinds} file, or a data set on the hub "
                "(OWNER/NAME or OWNER/NAME:FILE)"
            )


def _parts(path: str) -> list[str]:
    return [path] if os.path.isfile(path) else [part.strip() for part in path.split(",")]


def _files(path: str) -> list[File]:
    check(path)
    files = []
    for part in _parts(path):
        if os.path.isfile(part):
            files.append(local(part))
            continue
        found = hubdata.find(part, READERS)
        for remote in found:
            name = f"{remote.dataset}:{remote.file}"
            prefix = f"{PurePosixPath(remote.file).stem}/" if len(found) > 1 else ""
            files.append(File(name, PurePosixPath(remote.dataset).name, prefix, remote.open))
    return files


def local(path: str) -> File:
    """A file of this machine; to open it raises UserError where it cannot be read."""

    @contextlib.contextmanager
    def opened() -> Iterator[BinaryIO]:
        try:
            with open(path, "rb") as file:
                yield file
        except OSError as error:
            raise UserError(
                f"data file {path} cannot be read ({error.strerror or error}): mend that, or give "
                "another"
            ) from error

    return File(path, Path(path).stem, "", opened)


def _rows(file: File, among: Sequence[Schema]) -> Iterator[tuple[int, Problem | Unusable]]:
    """Each row's number, with its problem or why it makes none."""
    try:
        with file.open() as stream:
            table = READERS[file.suffix](stream)
            schema = choose(file.name, table.columns, among)
            wanted = [c for c in dict.fromkeys(schema.wanted) if c in table.columns]
            for number, row in table.rows(wanted):
                try:
                    yield number, problem(row, schema, f"{file.prefix}{number}", file.source)
                except Unusable as reason:
                    yield number, reason
    except Unreadable as error:
        raise UserError(
            f"{file.name} is not readable as {file.suffix[1:]} ({error}): fetch or write it again"
        ) from error
