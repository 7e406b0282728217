"""What is asked twice or held out is found, what only sounds alike is not."""

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.data import sources
from torl_jax.data.clean import alike, common, decontaminate, dedup, words
from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.protocols.dialogue import HISTORY


def problem(question: str, answer: str = "1", name: str = "", source: str = "s") -> Problem:
    return Problem(name or question, question, answer, source)


def test_questions_asked_twice() -> None:
    twice = [problem("a b"), problem("c"), problem("A  b\n"), problem("c", name="again")]
    kept, lines = dedup(twice, drop=True)
    assert [p.id for p in kept] == ["a b", "c"]
    assert lines == ["2 of 4 training problems ask a question again; dropped: 2 are left"]
    kept, lines = dedup(twice, drop=False)
    assert kept == twice and "kept: config.data.dedup=True drops them" in lines[0]
    assert dedup(twice[:2], drop=True) == (twice[:2], [])


def test_disputed_answers_are_all_dropped_and_counted() -> None:
    rows = [
        problem("a", "1", "one"),
        problem("b"),
        problem("A", "2", "two"),
        problem("a", "1", "x"),
    ]
    kept, lines = dedup(rows, drop=True)
    assert [p.id for p in kept] == ["b"]
    assert "1 questions (3 problems) have different answers (one)" in lines[0]
    assert "1 are left" in lines[0]
    assert len(dedup([problem("a", "(1, 2)"), problem("a", "(1,2)")], drop=True)[0]) == 1
    with pytest.raises(UserError, match="no problem is left"):
        dedup(rows[::2], drop=True)


@given(st.lists(st.tuples(st.sampled_from("aAbc "), st.sampled_from("12")), max_size=12))
def test_each_question_is_kept_once_and_in_order(pairs: list[tuple[str, str]]) -> None:
    rows = [problem(q, a, name=str(n)) for n, (q, a) in enumerate(pairs)]
    try:
        kept, _ = dedup(rows, drop=True)
    except UserError:
        kept = []
    answers: dict[str, set[str]] = {}
    for q, a in pairs:
        answers.setdefault(q.strip().casefold(), set()).add(a)
    assert len(kept) == sum(len(found) == 1 for found in answers.values())
    numbers = [int(p.id) for p in kept]
    assert numbers == sorted(numbers)
    assert len({p.question.strip().casefold() for p in kept}) == len(kept)


LONG = "A train leaves the first station at noon and the second at 3 p.m., how far apart are they?"
TAIL = "The area is m/n, where m and n are relatively prime positive integers. Find the sum m + n."


def turn(*calls: str, thought: str = "Hm.", said: str = "") -> str:
    block = "".join(f"\n{call}" for call in calls)
    return f"<think> {thought} </think>\n<tool_call>{block}\n</tool_call>{said}"


def test_turns_are_the_same_where_their_calls_are_and_the_tools() -> None:
    first = Problem("first", "Rain?", turn("{1}"), "s", "tools: a")
    again = dataclasses.replace(first, id="again", answer=turn("{1}", thought="Oh.", said="Yes."))
    other = dataclasses.replace(first, id="other", answer=turn("{2}"))
    apart = dataclasses.replace(other, id="apart", system="tools: b")
    kept, (line,) = dedup([first, again, apart], drop=True)
    assert kept == [first, apart] and "different answers" not in line
    kept, (line,) = dedup([first, other, apart], drop=True)
    assert kept == [apart] and "1 questions (2 problems) have different answers (first)" in line


def dialogue(*turns: str, gold: str = turn("{1}")) -> Problem:
    """A step whose history has a question, then by turns what was called and told or asked."""
    parts = [f"<user> {turns[0]} </user>"]
    for k, said in enumerate(turns[1:]):
        parts.append(f"<user> {said} </user>" if k % 2 else f"{turn(said)}\n<obs> [] </obs>")
    return problem(f"{HISTORY}\n" + "\n\n".join(parts), gold, " | ".join(turns))


ASKED = "Tell me please what the weather will be like over the whole of the next week in"


def test_dialogues_that_differ_in_a_word_are_others() -> None:
    """What users of one set of tools say is alike: likeness of words would drop nearly all."""
    held = [dialogue(f"{ASKED} Oslo?"), dialogue(f"{ASKED} Oslo?", "{1}")]
    rows = [dialogue(f"{ASKED} Rome?"), dialogue(f"{ASKED} Rome?", "{1}")]
    kept, (line,) = decontaminate(rows, held, 13)
    assert kept == rows
    assert line == "none of 2 training problems is like one of 2 held out"
    # Their words are no question's, nor a question's words theirs.
    texts = [problem(row.question.removeprefix("**")) for row in rows]
    assert decontaminate(texts, rows, 13)[0] == texts
    assert decontaminate(rows, texts, 13)[0] == rows


