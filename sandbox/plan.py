"""Ways to hold a program, from the tightest to the loosest; the first that is proven is taken.

jail     own file system, process ids, network and IPC: namespaces, for the level "full"
user     each slot in a user namespace of its own, so that even its master is nobody
uid      who programs are on the host; None is the caller
walls    seccomp and Landlock
"""

from dataclasses import dataclass

from sandbox import kernel

LEVELS = ("rlimits", "restricted", "full", "full+cgroup")
NOBODY = 65534


def rank(level: str) -> int:
    """Its place among LEVELS; -1 for "", where programs do not work at all."""
    return LEVELS.index(level) if level else -1


@dataclass(frozen=True)
class Plan:
    """One way. `level` is the most that it can reach."""

    level: str
    jail: bool
    user: bool
    uid: int | None
    walls: bool

    def __str__(self) -> str:
        parts = [
            "namespaces" if self.jail else "",
            "user namespaces" if self.user else "",
            "the caller's uid" if self.uid is None else f"uid {self.uid}",
            "seccomp, Landlock" if self.walls else "",
        ]
        return ", ".join(part for part in parts if part)


def plans(privileged: bool, most: str) -> list[Plan]:
    """The ways to try, best first, none of which reaches beyond the level `most`."""
    uids = (NOBODY, None) if privileged else (None,)
    if not kernel.LINUX:
        return [Plan("rlimits", False, False, uid, False) for uid in uids]
    ways = [Plan("full", True, True, uid, True) for uid in uids]
    if privileged:
        ways.append(Plan("full", True, False, NOBODY, True))
    ways += [Plan("restricted", False, False, uid, True) for uid in uids]
    ways += [Plan("rlimits", False, False, uid, False) for uid in uids]
    return [way for way in ways if LEVELS.index(way.level) <= LEVELS.index(most)]
