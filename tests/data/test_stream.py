"""A stream's whole state is its cursor; batches and epochs keep their promises."""

import dataclasses
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.data.stream import Stream, fingerprint, shuffled, split
from torl_jax.episode import Problem
from torl_jax.errors import UserError


def problems(count: int) -> list[Problem]:
    return [Problem(str(n), f"question {n}", str(n)) for n in range(count)]


@given(st.integers(1, 40), st.integers(0, 9), st.lists(st.integers(0, 50), max_size=6))
def test_a_resumed_stream_goes_on_exactly(total: int, seed: int, takes: list[int]) -> None:
    stream = Stream(problems(total), seed)
    for count in takes:
        resumed = Stream(problems(total), seed, cursor=stream.cursor)
        wanted = stream.take(count)
        assert resumed.take(count) == wanted and len(wanted) == count
    assert stream.cursor == sum(takes)


@given(st.integers(1, 40), st.integers(0, 9), st.integers(1, 40), st.integers(1, 12))
def test_no_problem_comes_twice_in_a_take(total: int, seed: int, count: int, takes: int) -> None:
    stream = Stream(problems(total), seed)
    for _ in range(takes):
        batch = stream.take(count)
        assert len(set(batch)) == min(count, total) or count > total


@given(st.integers(3, 40), st.integers(0, 9), st.data())
def test_each_epoch_holds_each_problem_once(total: int, seed: int, data) -> None:
    count = data.draw(st.integers(1, total // 3))
    stream = Stream(problems(total), seed)
    seen = [p.id for _ in range(3 * total) for p in stream.take(count)]
    for epoch in range(3):
        assert Counter(seen[epoch * total : (epoch + 1) * total]) == Counter(map(str, range(total)))


def test_epochs_and_seeds_differ() -> None:
    stream = Stream(problems(50), seed=1)
    first, second = stream.take(50), stream.take(50)
    assert first != second and stream.epoch == 2.0
    assert Stream(problems(50), seed=2).take(50) != first


def test_every_problem_is_as_likely_early_as_late() -> None:
    """The rule at the border must not keep a problem in one half for good."""
    total, epochs = 12, 3000
    stream = Stream(problems(total), seed=0)
    early: Counter[str] = Counter()
    for _ in range(epochs):
        batch = stream.take(total)
        early.update(p.id for p in batch[: total // 2])
    assert all(0.44 < early[str(n)] / epochs < 0.56 for n in range(total))


def test_a_shuffle_is_a_known_permutation() -> None:
    assert shuffled(8, seed=0, epoch=0).tolist() == GOLDEN, (
        "resumed runs would see other data: a change of the shuffle needs a new checkpoint version"
    )
    assert sorted(shuffled(1000, 3, 4).tolist()) == list(range(1000))


GOLDEN = [0, 3, 7, 5, 1, 2, 6, 4]


def test_split_is_disjoint_seeded_and_ordered() -> None:
    train, held = split(problems(20), 5, seed=3)
    assert len(held) == 5 and {p.id for p in train + held} == {str(n) for n in range(20)}
    assert split(problems(20), 5, seed=3) == (train, held)
    assert split(problems(20), 5, seed=4) != (train, held)
    assert [int(p.id) for p in held] == sorted(int(p.id) for p in held)
    assert split(problems(20), 0, seed=3) == (problems(20), [])


def test_a_held_out_question_is_not_trained_on() -> None:
    twice = problems(10) + [Problem(f"again {p.id}", p.question, p.answer) for p in problems(10)]
    train, held = split(twice, 4, seed=0)
    assert not {p.question for p in train} & {p.question for p in held}


def test_a_fingerprint_tells_lists_apart() -> None:
    three = problems(3)
    changed = dataclasses.replace(three[0], answer="9")
    lists = [three, three[:2], three[::-1], [changed, *three[1:]]]
    lists += [
        [Problem("0", "question 0", "0question 1")],
        [Problem("0", "question 00", "question 1")],
        [dataclasses.replace(three[0], system="told"), *three[1:]],
        [*three[:2], dataclasses.replace(three[2], system="told")],
    ]
    assert len({fingerprint(each) for each in lists}) == len(lists)
    assert fingerprint(three) == GOLDEN_PRINT, "resumed runs would be refused"


GOLDEN_PRINT = "4a5fe9ba0b8cf7b3"


def test_a_stream_goes_on_with_the_same_problems_only() -> None:
    before = Stream(problems(3), 0).fingerprint
    assert before == GOLDEN_PRINT
    assert Stream(problems(3), 0, cursor=2, before=before).cursor == 2
    with pytest.raises(UserError, match=r"have changed since the checkpoint .*4a5fe9ba0b8cf7b3"):
        Stream(problems(4), 0, cursor=2, before=before)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(UserError, match="no problems"):
        Stream([], 0)
    with pytest.raises(ValueError, match="negative"):
        Stream(problems(1), 0, cursor=-1)
    with pytest.raises(UserError, match="10 problems cannot be held out of 10"):
        split(problems(10), 10, 0)
    with pytest.raises(UserError, match="no other question"):
        split(problems(1) * 2, 1, 0)


def test_the_words_import_no_jax() -> None:
    modules = ["episode", "data.sources", "data.stream", "protocols.torl", "protocols.text"]
    modules += ["rewards.outcome", "envs.python", "envs.recorded"]
    code = "".join(f"import torl_jax.{m}\n" for m in modules)
    code += "import sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
