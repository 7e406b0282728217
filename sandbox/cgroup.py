"""Control groups: limits on the sum of a slot's processes, for memory and for their number.

    tree = find(f"sandbox-{os.getpid()}-{token}")    # a Tree, or one line: why not
    group = tree.slot(0, memory=512 << 20, pids=256)
    os.write(fd, b"0") for each of group.join_fds()  # in the process that shall be limited
    count_ooms(group.ooms_fd)                        # processes killed for want of memory
    group.remove(), tree.remove()                    # or remove(name), from any process

The groups lie below the caller's own, whose processes and settings stay as they are
(version 1), or beside it (version 2, where a group with processes can have none below
that limit memory). What a killed owner leaves behind is empty directories.
"""

import contextlib
import errno
import os
import re
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = ("memory", "pids")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
SLOT = re.compile(r"slot--?\d+")
PATIENCE = 5.0  # seconds for the processes of a group to disappear

EVENTS = {1: "memory.oom_control", 2: "memory.events"}


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    path: str
    root: str  # what of the file system is mounted there
    kind: str
    options: tuple[str, ...]  # of the file system


@dataclass(frozen=True)
class Place:
    """A directory that can hold our groups, and the controllers that work below it."""

    path: str
    version: int
    controllers: tuple[str, ...]


class Group:
    """A slot's group: one directory for each place."""

    def __init__(self, directories: Sequence[str], events: str) -> None:
        self._directories = directories
        self._fds: list[int] = []
        try:
            for directory in directories:
                self._fds.append(os.open(os.path.join(directory, "cgroup.procs"), os.O_WRONLY))
            self._fds.append(os.open(events, os.O_RDONLY))
        except OSError:
            self.close()
            raise

    def join_fds(self) -> list[int]:
        """Open files: b"0" written into each moves the writing process into the group."""
        return self._fds[:-1]

    @property
    def ooms_fd(self) -> int:
        """An open file for count_ooms, in whatever process it is inherited by."""
        return self._fds[-1]

    def close_joins(self) -> None:
        """Closes join_fds(), in this process: others have them by now."""
        self._close(len(self._fds) - 1)

    def close(self) -> None:
        """Closes the open files, in this process."""
        self._close(len(self._fds))

    def _close(self, count: int) -> None:
        fds, self._fds = self._fds[:count], self._fds[count:]
        for fd in fds:
            os.close(fd)

    def remove(self) -> None:
        """Ends the group, whose processes have ended. OSError where they have not."""
        self.close()
        for directory in self._directories:
            _rmdir(directory)


class Tree:
    """Our parent group in every place."""

    def __init__(self, name: str, places: Sequence[Place]) -> None:
        self.name = name
        self._places = places

    def slot(self, index: int, memory: int, pids: int) -> Group:
        """A group of its own for one slot: at most `memory` bytes and `pids` threads.

        A process has at least one thread. Files in a tmpfs are memory of who wrote them.
        A group that an earlier slot of the same index has left is replaced.
        """
        made, events = [], ""
        for place in self._places:
            directory = os.path.join(place.path, self.name, f"slot-{index}")
            if os.path.exists(directory):
                _rmdir(directory)
            os.mkdir(directory)
            made.append(directory)
            if "memory" in place.controllers:
                _limit_memory(directory, place.version, memory)
                events = os.path.join(directory, EVENTS[place.version])
            if "pids" in place.controllers:
                _write(directory, "pids.max", str(pids))
        return Group(made, events)

    def remove(self) -> None:
        """Removes what find and slot made. OSError where processes are left in it."""
        for place in self._places:
            _remove(os.path.join(place.path, self.name))


def find(name: str) -> "Tree | str":
    """Makes the group `name` (fresh, as in sandbox-17-ab12) wherever it is needed.

    Returns one line that says why not where the machine does not let us.
    ValueError for a name that could be one of the kernel's.
    """
    _check_name(name)
    made: list[Place] = []
    tree = Tree(name, made)
    try:
        places = _places()
        if isinstance(places, str):
            return places
        for place in places:
            directory = os.path.join(place.path, name)
            if place.version == 2:
                _enable(place.path, place.controllers)
            os.mkdir(directory)
            made.append(place)
            if place.version == 2:
                _enable(directory, place.controllers)
        tree.slot(0, memory=1 << 30, pids=16).remove()
    except OSError as error:
        tree.remove()
        return f"{error.filename}: {error.strerror}"
    return tree


def remove(name: str) -> None:
    """Removes the group `name`, also one that another process made; none is no error.

    To be called from the control group in which it was made.
    """
    _check_name(name)
    mounts, groups = _look()
    for controller in (*CONTROLLERS, ""):
        for path in directories(mounts, groups, controller):
            _clear(os.path.join(path, name))
            if not controller:
                _clear(os.path.join(os.path.dirname(path), name))


def parse_mounts(text: str) -> list[Mount]:
    """The control group file systems in the text of /proc/self/mountinfo."""
    mounts = []
    for line in filter(None, text.split("\n")):
        before, _, after = line.partition(" - ")
        kind, *rest = after.split(" ")
        if kind in ("cgroup", "cgroup2"):
            root, path = map(_unescape, before.split(" ")[3:5])
            mounts.append(Mount(path, root, kind, tuple(rest[-1].split(","))))
    return mounts


