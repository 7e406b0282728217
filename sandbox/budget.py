"""What a sandbox may take of its machine: processors set aside for it, memory counted."""

import os
from collections.abc import Sequence

from sandbox.results import SandboxError

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def set_aside(count: int) -> tuple[int, ...]:
    """Takes the last `count` processors away from this process and returns their numbers.

    For a caller whose own threads shall not compete with programs; to be called before
    they start, and the result given to Sandbox(cores=...). Raises SandboxError where
    none would be left.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise SandboxError("processors cannot be set aside on this system: pass 0")
    ours = sorted(os.sched_getaffinity(0))
    if not 0 < count < len(ours):
        raise SandboxError(
            f"{count} of {len(ours)} processors shall be set aside: at most {len(ours) - 1} can be"
        )
    os.sched_setaffinity(0, ours[:-count])
    return tuple(ours[-count:])


def check_memory(workers: int, megabytes: int) -> None:
    """Raises SandboxError where `workers` programs of that size together exceed the machine."""
    available = available_memory()
    if available is not None and workers * megabytes > available:
        raise SandboxError(
            f"{workers} workers of {megabytes} MB are {workers * megabytes} MB, {available} MB "
            "are available here: fewer workers, or a smaller memory_mb"
        )


def available_memory(meminfo: str = "/proc/meminfo", limits: Sequence[str] = LIMITS) -> int | None:
    """Megabytes that this machine, or the container's limit, still has; None where unknown."""
    try:
        with open(meminfo) as file:
            fields = dict(line.split(":", 1) for line in file)
    except FileNotFoundError:
        return None
    found = [int(fields["MemAvailable"].split()[0]) >> 10]
    for path in limits:
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text) >> 20)
    return min(found)
