"""Generations on disk: whole problems come back, torn ones do not, other settings are refused."""

import os

import pytest
from etils import epath

from torl_jax.episode import End, Episode, Problem, Score
from torl_jax.errors import UserError
from torl_jax.journal import Journal, settle
from torl_jax.metrics import Ratio
from torl_jax.scoreboard import BEHAVIOUR, Answered, Sample


def answered(name, right):
    behaviour = {key: Ratio(i, 2) for i, key in enumerate(BEHAVIOUR)}
    samples = [Sample(r, i, behaviour) for i, r in enumerate(right)]
    return Answered(name, "s", tuple(samples))


def episode(name, sample, end=End.EOS):
    return Episode(Problem(name, "q", "1", "s"), sample, (), (), end)


def journal(folder, samples=2):
    return Journal(folder, "mine", 1, samples)


def add(into, name, ends=(End.EOS, End.EOS)):
    whole = answered(name, [True, False])
    into.add(
        whole,
        [
            into.line(episode(name, i, end), Score(1.0, sample.correct), sample, {})
            for i, (end, sample) in enumerate(zip(ends, whole.samples, strict=True))
        ],
    )
    return whole


def test_a_journal_gives_back_whole_problems(tmp_path):
    folder = epath.Path(tmp_path)
    with journal(folder) as first:
        wholes = [add(first, name) for name in ("a", "b")]
        add(first, "lost", ends=(End.EOS, End.ABORT))
    # Half of c was written, then half a line.
    lines = first.path.read_bytes().splitlines(keepends=True)
    half = lines[0].replace(b'"a"', b'"c"')
    first.path.write_bytes(b"".join(lines) + half + lines[1][:30])
    with journal(folder) as again:
        assert again.answered == {"a": wholes[0], "b": wholes[1]}
        add(again, "c")
    assert list(journal(folder).answered) == ["a", "b", "c"]
    assert first.path.read_bytes().splitlines(keepends=True)[:4] == lines[:4]
    assert not journal(folder, samples=3).answered
    first.path.write_bytes(lines[0] + b"{}\n" + lines[1])
    with pytest.raises(UserError, match="line 2 is not a line of this program"):
        journal(folder)


def test_a_journal_that_was_only_read_is_not_touched(tmp_path):
    folder = epath.Path(tmp_path)
    with journal(folder) as first:
        add(first, "a")
    os.utime(first.path, (1, 1))
    with journal(folder):
        pass
    assert first.path.stat().mtime == 1
    with Journal(folder, "never", 1, 2) as none:
        pass
    assert not none.path.exists()


def test_other_settings_are_refused_by_name(tmp_path):
    folder = epath.Path(tmp_path)
    first = {"checkpoint": "a", "weights": "1", "seed": 0, "k": (1, 2), "benchmark.x": "f"}
    settle(folder, first)
    settle(folder, first | {"checkpoint": "moved"})
    more = {key: value for key, value in first.items() if key != "benchmark.x"}
    settle(folder, more | {"benchmark.y": "g"})
    for changes, message in (
        ({"seed": 1}, "seed=0, this one says seed=1"),
        ({"weights": "2"}, "weights='1' .a., this one says weights='2' .a.; choose another --out"),
        ({"benchmark.x": "h"}, "benchmark.x='f'"),
        ({"new": 3}, "new=None, this one says new=3"),
    ):
        before = (folder / "settings.json").read_bytes()
        with pytest.raises(UserError, match=message):
            settle(folder, first | changes)
        assert (folder / "settings.json").read_bytes() == before