def parse_groups(text: str) -> dict[str, str]:
    """Controller: path of our group, from /proc/self/cgroup; "" is version 2."""
    groups = {}
    for line in filter(None, text.split("\n")):
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def count_ooms(fd: int) -> int:
    """How many processes of a group the kernel has killed for memory.

    Needs no path, so that it works behind another root.
    """
    text = os.pread(fd, 4096, 0).decode()
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    if found is None:
        raise OSError(errno.ENOSYS, "no line oom_kill: the kernel is older than 4.13")
    return int(found[1])


def directories(mounts: Iterable[Mount], groups: dict[str, str], controller: str) -> list[str]:
    """Where our group of a version 1 controller, or of version 2 (""), is mounted."""
    found = []
    for mount in mounts:
        ours = controller in mount.options if controller else mount.kind == "cgroup2"
        path, root = groups.get(controller), mount.root.rstrip("/")
        if not ours or path is None or "/.." in path:  # outside our cgroup namespace
            continue
        if path == root or path.startswith(root + "/"):
            found.append((mount.path + path[len(root) :]).rstrip("/"))
    return list(dict.fromkeys(found))


def _look() -> tuple[list[Mount], dict[str, str]]:
    mounts = parse_mounts(_read("/proc/self", "mountinfo"))
    return mounts, parse_groups(_read("/proc/self", "cgroup"))


def _places() -> list[Place] | str:
    """Where both controllers can be used, or why not."""
    mounts, groups = _look()
    found: dict[tuple[str, int], tuple[str, ...]] = {}
    unified = tuple(name for name in CONTROLLERS if name not in groups)
    for controller in CONTROLLERS:
        name = "" if controller in unified else controller
        paths = list(filter(os.path.isdir, directories(mounts, groups, name)))
        if not paths:
            return f"the {controller} controller is not mounted, or our group is not visible"
        path, version = paths[-1], 2 if controller in unified else 1
        if version == 2:
            parent = _parent(path, unified)
            if parent is None:
                return (
                    f"{path}: no right to limit {' and '.join(unified)} here or one level up; "
                    "start from a delegated group (systemd-run --user --scope -p Delegate=yes)"
                )
            path = parent
        found[path, version] = (*found.get((path, version), ()), controller)
    return [Place(path, version, names) for (path, version), names in found.items()]


def _parent(own: str, controllers: Sequence[str]) -> str | None:
    """Which version 2 group can hold ours: our own (the root only), or the one above."""
    above = os.path.dirname(own)
    for path in (own, above):
        try:
            has = _read(path, "cgroup.subtree_control").split()
            if path == own and not os.path.exists(os.path.join(own, "cgroup.type")):
                has = _read(path, "cgroup.controllers").split()  # the root may enable them
            if path == above and _read(own, "memory.max").strip() != "max":
                continue  # beside our own group nothing would count against its limit
        except FileNotFoundError:  # above the mount, or no memory controller
            continue
        if set(controllers) <= set(has) and os.access(path, os.W_OK):
            return path
    return None


def _enable(directory: str, controllers: Sequence[str]) -> None:
    has = _read(directory, "cgroup.subtree_control").split()
    missing = [f"+{name}" for name in controllers if name not in has]
    if missing:
        _write(directory, "cgroup.subtree_control", " ".join(missing))


def _limit_memory(directory: str, version: int, memory: int) -> None:
    """Without limits on swap a full group would go on growing there, slowly."""
    if version == 2:
        _write(directory, "memory.max", str(memory))
        swap = (("memory.swap.max", 0),)
    else:
        _write(directory, "memory.limit_in_bytes", str(memory))
        swap = (("memory.memsw.limit_in_bytes", memory), ("memory.swappiness", 0))
    for file, value in swap:
        if os.path.exists(os.path.join(directory, file)):  # not on a kernel without swap
            _write(directory, file, str(value))
            return


def _remove(directory: str) -> None:
    try:
        inside = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in filter(SLOT.fullmatch, inside):
        _rmdir(os.path.join(directory, name))
    _rmdir(directory)


def _clear(directory: str) -> None:
    """Removes a group of ours whose owner is gone, with what is still running in it."""
    deadline = time.monotonic() + PATIENCE
    while (members := _members(directory)) and time.monotonic() < deadline:
        for pid in members:  # each may have forked since it was listed: hence the loop
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    _remove(directory)


def _members(directory: str) -> list[int]:
    """The processes in its slots that we can name: 0 is one outside our pid namespace."""
    pids: list[int] = []
    for file in Path(directory).glob("slot-*/cgroup.procs"):
        with contextlib.suppress(FileNotFoundError):  # its daemon was not quite dead and removed it
            pids += [int(pid) for pid in file.read_text().split() if pid != "0"]
    return pids


def _rmdir(directory: str) -> None:
    # A process that has been waited for can be in its group for a moment more.
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if time.monotonic() > deadline:
                left = " ".join(_read(directory, "cgroup.procs").split()) or "none"
                text = f"the group is in use (its processes: {left})"
                raise OSError(errno.EBUSY, text, directory) from error
            time.sleep(0.005)
        else:
            return


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"the group's name is {name!r}, expected words joined by -: sandbox-17-ab")


def _read(directory: str, file: str) -> str:
    # A path of another's making can be any bytes.
    return Path(directory, file).read_text("utf-8", "surrogateescape")


def _write(directory: str, file: str, text: str) -> None:
    path = os.path.join(directory, file)
    try:
        with open(path, "w") as opened:
            opened.write(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
