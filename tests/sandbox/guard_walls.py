"""The walls of the outer guard: namespaces, mounts, capabilities, a filter, cgroups.

Called by guard.py only, in processes that it made for the purpose.
"""

import ctypes
import fcntl
import os
import re
import resource
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from platform import machine

ROOT = Path(__file__).resolve().parents[2]
OURS = "guard"  # the source that mountinfo shows for the file systems made here
ORDINARY = 1000  # the uid and gid of --unprivileged
FRESH = {"/tmp": "size=1g,mode=1777", "/run": "size=16m", "/dev": "size=1m"}
MEMORY, PROCESSES = 6 << 30, 600  # bytes and processes that the command may have in all
LIMITS = {"memory.max": MEMORY, "memory.limit_in_bytes": MEMORY, "pids.max": PROCESSES}
CONTROLS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)
ANY_NAMESPACE = NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | 0x02000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY = 442, -100, 0x8000, 1
PDEATHSIG, SET_SECCOMP, DROP_BOUND, AMBIENT, CLEAR_AMBIENT = 1, 22, 24, 47, 4
CHILD_SUBREAPER = 36
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
SYS_ADMIN = 21
CAPABILITY_VERSION_3 = 0x20080522
# What a default container leaves to its root.
CONTAINER_CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
# Modules, raw devices, process accounting, reboot, the clock, making devices, the kernel's log.
MACHINE_CAPABILITIES = {16, 17, 20, 22, 25, 27, 34}
# clone, unshare, setns, clone3
SYSCALLS = {"x86_64": (0xC000003E, 56, 272, 308, 435), "aarch64": (0xC00000B7, 220, 97, 268, 435)}

libc = ctypes.CDLL(None, use_errno=True)


class GuardError(Exception):
    """Why there is no guard, in one line."""


@dataclass
class Options:
    """What the command line asks for."""

    command: list[str]
    unprivileged: bool = False
    no_userns: bool = False
    plain_container: bool = False
    writable: list[str] = field(default_factory=list)

    @property
    def mode(self) -> str:
        modes = {
            "plain-container": self.plain_container,
            "unprivileged": self.unprivileged or os.geteuid() != 0,
            "no-userns": self.no_userns,
        }
        return "+".join(name for name, on in modes.items() if on) or "root"


def close_off(options: Options, groups: list[str]) -> None:
    """Namespaces and mounts of pid 1, seen by all that it starts."""
    call("unshare", NEWNS | NEWNET | NEWIPC | NEWUTS)
    _mount(None, "/", flags=MS_REC | MS_PRIVATE)
    here = os.getcwd()
    kept = _needed(here) | set(options.writable)
    nodes = {f"/dev/{name}" for name in DEVICES}
    # A descriptor still means the directory when something is mounted over its path.
    held = {path: os.open(path, os.O_PATH) for path in kept | nodes}
    _read_only("/", recursive=True)
    fresh = FRESH | dict.fromkeys(_closed_doors(kept, options), "mode=755")
    fresh = {path: how for path, how in fresh.items() if os.path.isdir(path)}
    for path, how in fresh.items():
        _mount(OURS, path, "tmpfs", MS_NOSUID | MS_NODEV, how)
    _fill_dev()
    for path in sorted(held):
        if path in options.writable or _covered(path, fresh):
            _bind(held[path], path)
    for path in options.writable + groups:
        if path in groups:
            _mount(path, path, flags=MS_BIND)
        _read_only(path, recursive=False, clear=True)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if options.plain_container:
        # Elsewhere /proc stays whole: the kernel lets nobody mount one in a user namespace
        # who sees a masked one, and the sandbox's strong levels do.
        for path in filter(os.path.exists, CONTROLS):
            _mount(path, path, flags=MS_BIND)
            _read_only(path, recursive=False)
    for fd in held.values():
        os.close(fd)
    os.mkdir("/tmp/home")
    if options.unprivileged and os.geteuid() == 0:
        os.chown("/tmp/home", ORDINARY, ORDINARY)
    _loopback_up()
    os.chdir(here)


def _needed(here: str) -> set[str]:
    """Directories without which the command cannot run, wherever they lie."""
    paths = [here, str(ROOT), str(ROOT.parent / "shared"), sys.prefix, sys.base_prefix]
    return {os.path.realpath(path) for path in paths if os.path.isdir(path)}


def _closed_doors(kept: set[str], options: Options) -> set[str]:
    """Topmost directories on the way to `kept` that other users may not enter."""
    if not (options.unprivileged or options.plain_container):
        return set()
    found = set()
    for path in kept:
        for parent in reversed(Path(path).parents):
            if not parent.stat().st_mode & 0o001:
                found.add(str(parent))
                break
    return found


def _covered(path: str, fresh: Mapping[str, str]) -> bool:
    return any(path.startswith(f"{top}/") for top in fresh)


def _fill_dev() -> None:
    for name in DEVICES:
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
    for name in ("shm", "pts"):
        os.mkdir(f"/dev/{name}")
    _mount(OURS, "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=256m,mode=1777")
    _mount(OURS, "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"}
    links |= {f"std{name}": f"/proc/self/fd/{fd}" for fd, name in enumerate(("in", "out", "err"))}
    for name, target in links.items():
        os.symlink(target, f"/dev/{name}")