def test_a_dialogue_is_dropped_where_it_is_held_out_or_goes_on_from_one() -> None:
    held = [dialogue(f"{ASKED} Oslo?"), dialogue("Hello!", gold="<think> t </think>\nHi.")]
    rows = [
        dialogue(f"{ASKED.upper()}  Oslo"),
        dialogue("hello", gold="<think> t </think>\nYes?"),
        dialogue(f"{ASKED} Oslo?", "{2}"),
        dialogue(f"{ASKED} Oslo?", "{2}", "And in Rome?", "{3}"),
        # The held-out turn that is shown here calls nothing, so nothing of it counts.
        dialogue("Hello!", "{2}"),
        dialogue(f"{ASKED} Oslo? And Rome?", "{2}"),
    ]
    kept, (line,) = decontaminate(rows, held, 13)
    assert kept == rows[4:]
    assert line.startswith("4 of 6 training problems dropped: like one held out (s 4; ")
    assert "that is equal or going on from one; config.data.decontaminate=0" in line
    # Other tools make no other dialogue of it: a split holds out questions.
    other = dataclasses.replace(rows[0], system="other tools")
    assert decontaminate([other, rows[5]], held, 13)[0] == [rows[5]]
    assert decontaminate(rows, held, 0) == (rows, [])


def test_both_kinds_in_one_set() -> None:
    held = [problem(LONG, source="aime"), dialogue("Rain?")]
    rows = [problem(f"Read: {LONG}", name="within"), dialogue("Rain?"), dialogue("Snow?")]
    kept, (line,) = decontaminate(rows, held, 13)
    assert kept == rows[2:]
    assert "(aime 1, s 1; within, Rain?), that is equal or going on from one or with 13" in line


def test_tool_dialogues_against_the_released_test_rows(shared: Path) -> None:
    held = sources.read(shared / "data/toolrl/rlla_test.parquet")
    rows = sources.read(shared / "data/toolrl/rlla_sft.json")
    assert dedup(rows, drop=True) == (rows, [])
    kept, (line,) = decontaminate(rows, held, 13)
    # One goes on from where a test row ends, one is a test row.
    assert {p.id for p in rows} - {p.id for p in kept} == {"rlla_sft/341", "rlla_sft/393"}
    assert line.startswith("2 of 400 training problems dropped")


def test_a_held_out_question_is_dropped_whatever_its_marks() -> None:
    held = [problem(LONG, source="aime"), problem("2+2?", source="amc"), problem(LONG, source="b")]
    rows = [
        problem("unlike all", name="kept"),
        problem(LONG.upper().replace(" ", "\n"), name="marks"),
        problem(f"Read: {LONG} In km.", name="within"),
        problem("$2 + 2$", name="short"),
        problem("2+2+2?", name="other"),
    ]
    kept, (line,) = decontaminate(rows, held, 13)
    assert [p.id for p in kept] == ["kept", "other"]
    assert line.startswith("3 of 5 training problems dropped")
    assert "(aime 2, amc 1, b 2; marks, within, short)" in line
    assert decontaminate(rows, held, 0) == (rows, [])
    assert decontaminate(rows, [], 13) == (rows, [])


def test_a_phrase_alone_is_no_held_out_question() -> None:
    circles = "Two circles of radius 5 meet at right angles inside a square whose sides touch both."
    cone = "Cut in half by planes parallel to its base, cones with height 12 become 7 solids"
    held, rows = [problem(f"{circles} {TAIL}")], [problem(f"{cone}: how large is one? {TAIL}")]
    kept, (line,) = decontaminate(rows, held, 13)
    assert kept == rows
    assert line.startswith("none of 1 training problems is like one of 1 held out")
    assert line.endswith("1 share 13 words in a row only, and are kept")


def test_words_in_a_row_are_needed_too() -> None:
    other = " ".join(f"{word} oh" for word in LONG.split())
    assert alike(words(LONG), words(other))
    assert decontaminate([problem(other)], [problem(LONG)], 13)[0]


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(UserError, match="no problem is left to train on"):
        decontaminate([problem(LONG)], [problem(LONG)], 13)


def test_questions_without_words_are_compared_as_they_are() -> None:
    kept, _ = decontaminate([problem("∫ + ∮"), problem("∮")], [problem(" ∮ ")], 13)
    assert [p.question for p in kept] == ["∫ + ∮"]


def slow(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    for size in range(len(one), 0, -1):
        for chosen in itertools.combinations(one, size):
            rest = iter(other)
            if all(word in rest for word in chosen):
                return size
    return 0


WORDS = st.lists(st.sampled_from("abc"), max_size=7).map(tuple)


@given(WORDS, WORDS)
def test_the_longest_common_subsequence(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert common(one, other) == slow(one, other) == common(other, one)


def test_math_against_the_evaluation_sets(shared) -> None:
    data = shared / "data" / "math"
    training = sources.read(data / "math_level3to5_train.parquet", bad_rows="skip")
    for name, dropped, phrases in [
        ("math500_test.parquet", 103, 87),
        ("aime24_test.jsonl", 0, 70),
        ("amc23_test.jsonl", 0, 10),
    ]:
        kept, (line,) = decontaminate(training, sources.read(data / name), 13)
        assert len(training) - len(kept) == dropped and f"; {phrases} share" in line
