"""A zygote: has imported a tier's modules and forks slots. It runs no program itself.

    daemon --fork--> zygote of the standard library --fork--> zygote with numpy --fork--> ...
                       |                                        |
                       +--fork--> nurse --fork--> slot          +--> ...

The first zygote moves into the plan's file system and identity before anything is
imported, so the later ones and all slots are born there. A nurse enters the slot's
namespaces and ends at once: the slot's parent is then the daemon.

    {"slot": index}, fds (socket, cgroup files...)   forks a slot
    {"grow": module}, fds (its control socket)       forks the zygote of the next tier
"""

import gc
import os
import platform
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sandbox import cgroup, jail, kernel, limits, messages, program
from sandbox.child import Walls, raise_walls
from sandbox.output import Buffers
from sandbox.plan import Plan
from sandbox.scratch import Scratch
from sandbox.slot import Slot
from sandbox.sweep import sweep

USER = 1000  # who programs are inside a user namespace
HUGE_PAGE = 2 << 20
CONTROL = 3  # the descriptor of a zygote's control socket
DAEMON = 4  # the descriptor that tells of the daemon's end, on Linux
WRITABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")


@dataclass(frozen=True)
class Settings:
    """Sizes in bytes. `scratch` is the common directory of slots without a jail."""

    plan: Plan
    memory: int
    output: int
    quota: int
    scratch: str
    root: bool  # programs have the uid of root on the host
    daemon: int  # its process id


def run(settings: Settings, control: socket.socket) -> None:
    """The first zygote, in a process forked for it. Does not return."""
    own = os.dup2(control.fileno(), CONTROL)
    if kernel.LINUX:
        os.dup2(kernel.watch(settings.daemon), DAEMON, inheritable=False)
    os.closerange(DAEMON + 1, os.sysconf("SC_OPEN_MAX"))
    control.detach()
    _guarded(_enter, settings, socket.socket(fileno=own))


