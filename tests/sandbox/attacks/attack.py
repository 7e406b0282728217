"""One hostile or clumsy program, and what must become of it.

Own programs are `Attack`s in the modules of this folder; `load` reads the shared JSON
format. A key, a need or a phrase that is not known here is an error, never ignored.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATUSES = ("ok", "error", "timeout", "memory", "killed")

# The phrases of must_not. Those in ALWAYS hold for every program.
ESCAPED = "stdout contains ESCAPED"
ALIVE = "a process started by the snippet is alive after the result was returned"
DEAD = "the slot, the supervisor or the canary process dies or hangs"
CAPPED = "more than the output cap is returned"
SECRET = "the secret in the output"
CHECKPOINT = "the checkpoint changed"
FILES = "the wipe fails or leaves files"
SEEN = "the next snippet sees it"
GROWTH = "memory of the supervisor grows with the output"
RESIDENT = "more than limits.memory_mb resident in total"
WAITS = "the result waits for EOF of the pipe"
EARLIER = "any job of an earlier snippet found"
AGREE = "two runs with different seeds agree"
ALWAYS = (ALIVE, DEAD, CAPPED, SECRET, CHECKPOINT, FILES, EARLIER)
PHRASES = (*ALWAYS, ESCAPED, SEEN, GROWTH, RESIDENT, WAITS, AGREE)

# What an attack may need of the level under which it runs.
MEMORY_GROUP = "memory cgroup"
OWN_TMPFS = "private tmpfs (mount namespace)"
NEEDS = {MEMORY_GROUP: ("full+cgroup",), OWN_TMPFS: ("full", "full+cgroup")}

REQUIRED = {"name", "category", "limits", "expect"}
KEYS = REQUIRED | {"code", "code_expr", "then", "note", "needs"}
LIMITS = {"timeout", "memory_mb"}
EXPECT = {
    *("status", "must_not", "max_wall_s", "status_without_namespaces"),
    *("stdout_equals", "stdout_contains", "stderr_contains"),
}


class FormatError(Exception):
    """A file of attacks says what this runner does not understand."""


@dataclass(frozen=True)
class Attack:
    """A program and its verdict. Times are seconds."""

    name: str
    code: str
    status: tuple[str, ...] = ("ok",)
    must_not: tuple[str, ...] = ()
    timeout: float = 2.0
    memory_mb: int = 512
    stdin: str | None = None
    then: str = ""  # run next: must print False, 0 or []; "@same" and "@seed2" run it again
    stdout_equals: str | None = None
    stdout_contains: tuple[str, ...] = ()
    stderr_contains: tuple[str, ...] = ()
    max_wall_s: float | None = None
    status_without_namespaces: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _known(self.name, "status", STATUSES, (*self.status, *self.status_without_namespaces))
        _known(self.name, "phrase in must_not", PHRASES, self.must_not)
        _known(self.name, "need", tuple(NEEDS), self.needs)
        if not self.status:
            raise FormatError(f"{self.name}: no status is expected, name one")

    def lacks(self, level: str) -> str:
        """Why it cannot be run at `level`; empty where it can."""
        missing = [need for need in self.needs if level not in NEEDS[need]]
        return f"needs {', '.join(missing)}" if missing else ""


def load(path: Path) -> list[Attack]:
    """The attacks of a file in the shared format. Raises FormatError."""
    return [_parse(entry) for entry in json.loads(path.read_text("utf-8"))["attacks"]]


def _parse(entry: dict[str, Any]) -> Attack:
    name = entry.get("name", "an attack without a name")
    _known(name, "key", tuple(KEYS), entry)
    if missing := REQUIRED - set(entry):
        raise FormatError(f"{name}: {', '.join(sorted(missing))} is missing")
    limits, expect = entry["limits"], entry["expect"]
    _known(name, "limit", tuple(LIMITS), limits)
    _known(name, "expectation", tuple(EXPECT), expect)
    if ("code" in entry) == ("code_expr" in entry):
        raise FormatError(f"{name}: one of code and code_expr is needed")
    lists = ("status", "must_not", "stdout_contains", "stderr_contains")
    return Attack(
        name=name,
        code=entry["code"] if "code" in entry else eval(entry["code_expr"], {"__builtins__": {}}),
        then=entry.get("then", ""),
        needs=tuple(entry.get("needs", ())),
        stdout_equals=expect.get("stdout_equals"),
        max_wall_s=expect.get("max_wall_s"),
        status_without_namespaces=tuple(expect.get("status_without_namespaces", ())),
        **{key: tuple(expect.get(key, ())) for key in lists},
        **limits,
    )


def _known(name: str, kind: str, known: Sequence[str], found: Sequence[str] | dict) -> None:
    for item in found:
        if item not in known:
            raise FormatError(f"{name}: {kind} {item!r} is unknown, expected one of {known}")
