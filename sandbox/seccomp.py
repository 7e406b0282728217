"""A seccomp filter for Python programs: what it does not name, they cannot call.

    install(assemble(platform.machine(), processes=True, own_pid=None))  # in a jail

The filter is classic BPF, put together here. It decides by the number of the call and,
for the calls in _rules, by the arguments that are passed in registers; what a pointer
points to cannot be looked at. Everything else is decided by name in syscalls.py.

Installing is the last step of a jail: afterwards neither mounts, identities nor
namespaces can change, in this process and in all that it starts.
"""

import ctypes
import errno
import os
import platform
import stat
import struct
import sys
from collections.abc import Iterable, Mapping

from sandbox import kernel
from sandbox.syscalls import ALLOWED, NUMBERS, REFUSED

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value
Block = tuple[Instruction, ...]  # ends with a verdict on every path, so it never falls through

LOAD, AND = 0x20, 0x54  # BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K
JUMP, EQUAL, AT_LEAST, ANY_BIT = 0x05, 0x15, 0x35, 0x45  # BPF_JMP | JA, JEQ, JGE, JSET
RETURN = 0x06
JUMP_MAX = 255  # of a conditional jump; JUMP alone reaches further
PROGRAM_MAX = 4096

NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*

KILL_PROCESS, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL = 1, 2