def _bind(fd: int, path: str) -> None:
    source = f"/proc/self/fd/{fd}"
    if os.path.isdir(source):
        os.makedirs(path, mode=0o755, exist_ok=True)
    _mount(source, path, flags=MS_BIND | MS_REC)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(s, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def give_up(options: Options) -> None:
    """Capabilities, namespaces and the uid of root, as the options say."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    if os.geteuid() == 0:
        dropped = MACHINE_CAPABILITIES
        if options.plain_container:
            dropped = set(range(last + 1)) - CONTAINER_CAPABILITIES
        for number in dropped:
            prctl(DROP_BOUND, number)
        prctl(AMBIENT, CLEAR_AMBIENT)
    if options.no_userns or options.plain_container:
        _refuse_namespaces()  # before the identity goes: a filter needs a capability
    if options.unprivileged and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(*[ORDINARY] * 3)
        os.setresuid(*[ORDINARY] * 3)
    if os.geteuid() != 0:
        resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))
        # Those over our own user namespace: exec would take them too, but we look before it.
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        call("capset", header, (ctypes.c_uint32 * 6)())


def _refuse_namespaces() -> None:
    """unshare, setns and clone with a namespace flag fail with EPERM from here on."""
    if machine() not in SYSCALLS:
        raise GuardError(f"--no-userns knows {', '.join(SYSCALLS)}, this is {machine()}")
    arch, clone, unshare, setns, clone3 = SYSCALLS[machine()]
    allow, eperm, enosys = 0x7FFF0000, 0x00050001, 0x00050026
    load, equal, bits, end = 0x20, 0x15, 0x45, 0x06
    program = [
        (load, 0, 0, 4),
        (equal, 0, 7, arch),
        (load, 0, 0, 0),
        (equal, 6, 0, unshare),
        (equal, 5, 0, setns),
        (equal, 5, 0, clone3),  # its flags lie in memory: without it libc takes clone
        (equal, 0, 2, clone),
        (load, 0, 0, 16),
        (bits, 1, 0, ANY_NAMESPACE),
        (end, 0, 0, allow),
        (end, 0, 0, eperm),
        (end, 0, 0, enosys),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    prctl(SET_SECCOMP, 2, ctypes.addressof(header))


@contextmanager
def cgroups(wanted: bool) -> Iterator[list[str]]:
    """Groups of our own, so that no bomb inside takes the whole machine.

    In the mode "root" they are all that stays writable of the cgroup trees, so that the
    sandbox's own groups can be tested. That reaches only below directories made and
    removed here; whatever is done to them, the limits of the groups above hold.
    """
    made: list[str] = []
    locks: list[int] = []
    try:
        for parent in _own_cgroups() if wanted else []:
            for name in os.listdir(parent):
                if re.fullmatch(r"guard-\d+", name) and not os.path.exists(f"/proc/{name[6:]}"):
                    _remove_stale(os.path.join(parent, name))
            path = os.path.join(parent, f"guard-{os.getpid()}")
            if os.access(parent, os.W_OK):
                os.mkdir(path)
                made.append(path)
                _bound(path)
                locks.append(_lock(path))
        yield made
    finally:
        for fd in locks:
            os.close(fd)
        for path in made:
            _remove_group(path)


def _bound(path: str) -> None:
    """Sets those of LIMITS that this kind of group has."""
    for name, value in LIMITS.items():
        file = Path(path, name)
        if file.exists():
            file.write_text(str(value))


def _remove_group(path: str) -> None:
    for inner, _, _ in os.walk(path, topdown=False):
        os.rmdir(inner)


def _remove_stale(path: str) -> None:
    """Removes what a killed guard left. Its pid says nothing where pid namespaces differ."""
    try:
        fd = _lock(path)
    except BlockingIOError:  # a living guard's
        return
    os.close(fd)
    _remove_group(path)


def _lock(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def _own_cgroups() -> set[str]:
    """Directories of this process's groups that control memory or pids, v1 or v2."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        groups |= dict.fromkeys(names.split(","), path.lstrip("/"))
    found = set()
    for mount in mounts():
        if mount.kind == "cgroup" and mount.root == "/":
            names = {"memory", "pids"} & set(mount.options.split(",")) & set(groups)
            found |= {os.path.join(mount.path, groups[name]) for name in names}
        elif mount.kind == "cgroup2" and mount.root == "/" and "" in groups:
            path = Path(mount.path, groups[""])
            if "memory" in (path / "cgroup.controllers").read_text().split():
                found.add(str(path))
    return found


# --- thin calls


@dataclass(frozen=True)
class Mount:
    path: str
    root: str  # what of the file system is mounted here
    read_only: bool
    kind: str
    source: str
    options: str  # of the file system


def mounts() -> list[Mount]:
    """All mounts of this namespace, hidden ones included."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, root, path, how, *_ = left.split(" ")
        kind, source, options = right.split(" ", 2)
        found.append(Mount(path, root, "ro" in how.split(","), kind, source, options))
    return found


def call(function: str, *arguments: object) -> None:
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def prctl(option: int, second: int, third: int = 0) -> None:
    call("prctl", option, *map(ctypes.c_ulong, (second, third, 0, 0)))


def _mount(
    source: str | None, path: str, kind: str | None = None, flags: int = 0, how: str | None = None
) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, path, kind, how)]
    if libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {kind or source} on {path}: {os.strerror(number)}")


def _read_only(path: str, recursive: bool, clear: bool = False) -> None:
    change = (0, ATTR_RDONLY) if clear else (ATTR_RDONLY, 0)
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", *change, 0, 0), 32)
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(32)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, attributes, size)


def map_identity(uid: int, gid: int) -> None:
    lines = {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
    for name, text in lines.items():
        Path("/proc/self", name).write_text(text)
