"""A directory that is emptied through its descriptor, never through its path.

A path can come to mean something else between making and wiping; a descriptor
cannot. There is no default location to wipe: only what `Scratch` itself made.
"""

import errno
import os
import secrets
import stat
import tempfile

PREFIX = "sandbox-"
FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Scratch:
    """A fresh directory under `parent` (the system's temporary folder where None).

    `name` makes it that directory of `parent`, which must not exist yet.
    """

    def __init__(
        self, parent: str | None = None, mode: int = 0o700, name: str | None = None
    ) -> None:
        if name is None:
            self.path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
        else:
            self.path = os.path.join(parent or tempfile.gettempdir(), name)
            os.mkdir(self.path, 0o700)
        self.fd = os.open(self.path, FLAGS)
        self._mode = mode
        os.fchmod(self.fd, mode)

    @classmethod
    def adopt(cls, path: str) -> "Scratch":
        """One that a process of ours has made just now, in whose place we remove it later."""
        scratch = cls.__new__(cls)
        scratch.path, scratch.fd = path, os.open(path, FLAGS)
        found = os.fstat(scratch.fd)
        scratch._mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid() or not os.path.basename(path).startswith(PREFIX):
            raise OSError(errno.EPERM, "no scratch directory of ours", path)
        return scratch

    def empty(self) -> None:
        """Removes all it contains, and what was done to the directory itself. Raises OSError.

        Nothing may be running in it.
        """
        os.fchmod(self.fd, self._mode)
        _empty(self.fd)
        os.utime(self.fd, (0, 0))

    def discard(self, name: str) -> None:
        """Removes one directory in it, with all that it contains."""
        _open_up(name, self.fd)
        inner = os.open(name, FLAGS, dir_fd=self.fd)
        try:
            _empty(inner)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=self.fd)

    def remove(self) -> None:
        """Empties it and, where its path still means it, removes the directory itself.

        A program may have removed or moved its own directory; what then stands at
        the path was not made here and is left alone.
        """
        try:
            self.empty()
            if self._still_there():
                os.rmdir(self.path)
        finally:
            os.close(self.fd)

    def _still_there(self) -> bool:
        try:
            there = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self.fd))


def _empty(top: int) -> None:
    for name in os.listdir(top):
        if not _is_directory(name, top):
            os.unlink(name, dir_fd=top)
    # Only directories are left. Each gives its own subdirectories to the top, so
    # that a tree of any depth needs two descriptors and no recursion.
    while names := os.listdir(top):
        for name in names:
            _flatten(name, top)


def _flatten(name: str, top: int) -> None:
    _open_up(name, top)
    inner = os.open(name, FLAGS, dir_fd=top)
    try:
        for child in os.listdir(inner):
            if _is_directory(child, inner):
                _open_up(child, inner)  # moving a directory writes its ".."
                os.rename(child, secrets.token_hex(8), src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _is_directory(name: str, at: int) -> bool:
    return stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode)


def _open_up(name: str, at: int) -> None:
    """Makes a directory of ours readable again. It is no symlink: lstat said so."""
    if os.lstat(name, dir_fd=at).st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=at)
