"""What an evaluation of tool calling asks: the items of its files, and whom it consults.

This module is part of the words world: no jax.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torl_jax.data import sources
from torl_jax.data.readers import READERS
from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.toolbench import api_bank, bamboogle, judge, search

NAMES = (api_bank.NAME, bamboogle.NAME)


@dataclasses.dataclass(frozen=True)
class Servers:
    """Whom Bamboogle consults; `trained` is a system message of the policy's training, or ""."""

    search: str = ""
    judge: str = ""
    judge_model: str = "gpt-4o"
    literal: str = "python"  # of bamboogle.LITERALS
    trained: str = ""


@dataclasses.dataclass(frozen=True)
class Suite:
    """Items of API-Bank, questions of Bamboogle (either may be empty), and its servers."""

    bank: Sequence[api_bank.Item]
    questions: Sequence[bamboogle.Item]
    system: str
    servers: Servers
    web: search.Server | search.Record | None = None
    referee: judge.Judge | None = None

    @property
    def first(self) -> list[Problem]:
        """Each item's problem, of Bamboogle's dialogues the first."""
        begun = [
            bamboogle.Dialogue(item.question).problem(item, self.system) for item in self.questions
        ]
        return [*(item.problem for item in self.bank), *begun]

    def notes(self) -> list[str]:
        """What a person should know of the items before believing their figures."""
        return [
            *(api_bank.notes(self.bank) if self.bank else ()),
            *(bamboogle.notes(self.questions) if self.questions else ()),
        ]

    def fingerprints(self) -> dict[str, Any]:
        """What the verdicts depend on, as `journal.settle` wants it."""
        found: dict[str, Any] = {}
        if self.bank:
            found[f"benchmark.{api_bank.NAME}"] = digest(*map(repr, self.bank))
        if self.questions:
            model = self.servers.judge_model if isinstance(self.referee, judge.Model) else ""
            found[f"benchmark.{bamboogle.NAME}"] = {
                "questions": digest(*map(repr, self.questions)),
                "system": digest(self.system),
                "literal": self.servers.literal,
                "search": self.servers.search,
                "judge": f"{self.servers.judge} {model}".strip(),
            }
        return found

    def close(self) -> None:
        """Ends what the servers keep."""
        for one in (self.web, self.referee):
            if one is not None:
                one.close()


def read(paths: Mapping[str, str], servers: Servers, most: int = 0) -> Suite:
    """The benchmarks of `paths` (by name), of each level or set the first `most` items (0: all).

    UserError for files that are unusable, and where Bamboogle lacks a server.
    """
    most = most or sys.maxsize
    bank = api_bank.read(paths[api_bank.NAME], most) if api_bank.NAME in paths else []
    if bamboogle.NAME not in paths:
        return Suite(bank, [], "", servers)
    if not servers.search or not servers.judge:
        raise UserError(
            "bamboogle needs --search=URL (or a recorded file) and --judge=URL (a recorded file, "
            "or exact)"
        )
    questions = bamboogle.read(paths[bamboogle.NAME])[:most]
    system = bamboogle.system(servers.trained)
    web, referee = search.of(servers.search), judge.of(servers.judge, servers.judge_model)
    return Suite(bank, questions, system, servers, web, referee)


def chosen(names: Sequence[str]) -> dict[str, str]:
    """The paths of NAME=PATH, by name; UserError for anything else."""
    found: dict[str, str] = {}
    for item in names:
        name, _, path = (part.strip() for part in item.partition("="))
        if name not in NAMES or not path:
            raise UserError(f"benchmark {item!r}: give NAME=PATH, the name of {', '.join(NAMES)}")
        if name in found:
            raise UserError(f"benchmark {name} is given twice; give each once")
        found[name] = path
    return found


def trained(path: str) -> str:
    """The system message of a data file's first row, or what a text file holds; "" for ""."""
    if not path:
        return ""
    if Path(path).suffix in READERS:
        found = sources.read(path)[0].system
    else:
        try:
            found = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"--system={path} cannot be read ({error.strerror})") from None
    try:
        bamboogle.system(found or "-")
    except ValueError as error:
        raise UserError(f"--system={path}: {error}; give a file with such messages") from None
    return found


def digest(*texts: str) -> str:
    """A short name of these texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
