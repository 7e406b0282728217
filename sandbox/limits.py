"""Resource limits of one program, set in its own process before its first line."""

import math
import os
import resource

from sandbox import kernel

FILE_BYTES = 64 << 20
OPEN_FILES = 256
PROCESSES = 128
STACKS = 256 << 20  # address space beyond the data limit: thread stacks, shared mappings


def memory_base() -> tuple[int, int]:
    """Bytes of address space and of private data that this process has by now."""
    sizes = {"VmSize": 0, "VmData": 0, "VmStk": 0}
    try:
        with open("/proc/self/status") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name in sizes:
                    sizes[name] = int(value.split()[0]) << 10
    except FileNotFoundError:  # no /proc on this system: what we have by now counts as well
        return 0, 0
    return sizes["VmSize"], sizes["VmData"] + sizes["VmStk"]


def processes_of(uid: int) -> int:
    """How many threads a user has by now; 0 where /proc does not tell."""
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc") if kernel.LINUX else []):
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:  # ended meanwhile, or hidden from us
            continue
    return count


def limit(memory: int, base: tuple[int, int], processes: int) -> None:
    """`memory` bytes above `base`, and the fixed limits on files and descriptors.

    `processes` counts those of the same user in the same user namespace, whoever
    started them; the kernel does not keep root to it. Outside Linux memory is not limited:
    such systems take a limit on it without keeping to it.
    """
    limits = {
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: processes,
    }
    if kernel.LINUX:
        space, data = base
        limits[resource.RLIMIT_AS] = space + memory + STACKS
        limits[resource.RLIMIT_DATA] = data + memory
    for which, value in limits.items():
        _set(which, value, value)


def limit_cpu(seconds: float, hard: float | None = None) -> None:
    """SIGXCPU after `seconds` of processor time, SIGKILL a second after `hard` (or `seconds`)."""
    _set(
        resource.RLIMIT_CPU,
        math.ceil(seconds),
        math.ceil(seconds if hard is None else hard) + 1,
    )


def _set(which: int, soft: int, hard: int) -> None:
    _, ceiling = resource.getrlimit(which)
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(which, (soft, hard))
