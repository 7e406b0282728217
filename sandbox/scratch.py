"""A directory that is emptied through its descriptor, never through its path.

A path can come to mean something else between making and wiping; a descriptor
cannot. There is no default location to wipe: only what `Scratch` itself made.
"""

import os
import secrets
import stat
import tempfile

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Scratch:
    """A fresh directory under `parent` (the system's temporary folder where None)."""

    def __init__(self, parent: str | None = None, mode: int = 0o700) -> None:
        self.path = tempfile.mkdtemp(prefix="sandbox-", dir=parent)
        self.fd = os.open(self.path, FLAGS)
        os.fchmod(self.fd, mode)

    def empty(self) -> None:
        """Removes all it contains. Nothing may be running in it. Raises OSError."""
        for name in os.listdir(self.fd):
            self._unlink(name)
        # Only directories are left. Each gives its own subdirectories to the top, so
        # that a tree of any depth needs two descriptors and no recursion.
        while names := os.listdir(self.fd):
            for name in names:
                self._flatten(name)

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

    def _unlink(self, name: str) -> None:
        if not _is_directory(name, self.fd):
            os.unlink(name, dir_fd=self.fd)

    def _flatten(self, name: str) -> None:
        _open_up(name, self.fd)
        inner = os.open(name, FLAGS, dir_fd=self.fd)
        try:
            for child in os.listdir(inner):
                if _is_directory(child, inner):
                    _open_up(child, inner)  # moving a directory writes its ".."
                    os.rename(child, secrets.token_hex(8), src_dir_fd=inner, dst_dir_fd=self.fd)
                else:
                    os.unlink(child, dir_fd=inner)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=self.fd)


def _is_directory(name: str, at: int) -> bool:
    return stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode)


def _open_up(name: str, at: int) -> None:
    """Makes a directory of ours readable again. It is no symlink: lstat said so."""
    if os.lstat(name, dir_fd=at).st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=at)
