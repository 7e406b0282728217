"""Landlock: a thread gives up every path that it does not name, for good.

Needs no privilege and works beside namespaces or without them. A newer kernel knows
more kinds of access (`abi`); each is taken where the running kernel has it, and kinds
newer than this file stay as they are. What is open already stays open, and mounting
ends here: Landlock is the step before seccomp.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Sequence

from sandbox import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK = 1 << 6, 1 << 7, 1 << 8, 1 << 9
MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
ABSTRACT_UNIX_SOCKET, SIGNAL = 1 << 0, 1 << 1

# What each version of the interface added: rights on files, on TCP ports, scopes.
HANDLED = {
    1: ((1 << 13) - 1, 0, 0),
    2: (REFER, 0, 0),
    3: (TRUNCATE, 0, 0),
    4: (0, BIND_TCP | CONNECT_TCP, 0),
    5: (IOCTL_DEV, 0, 0),
    6: (0, 0, ABSTRACT_UNIX_SOCKET | SIGNAL),
}
KEEPS_SIGNALS = 6  # since this version
READ = READ_FILE | READ_DIR | EXECUTE
CHANGE = WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | REFER
MAKE = MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM  # devices and sockets nowhere
WRITE = READ | CHANGE | MAKE
ON_FILES = EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV  # the rest is for directories

CREATE_RULESET_VERSION, RULE_PATH_BENEATH = 1, 1
# Numbers of calls this young are the same on every machine.
CALLS = {
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The version of the kernel's interface; 0 where it has none, or has it switched off."""
    try:
        return _call("landlock_create_ruleset", None, 0, CREATE_RULESET_VERSION)
    except OSError as error:
        # EPERM is an outer seccomp filter.
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def restrict(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Leaves the calling thread, and what it starts, the paths named here.

    Below `readable`: read, list, execute. Below `writable` also write, make, rename
    and remove. A path may be a single file, such as /dev/null. One that does not exist
    is passed over. TCP, abstract sockets and signals to the outside end too where the
    kernel knows how. OSError where the kernel refuses or has no Landlock.
    """
    version = abi()
    if version == 0:
        raise OSError(errno.ENOSYS, "Landlock: the kernel has none, or it is switched off")
    files, network, scopes = (
        sum(added[kind] for since, added in HANDLED.items() if since <= version)
        for kind in range(3)
    )
    attributes = _Ruleset(files, network, scopes)
    size = ctypes.sizeof(attributes)
    ruleset = _call("landlock_create_ruleset", ctypes.byref(attributes), size, 0)
    try:
        for rights, paths in ((READ, readable), (WRITE, writable)):
            for path in paths:
                _allow(ruleset, path, rights, files)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        _call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int, handled: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            if rights & WRITE_FILE:
                rights |= IOCTL_DEV
            rights &= ON_FILES
        rule = _PathBeneath(rights & handled, fd)
        _call("landlock_add_rule", ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: no rule for {path}") from error
    finally:
        os.close(fd)


def _call(name: str, *arguments: object) -> int:
    if not kernel.LINUX:
        raise OSError(errno.ENOSYS, f"{name}: only Linux has it")
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    try:
        return kernel.call("syscall", ctypes.c_long(CALLS[name]), *words)
    except OSError as error:
        number = error.errno or 0
        raise OSError(number, f"{name}: {os.strerror(number)}") from error
