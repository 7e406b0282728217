"""What was seen of one attack, held against what it must and must not do."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox import Result
from tests.sandbox.attacks import attack as attacks
from tests.sandbox.attacks.attack import Attack

SLACK = float(os.environ.get("SANDBOX_SLACK", "1"))
OUTPUT_KB = 64
GROWTH_KB = 48 << 10  # what a process of the sandbox itself may grow during an attack
WITHOUT_NAMESPACES = ("rlimits", "restricted")


@dataclass
class Observed:
    """One attack, after the fact."""

    attack: Attack
    level: str
    result: Result
    wall: float  # seconds
    tokens: tuple[str, ...]  # that no output may contain; the last is an earlier program's
    next_output: str = ""  # of the attack's `then`
    resident: int = 0  # most kB of anonymous memory of its processes at one time
    growth: int = 0  # kB by which a process of the sandbox itself grew
    left_alive: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # what the next program or the trainer finds
    damage: list[str] = field(default_factory=list)  # to the canary or the supervisor


AGAIN = ("@same", "@seed2")


def _escaped(seen: Observed) -> str:
    return seen.result.stdout if "ESCAPED" in seen.result.stdout else ""


def _printed(seen: Observed, tokens: tuple[str, ...]) -> str:
    out = seen.result.stdout + seen.result.stderr
    return "a secret token was printed" if any(token in out for token in tokens) else ""


def _capped(seen: Observed) -> str:
    # Characters: what stands for an undecodable byte takes three bytes of its own.
    sizes = [len(seen.result.stdout), len(seen.result.stderr)]
    return f"{sizes} characters" if max(sizes) > OUTPUT_KB << 10 else ""


def _next(seen: Observed) -> str:
    if seen.attack.then in ("", *AGAIN) or seen.next_output in ("False", "0", "[]"):
        return ""
    return f"it printed {seen.next_output!r}"


def _agree(seen: Observed) -> str:
    same = seen.next_output == seen.result.stdout
    return seen.next_output if seen.attack.then == "@seed2" and same else ""


def _waits(seen: Observed) -> str:
    return _late(seen) if seen.attack.max_wall_s is not None else ""


def _resident(seen: Observed) -> str:
    most = seen.attack.memory_mb << 10
    return f"{seen.resident >> 10} MiB at one time" if seen.resident > 1.1 * most else ""


# Each phrase of must_not: "" or what was seen instead.
CHECKS: dict[str, Callable[[Observed], str]] = {
    attacks.ESCAPED: _escaped,
    attacks.SECRET: lambda seen: _printed(seen, seen.tokens[:-1]),
    attacks.EARLIER: lambda seen: _printed(seen, seen.tokens[-1:]),
    attacks.CAPPED: _capped,
    attacks.SEEN: _next,
    attacks.AGREE: _agree,
    attacks.RESIDENT: _resident,
    attacks.ALIVE: lambda seen: f"pids {seen.left_alive}" if seen.left_alive else "",
    attacks.DEAD: lambda seen: "; ".join(d for d in seen.damage if "the checkpoint" not in d),
    attacks.CHECKPOINT: lambda seen: "; ".join(d for d in seen.damage if "the checkpoint" in d),
    attacks.FILES: lambda seen: "; ".join(seen.left),
    attacks.GROWTH: lambda seen: f"by {seen.growth} kB" if seen.growth > GROWTH_KB else "",
    attacks.WAITS: _waits,
}


def judge(seen: Observed) -> list[str]:
    """All that is wrong, a line each."""
    phrases = dict.fromkeys((*attacks.ALWAYS, *seen.attack.must_not))
    found = [f"{phrase}: {what}" for phrase in phrases if (what := CHECKS[phrase](seen))]
    status, last = seen.result.status, seen.result.stderr.strip().rpartition("\n")[2]
    if status in seen.attack.status:
        found += _texts(seen)
    elif (
        seen.level not in WITHOUT_NAMESPACES or status not in seen.attack.status_without_namespaces
    ):
        found.append(f"status is {status}, expected {seen.attack.status}; stderr ends {last!r}")
    if seen.result.level != seen.level:
        found.append(f"the result's level is {seen.result.level}, expected {seen.level}")
    return found + [line for line in [_late(seen)] if line]


def _late(seen: Observed) -> str:
    most = seen.attack.max_wall_s
    late = most is not None and seen.wall > most * SLACK
    return f"took {seen.wall:.2f} s, at most {most} s are allowed" if late else ""


def _texts(seen: Observed) -> list[str]:
    attack, result = seen.attack, seen.result
    found = [
        f"stdout lacks {part!r}" for part in attack.stdout_contains if part not in result.stdout
    ]
    found += [
        f"stderr lacks {part!r}" for part in attack.stderr_contains if part not in result.stderr
    ]
    if attack.stdout_equals not in (None, result.stdout):
        found.append(f"stdout is {result.stdout[:200]!r}, expected {attack.stdout_equals!r}")
    if attack.then == "@same" and seen.next_output != result.stdout:
        found.append(f"with the same seed it printed {seen.next_output[:200]!r}")
    return found