def _guarded(body: Callable[..., None], *arguments: object) -> None:
    """Runs the whole life of a forked process; what goes wrong is one line on stderr."""
    status = 1
    try:
        kernel.die_with_parent()
        body(*arguments)
        status = 0
    except BaseException as error:
        text = str(error) or type(error).__name__
        print(f"{type(error).__name__}: {text}".replace("\n", " "), file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _enter(settings: Settings, control: socket.socket) -> None:
    plan = settings.plan
    libraries = jail.libraries()
    jail.keep_to(libraries)
    try:
        if plan.jail:
            _enter_jail(plan, libraries)
        if plan.uid is not None and not (plan.jail and not plan.user):
            os.setgroups([])
            os.setresgid(plan.uid, plan.uid, plan.uid)
            os.setresuid(plan.uid, plan.uid, plan.uid)
            kernel.die_with_parent()
        program.warm()
    except OSError as error:
        messages.send(control, {"failed": str(error)})
        raise
    _serve(settings, libraries, control)


def _enter_jail(plan: Plan, libraries: Sequence[str]) -> None:
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET
    try:
        kernel.unshare(flags)
    except PermissionError:  # without CAP_SYS_ADMIN, root or not: a user namespace has it
        if plan.uid is not None:
            raise
        uid, gid = os.geteuid(), os.getegid()
        kernel.unshare(kernel.CLONE_NEWUSER | flags)
        kernel.map_identity(USER, uid, gid)
    jail.build(libraries)


def _grow(settings: Settings, libraries: Sequence[str], module: str, control: int) -> None:
    """The zygote of the next tier."""
    sock = socket.socket(fileno=control)
    try:
        program.load(module)
        _check_threads(module)
    except Exception as error:
        messages.send(sock, {"failed": f"{module} of preload does not import: {error}"})
        while messages.receive(sock)[0] is not None:  # no further tier can come from here
            pass
        return
    _serve(settings, libraries, sock)


def _check_threads(module: str) -> None:
    """fork() keeps one thread only, and whatever lock another one held stays held."""
    count = len(os.listdir("/proc/self/task")) if kernel.LINUX else 1
    if count != 1:
        raise RuntimeError(f"it started {count - 1} threads; take it out of preload")


def _serve(settings: Settings, libraries: Sequence[str], control: socket.socket) -> None:
    gc.collect()
    gc.freeze()
    gc.disable()
    _use_huge_pages()
    base = limits.memory_base()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nurses and zygotes reap themselves
    messages.send(control, {"up": True})
    while True:
        try:
            message, fds = messages.receive(control)
        except ConnectionResetError:  # it was closed with a birth unread
            return
        if message is None:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if "grow" in message:
                control.close()
                _guarded(_grow, settings, libraries, message["grow"], *fds)
            _guarded(_nurse, settings, libraries, base, control, message["slot"], fds)
        for fd in fds:
            os.close(fd)


def _nurse(
    settings: Settings,
    libraries: Sequence[str],
    base: tuple[int, int],
    control: socket.socket,
    index: int,
    fds: Sequence[int],
) -> None:
    """Enters the slot's namespaces and cgroups, forks the slot, tells the daemon its pid."""
    plan = settings.plan
    sock, *group = fds
    ooms = group.pop(0) if group else None
    for fd in group:
        os.write(fd, b"0")
        os.close(fd)
    if plan.jail:
        flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
        uid, gid = os.geteuid(), os.getegid()
        if not plan.user:
            kernel.unshare(flags)
        else:
            kernel.unshare(flags | kernel.CLONE_NEWUSER)
            kernel.map_identity(USER, uid, gid)
        socket.sethostname("sandbox")
    ending = kernel.watch(os.getpid())
    heard, announced = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(announced)
        if not os.read(heard, 1):  # the nurse was killed: the daemon will never know of us
            os._exit(1)
        # Only when the nurse has ended is the daemon our parent, with whom to die.
        select.select([ending], [], [])
        for fd in (ending, heard):
            os.close(fd)
        _guarded(_slot, settings, libraries, base, control, index, sock, ooms)
    messages.send(control, {"born": index, "pid": pid})
    os.write(announced, b"x")


def _slot(
    settings: Settings,
    libraries: Sequence[str],
    base: tuple[int, int],
    control: socket.socket,
    index: int,
    sock: int,
    ooms: int | None,
) -> None:
    control.close()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a program may send it to the first process
    try:
        slot = _furnish(settings, libraries, base, index, ooms)
    except Exception as error:
        messages.write(sock, {"failed": str(error)})
        raise
    try:
        slot.serve(sock)
    finally:
        sweep(slot.jailed)
        if not slot.jailed:
            for place in slot.places:
                place.remove()


def _furnish(
    settings: Settings,
    libraries: Sequence[str],
    base: tuple[int, int],
    index: int,
    ooms: int | None,
) -> Slot:
    """The slot in its place, its own walls raised where its plan has them there."""
    plan = settings.plan
    places, own_proc, writable = _places(settings, libraries, index)
    kernel.adopt_orphans()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no program may look into this process
    os.chdir("/")
    # What belongs to root in /proc moves the whole machine; nobody else can write it.
    proc = ["/proc"] if plan.jail and not settings.root else []
    uid = os.geteuid() if plan.uid is None else plan.uid
    others = 0 if plan.user else limits.processes_of(uid)
    walls = Walls(
        plan=plan,
        memory=settings.memory,
        base=base,
        processes=others + limits.PROCESSES,
        home=writable[0],
        temporary="/tmp" if "/tmp" in writable else writable[0],
        readable=["/"] if plan.jail else [*libraries, *jail.SETTINGS, *jail.DEVICES],
        writable=[*writable, *WRITABLE_DEVICES, *proc],
        landlock_may_lack=plan.jail and not settings.root,
        machine=platform.machine(),
    )
    # Programs inherit it: setting it in each of them would cost a tenth of their time.
    os.environ.clear()
    os.environ.update(program.ENVIRONMENT, HOME=walls.home, TMPDIR=walls.temporary)
    if plan.walls and plan.user:
        raise_walls(walls)
    return Slot(
        walls=walls,
        places=places,
        buffers=Buffers(settings.output),
        own_proc=own_proc,
        # In its own pid namespace a slot cannot name the daemon; a kqueue is not inherited.
        daemon=DAEMON if kernel.LINUX else kernel.watch(settings.daemon),
        ooms=(lambda: 0) if ooms is None else partial(cgroup.count_ooms, ooms),
        jailed=plan.jail,
    )


def _places(
    settings: Settings, libraries: Sequence[str], index: int
) -> tuple[list[Scratch], bool, list[str]]:
    """The writable directories, whether /proc is ours, where programs see the directories."""
    plan = settings.plan
    if plan.jail:
        owner = None if plan.user else plan.uid
        places, own_proc = jail.furnish(libraries, settings.quota, owner)
        return places, own_proc, list(jail.places(libraries).values())
    place = Scratch(settings.scratch, 0o700, f"slot-{index}")
    return [place], True, [place.path]


def _use_huge_pages() -> None:
    """Fewer page table entries to copy at every fork: 1.6 ms instead of 2.3 with sympy."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else the next line may not read its own file
    try:
        for low, high in _private_memory():
            kernel.collapse(low, high)
    except OSError:  # an older kernel, or no huge page free: forks are a little slower
        pass
    finally:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def _private_memory() -> list[tuple[int, int]]:
    """Heaps and other anonymous memory that can be written, in whole huge pages."""
    found = []
    with open("/proc/self/maps") as file:
        for line in file:
            span, rights, _, _, _, *name = line.split()
            if "w" in rights and (not name or name == ["[heap]"]):
                low, high = (int(text, 16) for text in span.split("-"))
                low, high = -(-low // HUGE_PAGE) * HUGE_PAGE, high // HUGE_PAGE * HUGE_PAGE
                if low < high:
                    found.append((low, high))
    return found
