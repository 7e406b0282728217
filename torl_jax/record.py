"""Where a run leaves its record: a folder of this machine, or one in a bucket.

Files of a bucket (gs://BUCKET/RUN) cannot be appended to or renamed, only replaced: what is
there is always a whole one. `Local` and `Bucket` are the two ways to keep a record; they
offer the same. Other files of a run are small and go through `replace`.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

from etils import epath

from torl_jax.errors import UserError


def remote(path: str | os.PathLike[str]) -> bool:
    """Whether it is an address (gs://...) and not a path of this machine."""
    return "://" in os.fspath(path)


def folder(path: str | os.PathLike[str]) -> epath.Path:
    """Where a run is; UserError for an address that nothing installed can reach."""
    name = os.fspath(path)
    try:
        found = epath.Path(name)
        if remote(name):
            found.exists()
    except KeyError:
        kind = name.split("://")[0]
        raise UserError(
            f"{name}: {kind}:// is not supported; give a local folder or gs://BUCKET/FOLDER"
        ) from None
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} needs a package that is not installed ({reason}): "
            "pip install -c constraints.txt -e '.[gs]'"
        ) from error
    return found


def replace(path: epath.Path, data: bytes) -> None:
    """Writes `path` so that a reader, or a crash, sees the old file or the new one whole."""
    if remote(path):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class Local:
    """A file of lines that are appended, and `scratch`, the run's own folder; a context manager."""

    def __init__(self, path: epath.Path) -> None:
        self.path = path
        self.scratch = Path(path.parent)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def begin(self, kept: bytes) -> None:
        """The file is `kept`, to which lines will be added."""
        replace(self.path, kept)
        self._file = self._stack.enter_context(self.path.open("ab"))

    def add(self, line: bytes) -> None:
        """A line, which a reader sees at once."""
        self._file.write(line)
        self._file.flush()

    def publish(self) -> None:
        """What other programs wrote under `scratch` is where it is read."""


class Bucket(Local):
    """The same over a network: the file is written anew with each line, and what lies in
    `scratch`, a temporary folder of this machine, is copied when it is published and at the end.
    """

    def __init__(self, path: epath.Path) -> None:
        super().__init__(path)
        self._lines = b""
        self._published: dict[Path, tuple[int, int]] = {}

    def __enter__(self) -> "Bucket":
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="torl_jax-"))
        self.scratch = Path(scratch)
        self._stack.callback(self.publish)
        return self

    def begin(self, kept: bytes) -> None:
        self.add(kept)

    def add(self, line: bytes) -> None:
        self._lines += line
        replace(self.path, self._lines)

    def publish(self) -> None:
        """Copies the files that have changed since."""
        for path in sorted(path for path in self.scratch.rglob("*") if path.is_file()):
            seen = path.stat()
            state = (seen.st_size, seen.st_mtime_ns)
            if self._published.get(path) != state:
                target = self.path.parent / path.relative_to(self.scratch).as_posix()
                replace(target, path.read_bytes())
                self._published[path] = state


def keep(path: epath.Path) -> Local:
    """The record at `path`, in the way of its folder."""
    return Bucket(path) if remote(path) else Local(path)
