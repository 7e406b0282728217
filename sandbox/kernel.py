"""Thin calls to the kernel, no policy: what Python's os module does not offer.

Everything here is Linux; elsewhere `LINUX` is false, a process's end is watched
through kqueue, and the calls that only add protection do nothing.
"""

import ctypes
import os
import select
import signal
import sys

LINUX = sys.platform == "linux"

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
TMPFS_MAGIC = 0x01021994

MADV_COLLAPSE = 25
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3 = 0x20080522

# Numbers of calls newer than the split between architectures: the same on all of them.
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# Made once: a new array type in every child would cost more than the call.
_CAPABILITY_HEADER = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()

_libc = ctypes.CDLL(None, use_errno=True)


class MountAttributes(ctypes.Structure):
    """struct mount_attr; its read-only, nosuid, nodev and noexec bits are those of mount(2)."""

    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


def call(function: str, *arguments: object) -> int:
    """A libc function that returns -1 and sets errno where it fails."""
    result = getattr(_libc, function)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int, third: int = 0) -> None:
    if LINUX:
        call("prctl", option, *map(ctypes.c_ulong, (value, third, 0, 0)))


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Asks for `number` when the thread that started this process ends.

    A change of identity clears it, so such a process asks again afterwards.
    """
    prctl(PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def unshare(flags: int) -> None:
    call("unshare", flags)


def map_identity(inner: int, uid: int, gid: int) -> None:
    """In a user namespace just entered: we, outside `uid`:`gid`, are `inner`:`inner` inside."""
    prctl(PR_SET_DUMPABLE, 1)  # else the files below belong to root and refuse us
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inner} {uid} 1"),
        ("gid_map", f"{inner} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount(
    source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    encoded = [text if text is None else text.encode() for text in (source, target, kind, data)]
    try:
        call("mount", *encoded[:3], ctypes.c_ulong(flags), encoded[3])
    except OSError as error:
        raise OSError(error.errno, f"mounting {target}: {os.strerror(error.errno or 0)}") from None


def add_mount_flags(target: str, flags: int, recursive: bool = True) -> None:
    """Adds flags to a mount (and those below it) and takes none away. Linux 5.12 or newer."""
    attributes = MountAttributes(flags, 0, 0, 0)
    call(
        "syscall",
        ctypes.c_long(SYS_MOUNT_SETATTR),
        AT_FDCWD,
        target.encode(),
        AT_RECURSIVE if recursive else 0,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def pivot_to(root: str) -> None:
    """Makes a mounted directory the root of this mount namespace and lets the old one go."""
    os.chdir(root)
    number = SYS_PIVOT_ROOT[os.uname().machine]
    call("syscall", ctypes.c_long(number), b".", b".")  # the old root now lies on top
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def is_tmpfs(fd: int) -> bool:
    buffer = (ctypes.c_long * 32)()  # struct statfs is shorter; its first word is the type
    call("fstatfs", fd, ctypes.byref(buffer))
    return buffer[0] == TMPFS_MAGIC


def drop_capabilities() -> None:
    """Gives up every capability of this process, for good under no_new_privs."""
    if LINUX:
        call("capset", _CAPABILITY_HEADER, _NO_CAPABILITIES)


def drop_ambient() -> None:
    """Lets go of capabilities that would survive the start of another program."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def prefer_as_victim() -> None:
    """Where memory runs out in our control group, the kernel ends this process first."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except (FileNotFoundError, PermissionError):
        pass  # no /proc, or a read-only one: the kernel may end the slot instead, as good an end


def collapse(low: int, high: int) -> None:
    """Asks for huge pages now. Raises OSError where the kernel cannot (Linux 6.1 can)."""
    length = ctypes.c_size_t(high - low)
    call("madvise", ctypes.c_void_p(low), length, MADV_COLLAPSE)


def watch(pid: int) -> int:
    """A descriptor that becomes readable when the process ends."""
    if sys.platform == "linux":
        return os.pidfd_open(pid)
    queue = select.kqueue()
    queue.control(
        [select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)], 0
    )
    return os.dup(queue.fileno())
