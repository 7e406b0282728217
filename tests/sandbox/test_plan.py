"""Ways to hold a program, and what a sandbox may take of its machine."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import LEVELS, SandboxError, budget
from sandbox.plan import NOBODY, plans, rank

MEMINFO = "MemTotal:  16000000 kB\nMemFree:  1 kB\nMemAvailable:  4194304 kB\n"
EACH = pytest.mark.parametrize("privileged", [True, False])


@EACH
@pytest.mark.parametrize("most", LEVELS)
def test_the_tightest_way_comes_first_and_none_goes_beyond_what_is_wanted(privileged, most):
    found = plans(privileged, most)
    ranks = [rank(way.level) for way in found]
    assert ranks == sorted(ranks, reverse=True)
    assert max(ranks) == min(rank(most), rank("full"))  # a cgroup is added to a plan, no plan
    assert found[-1].level == "rlimits" and not found[-1].walls  # there is always one that holds
    assert len(set(found)) == len(found)


@EACH
def test_levels_mean_the_same_walls_in_every_way(privileged):
    for way in plans(privileged, LEVELS[-1]):
        assert way.jail == (way.level == "full")
        assert way.walls == (way.level != "rlimits")
        assert way.jail or not way.user


def test_root_is_nobody_where_that_is_possible_and_another_user_stays_himself():
    for level in ("full", "restricted", "rlimits"):
        ways = [way for way in plans(True, LEVELS[-1]) if way.level == level]
        assert ways[0].uid == NOBODY
    assert {way.uid for way in plans(False, LEVELS[-1])} == {None}


@EACH
def test_a_plan_reads_as_one_line_of_its_own(privileged):
    lines = [str(way) for way in plans(privileged, LEVELS[-1])]
    assert len(set(lines)) == len(lines)
    assert all(line and "\n" not in line and not line.startswith(",") for line in lines)
    assert lines[0].startswith("namespaces, user namespaces, ")


def test_no_level_at_all_ranks_below_every_level():
    assert [rank(level) for level in ("", *LEVELS)] == [-1, 0, 1, 2, 3]


@pytest.fixture
def processors(monkeypatch):
    """Four processors, and what becomes of the caller's."""
    left: list[list[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5, 7}, raising=False)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, cores: left.append(cores), raising=False
    )
    return left


@pytest.mark.parametrize(("count", "theirs", "ours"), [(1, (7,), [0, 2, 5]), (3, (2, 5, 7), [0])])
def test_the_last_processors_are_set_aside_and_the_caller_keeps_the_rest(
    processors, count, theirs, ours
):
    assert budget.set_aside(count) == theirs
    assert processors == [ours]


@pytest.mark.parametrize("count", [0, -1, 4, 9])
def test_at_least_one_processor_stays_on_each_side(processors, count):
    with pytest.raises(SandboxError, match=f"{count} of 4 processors.*at most 3"):
        budget.set_aside(count)
    assert processors == []


def test_a_system_without_processor_sets_says_what_to_do(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity")
    with pytest.raises(SandboxError, match="pass 0"):
        budget.set_aside(1)


@pytest.mark.parametrize(
    ("limits", "megabytes"),
    [
        ([], 4096),
        (["max\n"], 4096),
        (["9223372036854771712\n"], 4096),
        ([f"{3 << 30}\n"], 3072),
        ([f"{3 << 30}\n", f"{2 << 30}\n"], 2048),
    ],
)
def test_available_memory_is_the_least_of_machine_and_container(tmp_path, limits, megabytes):
    (tmp_path / "meminfo").write_text(MEMINFO)
    paths = [str(tmp_path / f"limit-{n}") for n in range(len(limits))]
    for path, text in zip(paths, limits, strict=True):
        with open(path, "w") as file:
            file.write(text)
    found = budget.available_memory(str(tmp_path / "meminfo"), [*paths, str(tmp_path / "none")])
    assert found == megabytes


def test_where_memory_is_unknown_nothing_is_refused(tmp_path, monkeypatch):
    assert budget.available_memory(str(tmp_path / "none")) is None
    monkeypatch.setattr(budget, "available_memory", lambda: None)
    budget.check_memory(10_000, 10_000)


@given(st.integers(1, 100), st.integers(1, 100_000), st.integers(1, 1_000_000))
def test_workers_that_fit_are_accepted_and_others_are_refused_with_the_sum(
    workers, megabytes, available
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "available_memory", lambda: available)
        if workers * megabytes <= available:
            budget.check_memory(workers, megabytes)
            return
        with pytest.raises(SandboxError) as caught:
            budget.check_memory(workers, megabytes)
    text = str(caught.value)
    assert f"are {workers * megabytes} MB, {available} MB" in text and "memory_mb" in text


def test_this_machine_has_some_memory():
    found = budget.available_memory()
    assert found is None or 0 < found < 1 << 30
