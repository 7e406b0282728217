"""The filter, decided by an interpreter of our own for both machines."""

import errno
import platform
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import kernel, seccomp
from sandbox.syscalls import ALLOWED, NUMBERS, REFUSED

ALLOW, KILL, EPERM, ENOSYS, ENOTTY = (
    seccomp.ALLOW,
    seccomp.KILL_PROCESS,
    seccomp.ERRNO | errno.EPERM,
    seccomp.ERRNO | errno.ENOSYS,
    seccomp.ERRNO | errno.ENOTTY,
)
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386, ARM = 0x40000003, 0x40000028
ME = 4242
BY_ARGUMENT = {
    *("clone", "socketpair", "setsockopt", "fcntl", "ioctl", "prctl", "arch_prctl", "personality"),
    *("mknod", "mknodat", "prlimit64", "setpriority", "ioprio_set", "sched_setaffinity"),
    *("sched_setscheduler", "sched_setattr", "sched_setparam"),
}
SIGNALS = {
    *("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
    *("pidfd_open", "pidfd_send_signal"),
}
STARTING = {"fork", "vfork", "execve"}
OPENING = {"open", "openat"}
MODES = [(True, None), (True, ME), (False, None), (False, ME), (True, 0)]


def run(program: bytes, number: int, arch: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would decide; every jump must stay inside and go forward."""
    padded = (*arguments, *([0] * 6))[:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0x7F0000001234, *padded)
    code = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x05:
            at += value
        elif operation == 0x06:
            return value
        else:
            test = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }
            at += yes if test[operation] else no


class Filter:
    def __init__(self, machine: str, processes: bool = True, own_pid: int | None = None) -> None:
        self.machine = machine
        self.program = seccomp.assemble(machine, processes=processes, own_pid=own_pid)

    def __call__(self, call: str | int, *arguments: int) -> int:
        number = NUMBERS[self.machine][call] if isinstance(call, str) else call
        return run(self.program, number, ARCHES[self.machine], arguments)


def _defined(path: str, pattern: str) -> dict[str, int]:
    if not Path(path).exists():
        pytest.skip(f"{path} is not installed (linux-libc-dev)")
    return {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}


def test_the_numbers_of_x86_64_are_the_kernels():
    found = _defined("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+) (\d+)\n")
    ours = NUMBERS["x86_64"]
    assert {name: ours.get(name) for name in found if found[name] <= 452} == {
        name: number for name, number in found.items() if number <= 452
    }
    assert max(ours.values()) <= 452 and not {n for n in ours.values() if 334 < n < 424}


def test_the_numbers_of_aarch64_are_the_kernels():
    found = _defined("/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+) (\d+)\n")
    # The 32 bit calls with 64 bit times, a name for the other byte order, and two counters.
    found = {name: n for name, n in found.items() if not 403 <= n <= 423 and n <= 452}
    for name in ("sync_file_range2", "arch_specific_syscall", "syscalls"):
        del found[name]
    found["newfstatat"] = found.pop("fstatat")
    ours = NUMBERS["aarch64"]
    assert {name: ours.get(name) for name in found} == found


def test_every_name_is_known_and_decided_once():
    known = set().union(*NUMBERS.values())
    groups = [ALLOWED, REFUSED, BY_ARGUMENT, SIGNALS, STARTING]
    assert set().union(*groups) <= known
    assert sum(map(len, groups)) == len(set().union(*groups))


@pytest.mark.parametrize(("processes", "own_pid"), MODES)
@pytest.mark.parametrize("machine", ARCHES)
def test_every_number(machine, processes, own_pid):
    verdict = Filter(machine, processes, own_pid)
    names = {number: name for name, number in NUMBERS[machine].items()}
    start = ALLOW if processes else EPERM
    plain = {**dict.fromkeys(ALLOWED, ALLOW), **dict.fromkeys(REFUSED, EPERM)}
    plain |= dict.fromkeys(STARTING, start) | ({} if processes else {"execveat": EPERM})
    if own_pid is None:
        plain |= dict.fromkeys(SIGNALS, ALLOW)
    else:
        plain |= dict.fromkeys(seccomp.UNKNOWN_TO_LANDLOCK, seccomp.ERRNO) | {"truncate": EPERM}
    for number in range(601):
        name = names.get(number, "")
        if name in BY_ARGUMENT or (name in SIGNALS | OPENING and own_pid is not None):
            continue
        for arguments in ((), (1 << 64) - 1, (1 << 32) | 8, ME):
            six = (arguments,) * 6 if isinstance(arguments, int) else ()
            assert verdict(number, *six) == plain.get(name, ENOSYS), (number, name, six)


@pytest.mark.parametrize("machine", ARCHES)
def test_other_tables_of_the_machine(machine):
    verdict = Filter(machine)
    for number in (*range(601), 0x40000000, 0xFFFFFFFF):
        for arch in (I386, ARM, 0, next(v for k, v in ARCHES.items() if k != machine)):
            assert run(verdict.program, number, arch) == KILL
        assert verdict(0x40000000 + number) == ENOSYS
    assert verdict(0xFFFFFFFF) == ENOSYS


THREAD = 0x3D0F00  # what pthread_create asks for
CASES = [
    ("clone", (17,), ALLOW),
    ("clone", (0x01200011,), ALLOW),  # fork
    ("clone", (0x4111,), ALLOW),  # posix_spawn
    ("clone", (THREAD,), ALLOW),
    *[("clone", (17 | 1 << bit,), EPERM) for bit in (17, 25, 26, 27, 28, 29, 30)],
    *[("clone", (THREAD | 1 << bit,), EPERM) for bit in (17, 25, 26, 27, 28, 29, 30)],
    ("clone", (17 | 0x8000,), EPERM),
    ("clone", ((1 << 32) | 17,), ALLOW),
    ("socketpair", (1, 1), ALLOW),
    ("socketpair", (1, 1 | 0x80800), ALLOW),
    ("socketpair", (1, 5), ALLOW),
    ("socketpair", ((1 << 32) | 1, 1), ALLOW),
    *[("socketpair", (1, kind), EPERM) for kind in (0, 2, 3, 4, 6, 2 | 0x80800)],
    *[("socketpair", (family, 1), EPERM) for family in (0, 2, 10, 16, 17, 30, 38, 40)],
    *[("setsockopt", (9, 1, name), ALLOW) for name in (2, 7, 8, 9, 16, 20, 21)],
    *[("setsockopt", (9, 1, name), EPERM) for name in (26, 50, 51, 32, 33, 36)],
    *[("setsockopt", (9, level, 7), EPERM) for level in (0, 6, 41, 255, 270)],
    *[("fcntl", (3, command), ALLOW) for command in (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032, 37)],
    *[("fcntl", (3, command), EPERM) for command in (8, 10, 15, 1031, 1024, 1026, 1033, 99)],
    ("fcntl", (3, (1 << 32) | 8), EPERM),
    *[("ioctl", (0, command), ALLOW) for command in (0x5401, 0x5413, 0x541B, 0x5421, 0x5451)],
    *[("ioctl", (0, command), EPERM) for command in (0x5412, 0x541C, 0x8901, 0x8902)],
    *[("ioctl", (0, command), ENOTTY) for command in (0, 0x5402, 0x540E, 0x5410, 0x8933, 0x1260)],
    ("ioctl", (0, 0xFFFFFFFF00005412), EPERM),
    *[("prctl", (option,), ALLOW) for option in (3, 15, 16, 38, 39, 0x53564D41)],
    *[("prctl", (option,), EPERM) for option in (1, 4, 8, 22, 24, 35, 36, 47, 0x59616D61)],
    ("personality", (0xFFFFFFFF,), ALLOW),
    *[("personality", (value,), EPERM) for value in (0, 8, 0x40000)],
    *[("mknodat", (-1 & 0xFFFF, 0, mode), ALLOW) for mode in (0o600, 0o100600, 0o10600)],
    *[("mknodat", (3, 0, mode), EPERM) for mode in (0o60600, 0o20600, 0o140600, 0o170600)],
    ("prlimit64", (0,), ALLOW),
    ("prlimit64", (1 << 32,), ALLOW),
    *[("prlimit64", (pid,), EPERM) for pid in (1, ME, (1 << 64) - 1)],
    ("setpriority", (0, 0), ALLOW),
    *[("setpriority", which, EPERM) for which in ((0, ME), (1, 0), (2, 0), (0, 1))],
    ("ioprio_set", (1, 0), ALLOW),
    *[("ioprio_set", which, EPERM) for which in ((1, ME), (2, 0), (3, 0), (0, 0))],
    *[(f"sched_set{name}", (0,), ALLOW) for name in ("affinity", "scheduler", "attr", "param")],
    *[(f"sched_set{name}", (ME,), EPERM) for name in ("affinity", "scheduler", "attr", "param")],
]
X86_CASES = [
    ("mknod", (0, 0o600), ALLOW),
    ("mknod", (0, 0o10600), ALLOW),
    ("mknod", (0, 0o60600), EPERM),
    *[("arch_prctl", (option,), ALLOW) for option in (0x1001, 0x1002, 0x1003, 0x1004, 0x1023)],
    *[("arch_prctl", (option,), EPERM) for option in (0, 0x1011, 0x1012, 0x2001, 0x4002)],
]


@pytest.mark.parametrize("machine", ARCHES)
def test_arguments(machine):
    verdict = Filter(machine)
    cases = CASES + (X86_CASES if machine == "x86_64" else [])
    for call, arguments, expected in cases:
        assert verdict(call, *arguments) == expected, (call, tuple(map(hex, arguments)))
    assert {call for call, _, _ in CASES + X86_CASES} == BY_ARGUMENT


@pytest.mark.parametrize("machine", ARCHES)
def test_without_processes_there_are_threads_only(machine):
    verdict = Filter(machine, processes=False)
    assert verdict("clone", THREAD) == ALLOW
    for flags in (17, 0x01200011, 0x4111, THREAD & ~0x10000, THREAD | 0x20000):
        assert verdict("clone", flags) == EPERM
    assert verdict("execveat") == EPERM and Filter(machine)("execveat") == ENOSYS


@pytest.mark.parametrize("machine", ARCHES)
def test_signals_with_an_own_pid(machine):
    verdict = Filter(machine, own_pid=ME)
    for call in SIGNALS - {"pidfd_open", "pidfd_send_signal"}:
        assert verdict(call, ME, ME) == ALLOW
        assert verdict(call, (7 << 32) | ME) == ALLOW  # the kernel takes an int
        for pid in (1, ME - 1, ME + 1, (1 << 64) - 1, (1 << 64) - ME, ME << 32 | 1):
            assert verdict(call, pid, ME) == EPERM
        assert verdict(call, 0) == (ALLOW if call == "kill" else EPERM)
    assert verdict("pidfd_open", ME) == verdict("pidfd_send_signal", ME) == EPERM


@pytest.mark.parametrize("machine", ARCHES)
def test_signals_of_a_process_whose_id_changes(machine):
    """Its group only, for a killed process's id may be another's by now; or Landlock decides."""
    verdict = Filter(machine, own_pid=0)
    for call in SIGNALS - {"pidfd_open", "pidfd_send_signal"}:
        assert {verdict(call, pid, pid) for pid in (1, ME, (1 << 64) - 1)} == {EPERM}
    assert verdict("kill", 0) == ALLOW
    scoped = seccomp.assemble(machine, processes=True, own_pid=0, scoped=True)
    for call in SIGNALS:
        assert run(scoped, NUMBERS[machine][call], ARCHES[machine], (ME, ME)) == ALLOW
    truncate = NUMBERS[machine]["truncate"]
    assert run(scoped, truncate, ARCHES[machine]) == EPERM  # there still is no jail


@pytest.mark.parametrize("machine", ARCHES)
def test_outside_a_jail_files_are_cut_only_by_opening_them_for_writing(machine):
    cut, create = 0o1000, 0o100
    for call in OPENING & NUMBERS[machine].keys():
        before = (3,) * (call == "openat") + (0x1000,)
        for jailed in (True, False):
            verdict = Filter(machine, own_pid=None if jailed else ME)
            for flags in (0, 1, 2, 3, create, cut | 1, cut | 2, cut | create | 1, 0o2000000):
                assert verdict(call, *before, flags) == ALLOW
            for flags in (cut, cut | 3, cut | create, cut | 0o2000000, cut | 1 << 32):
                assert verdict(call, *before, flags) == (ALLOW if jailed else EPERM)


@given(
    st.dictionaries(st.integers(0, 0xFFFFFFFF) | st.integers(0, 60), st.integers(1, 5)), st.data()
)
def test_a_switch_decides_as_its_table_does(table, data):
    load = (0x20, 0, 0, 16)
    # Blocks so long that three of them are beyond the reach of a conditional jump.
    blocks = {value: ((load,) * 90 + ((0x06, 0, 0, found),)) for value, found in table.items()}
    switch = (load, *seccomp._switch(blocks, ((0x06, 0, 0, 9),)))
    program = b"".join(struct.pack("<HBBI", *instruction) for instruction in switch)
    near = [value + step for value in table for step in (-1, 0, 1)] or [0]
    for value in (0, 0xFFFFFFFF, data.draw(st.sampled_from(near)) & 0xFFFFFFFF):
        assert run(program, 0, 0, (value,)) == table.get(value, 9)


def test_what_is_no_machine_or_no_process_is_refused():
    with pytest.raises(
        ValueError, match=r"^machine is 'riscv64', expected one of x86_64, aarch64$"
    ):
        seccomp.assemble("riscv64", processes=True, own_pid=None)
    with pytest.raises(ValueError, match=r"^own_pid is -1, expected a process id, 0 or None$"):
        seccomp.assemble("x86_64", processes=True, own_pid=-1)


def test_where_there_is_no_filter_it_says_so(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "riscv64" in seccomp.available()
    monkeypatch.setattr(kernel, "LINUX", False)
    assert seccomp.available().startswith("only Linux has seccomp, this is ")
    monkeypatch.undo()
    for number, said in ((errno.ENOSYS, "has no seccomp(2)"), (errno.EPERM, "seccomp(2): as said")):

        def refuse(*_: object, number: int = number) -> int:
            raise OSError(number, "as said")

        monkeypatch.setattr(kernel, "call", refuse)
        assert said in seccomp.available()
