"""What the kernel can take away from a program: thin calls, no policy.

Namespaces are entered once per worker, before anything is imported; identity and
limits are set in every program's own process.
"""

import ctypes
import errno
import math
import os
import resource
import signal

libc = ctypes.CDLL(None, use_errno=True)

CLONE = {
    "mount": 0x00020000,
    "ipc": 0x08000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
CLONE_NEWUSER = 0x10000000
MS_PRIVATE_RECURSIVE = 0x40000 | 0x4000
MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 38, 36
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3 = 0x20080522

NOBODY = 65534
FILE_BYTES = 64 << 20
OPEN_FILES = 256
PROCESSES = 256
THREAD_STACKS = 256 << 20  # address space beyond the data limit: stacks, shared mappings


def _call(function: str, *args: object) -> None:
    if getattr(libc, function)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def prctl(option: int, value: int, third: int = 0) -> None:
    _call("prctl", option, *map(ctypes.c_ulong, (value, third, 0, 0)))


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Asks for `number` when the thread that started this process ends.

    setuid clears it, so a process that changes its identity asks again afterwards.
    """
    prctl(PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def enter_namespaces() -> tuple[frozenset[str], str]:
    """Enters what the kernel allows; returns the names, and why some are missing.

    As root: mount, ipc, pid, net. Otherwise the same within a user namespace, all or
    nothing. The pid namespace holds only the children forked from here on. "mount"
    is reported only where later mounts cannot reach the host.
    """
    uid, gid = os.geteuid(), os.getegid()
    entered, missing = set(), []
    if uid != 0:
        try:
            _call("unshare", CLONE_NEWUSER | sum(CLONE.values()))
        except OSError as error:
            return frozenset(), f"no user namespace ({error.strerror})"
        _map_identity(uid, gid)
        entered = {"user", *CLONE}
    else:
        for name, flag in CLONE.items():
            try:
                _call("unshare", flag)
                entered.add(name)
            except OSError as error:
                missing.append(f"no {name} namespace ({error.strerror})")
    if "mount" in entered:
        try:
            _call("mount", b"none", b"/", None, ctypes.c_ulong(MS_PRIVATE_RECURSIVE), None)
        except OSError as error:
            entered.discard("mount")
            missing.append(f"mounts stay shared ({error.strerror})")
    return frozenset(entered), "; ".join(missing)


def _map_identity(uid: int, gid: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount_own_proc(namespaces: frozenset[str]) -> bool:
    """Replaces /proc by that of our own pid namespace; True where /proc shows our ids."""
    if "pid" not in namespaces:
        return True
    if "mount" not in namespaces or os.getpid() != 1:
        return False
    flags = ctypes.c_ulong(MS_NOSUID_NODEV_NOEXEC)
    try:
        _call("mount", b"proc", b"/proc", b"proc", flags, None)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EBUSY):
            raise
        return False  # a container that masks parts of /proc refuses a new one
    return True


def drop_identity(kind: str) -> None:
    """nobody: uid and gid 65534; capless: the same uid without capabilities; same: nothing.

    No new privileges in every case, so that no setuid program gives anything back.
    """
    if kind == "nobody":
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # setuid made us undumpable, which would close /proc/self and /dev/stdin to us.
        prctl(PR_SET_DUMPABLE, 1)
    elif kind == "capless":
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        _call("capset", header, (ctypes.c_uint32 * 6)())
    elif kind != "same":
        raise ValueError(f"identity is nobody, capless or same, got {kind!r}")
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def memory_base() -> tuple[int, int]:
    """Bytes of address space and of private data that this process has by now."""
    sizes = {}
    with open("/proc/self/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("VmSize", "VmData", "VmStk"):
                sizes[name] = int(value.split()[0]) << 10
    return sizes["VmSize"], sizes["VmData"] + sizes["VmStk"]


def limit(memory: int, base: tuple[int, int], seconds: float, count_processes: bool) -> None:
    """rlimits of one program: `memory` bytes above `base`, `seconds` of CPU.

    The number of processes is counted per user, so it means something only for a
    user who is nobody else.
    """
    cpu = math.ceil(seconds)
    space, data = base
    limits = {
        resource.RLIMIT_AS: (space + memory + THREAD_STACKS,) * 2,
        resource.RLIMIT_DATA: (data + memory,) * 2,
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_FSIZE: (FILE_BYTES,) * 2,
        resource.RLIMIT_NOFILE: (OPEN_FILES,) * 2,
        resource.RLIMIT_CORE: (0, 0),
    }
    if count_processes:
        limits[resource.RLIMIT_NPROC] = (PROCESSES,) * 2
    for which, (soft, hard) in limits.items():
        _, ceiling = resource.getrlimit(which)
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(which, (soft, hard))