CLONE_THREAD, CLONE_PARENT = 0x00010000, 0x00008000
CLONE_NEW = 0x7E020000  # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
FCNTL_COMMANDS = (
    *range(8),  # F_DUPFD to F_SETLKW
    *(9, 11, 16),  # F_GETOWN, F_GETSIG, F_GETOWN_EX
    *(36, 37, 38),  # F_OFD_*: locks
    *(1025, 1030, 1032, 1034),  # F_GETLEASE, F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS
)
IOCTL_COMMANDS = (
    *(0x5401, 0x802C542A, 0x5413, 0x540F),  # TCGETS, TCGETS2, TIOCGWINSZ, TIOCGPGRP
    *(0x5411, 0x541B, 0x5421, 0x5450, 0x5451),  # TIOCOUTQ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    0x40049409,  # FICLONE
)
IOCTL_REFUSED = (0x5412, 0x541C, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
PRCTL_OPTIONS = (
    *(2, 3, 15, 16),  # PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME
    *(21, 23, 30),  # PR_GET_SECCOMP, PR_CAPBSET_READ, PR_GET_TIMERSLACK
    *(38, 39, 42),  # PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_GET_THP_DISABLE
    *(51, 56, 0x53564D41),  # PR_SVE_GET_VL, PR_GET_TAGGED_ADDR_CTRL, PR_SET_VMA
)
ARCH_PRCTL_OPTIONS = (
    *range(0x1001, 0x1005),  # the FS and GS registers: every new program and thread
    *(0x1021, 0x1022, 0x1023),  # ARCH_GET_XCOMP_SUPP, _GET_XCOMP_PERM, _REQ_XCOMP_PERM
    *(0x3001, *range(0x5001, 0x5006)),  # shadow stacks, asked for by the loader
)
SOCKET_OPTIONS = (
    *(2, 7, 8, 9),  # SO_REUSEADDR, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE
    *(16, 20, 21),  # SO_PASSCRED, SO_RCVTIMEO, SO_SNDTIMEO
)
AF_UNIX, SOL_SOCKET, SOCK_STREAM, SOCK_SEQPACKET = 1, 1, 1, 5
REASONS = {
    errno.ENOSYS: "the kernel or an outer filter has no seccomp(2)",
    errno.EINVAL: "the kernel was built without seccomp filters",
    errno.EOPNOTSUPP: "the kernel is older than 4.14",
}


# What Landlock does not know. An open file is enough for some, also one that may only be read.
UNKNOWN_TO_LANDLOCK = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat"),
)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def assemble(machine: str, *, processes: bool, own_pid: int | None, scoped: bool = False) -> bytes:
    """The filter for `machine` (as platform.machine() says it), ready for install().

    `processes`: whether programs may start processes; threads they always may.
    `own_pid`: None in a jail. Otherwise signals reach the process of that id only (none
    for 0), and its group, which must be one of its own; and what Landlock does not know
    is kept from the files of others. `scoped`: Landlock keeps signals in, to whomever.
    ValueError for a machine without tables, or an id that is none.
    """
    if machine not in NUMBERS:
        raise ValueError(f"machine is {machine!r}, expected one of {', '.join(NUMBERS)}")
    if own_pid is not None and own_pid < 0:
        raise ValueError(f"own_pid is {own_pid}, expected a process id, 0 or None")
    decisions = dict.fromkeys(ALLOWED, _verdict(ALLOW))
    decisions |= dict.fromkeys(REFUSED, _refuse(errno.EPERM))
    decisions |= _rules(processes) | _signals(None if scoped else own_pid)
    if own_pid is not None:
        decisions |= _outside()
    numbers = NUMBERS[machine]
    cases = {numbers[name]: block for name, block in decisions.items() if name in numbers}
    # The second table of x86_64 (x32) begins at bit 30: beyond all numbers, so ENOSYS.
    by_number = _of(NUMBER, _switch(cases, _refuse(errno.ENOSYS)))
    program = _of(ARCH, _if(EQUAL, ARCHES[machine], by_number, _verdict(KILL_PROCESS)))
    if len(program) > PROGRAM_MAX:
        raise ValueError(f"the filter has {len(program)} instructions, {PROGRAM_MAX} at most")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def install(bpf: bytes) -> None:
    """Puts the calling thread under a filter, for good. OSError where the kernel refuses."""
    program = _Program(len(bpf) // 8, bpf)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    try:
        _seccomp(SECCOMP_SET_MODE_FILTER, ctypes.byref(program))
    except OSError as error:
        number = error.errno or 0
        raise OSError(number, f"seccomp filter: {os.strerror(number)}") from error


def available() -> str:
    """Empty where install() will work, else one line that says why not. Changes nothing."""
    machine = platform.machine()
    if not kernel.LINUX:
        return f"only Linux has seccomp, this is {sys.platform}"
    if machine not in NUMBERS or ctypes.sizeof(ctypes.c_void_p) != 8:
        bits = 8 * ctypes.sizeof(ctypes.c_void_p)
        return f"a {bits} bit Python on {machine}, expected 64 bit on {' or '.join(NUMBERS)}"
    try:
        _seccomp(SECCOMP_GET_ACTION_AVAIL, ctypes.byref(ctypes.c_uint32(KILL_PROCESS)))
    except OSError as error:
        return REASONS.get(error.errno or 0, f"seccomp(2): {error.strerror}")
    return ""


def _seccomp(operation: int, argument: object) -> None:
    number = NUMBERS[platform.machine()]["seccomp"]
    kernel.call("syscall", *map(ctypes.c_long, (number, operation, 0)), argument)


def _rules(processes: bool) -> dict[str, Block]:
    """The calls that depend on arguments or on what was asked for."""
    allow, refuse = _verdict(ALLOW), _refuse(errno.EPERM)
    itself = _only(0, (0,))
    return {
        "clone": _clone(processes),
        **dict.fromkeys(("fork", "vfork", "execve"), allow if processes else refuse),
        # Where processes are allowed it does not exist: the C library then executes
        # /proc/self/fd/N with execve.
        **({} if processes else {"execveat": refuse}),
        "socketpair": _socketpair(),
        "setsockopt": _only(1, (SOL_SOCKET,), _only(2, SOCKET_OPTIONS)),
        "fcntl": _only(1, FCNTL_COMMANDS),
        # "No terminal" is what programs expect of an ioctl that a file does not have.
        "ioctl": _argument(
            1,
            _switch(
                dict.fromkeys(IOCTL_COMMANDS, allow) | dict.fromkeys(IOCTL_REFUSED, refuse),
                _refuse(errno.ENOTTY),
            ),
        ),
        # Not PR_SET_PDEATHSIG: it would take back what ends a program with its supervisor.
        # Not PR_SET_DUMPABLE: it would open a process that we closed to its siblings.
        "prctl": _only(0, PRCTL_OPTIONS),
        "arch_prctl": _only(0, ARCH_PRCTL_OPTIONS),
        "personality": _only(0, (0xFFFFFFFF,)),  # asks, changes nothing
        "mknod": _node(1),
        "mknodat": _node(2),
        "prlimit64": itself,
        "setpriority": _only(0, (os.PRIO_PROCESS,), _only(1, (0,))),
        "ioprio_set": _only(0, (1,), _only(1, (0,))),  # IOPRIO_WHO_PROCESS, itself
        **dict.fromkeys(
            ("sched_setaffinity", "sched_setscheduler", "sched_setattr", "sched_setparam"), itself
        ),
    }


def _outside() -> dict[str, Block]:
    """Without a jail Landlock is all that keeps files away: here is what it lets pass."""
    # Before version 3 a file may be cut by path, or while it is opened for no writing.
    cut = (os.O_TRUNC | os.O_RDONLY, os.O_TRUNC | os.O_ACCMODE)
    flags = dict.fromkeys(cut, _refuse(errno.EPERM))
    mask = os.O_TRUNC | os.O_ACCMODE
    opening = ((AND, 0, 0, mask), *_switch(flags, _verdict(ALLOW)))
    return {
        "truncate": _refuse(errno.EPERM),
        "open": _argument(1, opening),
        "openat": _argument(2, opening),
        # They do nothing and say no error, so that copying a file with its mode still works.
        **dict.fromkeys(UNKNOWN_TO_LANDLOCK, _refuse(0)),
    }


def _signals(own_pid: int | None) -> dict[str, Block]:
    sending = ("tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
    handles = ("pidfd_open", "pidfd_send_signal")
    if own_pid is None:
        return dict.fromkeys(("kill", *sending, *handles), _verdict(ALLOW))
    return {
        "kill": _only(0, (own_pid, 0)),
        **dict.fromkeys(sending, _only(0, (own_pid,))),
        **dict.fromkeys(handles, _refuse(errno.EPERM)),
    }


def _clone(processes: bool) -> Block:
    """No namespaces, and no child that is our parent's: it could send that any signal."""
    allow, refuse = _verdict(ALLOW), _refuse(errno.EPERM)
    process = _if(ANY_BIT, CLONE_PARENT, refuse, allow) if processes else refuse
    return _argument(0, _if(ANY_BIT, CLONE_NEW, refuse, _if(ANY_BIT, CLONE_THREAD, allow, process)))


def _socketpair() -> Block:
    """A local pair of streams. A datagram socket can send to any name, pair or not."""
    # The mask leaves out SOCK_NONBLOCK and SOCK_CLOEXEC.
    kind = _only(1, (SOCK_STREAM, SOCK_SEQPACKET), mask=0xF)
    return _only(0, (AF_UNIX,), kind)


def _node(mode: int) -> Block:
    """Regular files and pipes; no devices, no sockets."""
    return _only(mode, (0, stat.S_IFREG, stat.S_IFIFO), mask=0o170000)


def _only(
    index: int,
    values: Iterable[int],
    then: Block | None = None,
    mask: int = 0xFFFFFFFF,
) -> Block:
    """`then` (allow) where the masked argument is one of `values`, else EPERM."""
    switch = _switch(dict.fromkeys(values, then or _verdict(ALLOW)), _refuse(errno.EPERM))
    return _argument(index, switch if mask == 0xFFFFFFFF else ((AND, 0, 0, mask), *switch))


def _argument(index: int, block: Block) -> Block:
    # The low half: all arguments looked at are ints to the kernel, which ignores the rest.
    return _of(ARGUMENTS + 8 * index, block)


def _of(offset: int, block: Block) -> Block:
    return ((LOAD, 0, 0, offset), *block)


def _verdict(value: int) -> Block:
    return ((RETURN, 0, 0, value),)


def _refuse(number: int) -> Block:
    return _verdict(ERRNO | number)


def _if(test: int, value: int, yes: Block, no: Block) -> Block:
    if len(yes) <= JUMP_MAX:
        return ((test, 0, len(yes), value), *yes, *no)
    return ((test, 1, 0, value), (JUMP, 0, 0, len(yes)), *yes, *no)


def _switch(cases: Mapping[int, Block], otherwise: Block) -> Block:
    """By value: a tree over the ranges of values that share a block."""
    starts = {0: otherwise}
    for value in sorted(cases):
        starts[value] = cases[value]
        starts[value + 1] = otherwise
    starts.pop(1 << 32, None)
    ranges: list[tuple[int, Block]] = []
    for start, block in starts.items():
        if not ranges or ranges[-1][1] != block:
            ranges.append((start, block))
    return _tree(ranges)


def _tree(ranges: list[tuple[int, Block]]) -> Block:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    start = ranges[middle][0]
    return _if(AT_LEAST, start, _tree(ranges[middle:]), _tree(ranges[:middle]))
