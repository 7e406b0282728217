"""The file system that programs see: read-only Python and system libraries, nothing else.

    /usr /bin /lib ...   the system's programs and libraries, read-only
    PREFIX               Python's own, read-only, at the path where it really is
    /etc                 a few files written here (passwd, group, hosts) or needed by libraries
    /dev                 null zero full random urandom, and the links to the standard streams
    /proc                of the slot's own process ids (where the kernel allows a new one)
    /box /tmp /dev/shm   one tmpfs of the slot, emptied after each program

`build` is called once, in a mount namespace of its own, and swaps the root under
everything that is forked later; `furnish` is called by every slot in its copy.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

from sandbox import kernel
from sandbox.scratch import Scratch

HOME = "/box"
PLACES = {"home": HOME, "tmp": "/tmp", "shm": "/dev/shm"}  # name in the tmpfs: where it is seen
STAGING = ("/mnt", "/srv", "/media", "/opt", "/tmp", "/run")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
WRITTEN = {
    "/etc/passwd": "user:x:1000:1000::/box:/bin/sh\n",
    "/etc/group": "user:x:1000:\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/hostname": "sandbox\n",
}
QUOTA_FILES = 16384


def libraries() -> list[str]:
    """What programs may read: the system's directories and every prefix of this Python."""
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    found = {os.path.abspath(prefix) for prefix in prefixes}
    found |= {os.path.realpath(prefix) for prefix in found}
    if any(path.startswith("/nix/store/") for path in found):
        found.add("/nix/store")
    return [*SYSTEM, *sorted(path for path in found if not _below(path, SYSTEM) and path != "/")]


def keep_to(libraries: Sequence[str]) -> None:
    """Takes from sys.path what programs cannot read: a checkout, an editable package."""
    real = [os.path.realpath(path) for path in libraries]
    sys.path[:] = [path for path in sys.path if _below(os.path.realpath(path), real)]
    sys.path_importer_cache.clear()


def places(libraries: Sequence[str]) -> dict[str, str]:
    """Where programs may write; a place that would hide a library is left out."""
    return {name: path for name, path in PLACES.items() if not _covers(path, libraries)}


def build(libraries: Sequence[str]) -> None:
    """Replaces the root of this mount namespace, which nobody else may share. Raises OSError."""
    kernel.mount("none", "/", None, kernel.MS_PRIVATE | kernel.MS_REC)
    sources = [*libraries, *SETTINGS, *DEVICES]
    root = next(path for path in STAGING if os.path.isdir(path) and not _covers(path, sources))
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("sandbox", root, "tmpfs", flags, "size=1m,mode=755")
    for path in (*libraries, *SETTINGS):
        _show(path, root, kernel.MS_RDONLY | flags)
    for path in DEVICES:
        _show(path, root, kernel.MS_NOSUID | kernel.MS_NOEXEC)
    for path in ("/proc", "/mnt", *places(libraries).values()):
        os.makedirs(root + path, exist_ok=True)
    for path, target in LINKS.items():
        os.symlink(target, root + path)
    for path, text in WRITTEN.items():
        with open(root + path, "x") as file:
            file.write(text)
    # A slot may mount its own /proc only where this one is visible; it lies beneath.
    kernel.mount("/proc", root + "/proc", None, kernel.MS_BIND | kernel.MS_REC)
    kernel.pivot_to(root)
    kernel.add_mount_flags("/", kernel.MS_RDONLY, recursive=False)


def furnish(libraries: Sequence[str], quota: int, owner: int | None) -> tuple[list[Scratch], bool]:
    """A slot's own /proc and writable places of `quota` bytes in all, owned by `owner`.

    Returns the places, and whether /proc shows the slot's processes. Where the kernel
    refuses a new /proc (a container that masks parts of it does) there is none.
    """
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    own_proc = True
    try:
        kernel.mount("proc", "/proc", "proc", flags | kernel.MS_NOEXEC)
    except PermissionError:
        own_proc = False
        kernel.mount("none", "/proc", "tmpfs", flags | kernel.MS_RDONLY, "size=4k")
    limits = f"size={quota},nr_inodes={QUOTA_FILES},mode=755"
    kernel.mount("scratch", "/mnt", "tmpfs", flags, limits)
    writable = []
    for name, path in places(libraries).items():
        place = Scratch("/mnt", 0o700, name)
        if not kernel.is_tmpfs(place.fd):
            raise OSError(f"{place.path} lies on no tmpfs of ours: nothing may be emptied there")
        if owner is not None:
            os.fchown(place.fd, owner, owner)
        kernel.mount(place.path, path, None, kernel.MS_BIND)
        writable.append(place)
    kernel.call("umount2", b"/mnt", kernel.MNT_DETACH)
    return writable, own_proc


def _show(path: str, root: str, flags: int) -> None:
    """The same path below `root`: a link as a link, the rest as a bind mount."""
    target = root + path
    if os.path.islink(path):
        with contextlib.suppress(FileExistsError):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.readlink(path), target)
        path = os.path.realpath(path)
        if path.startswith("/etc/"):
            _show(path, root, flags)
        return
    if not os.path.exists(path) or os.path.exists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o444))
    kernel.mount(path, target, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.add_mount_flags(target, flags)


def _below(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _covers(path: str, sources: Sequence[str]) -> bool:
    return any(source == path or source.startswith(path + "/") for source in sources)
