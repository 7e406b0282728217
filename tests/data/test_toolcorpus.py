"""Every habit and flaw is there, costs what it should, and is blind to the request."""

import collections
import json
import random

import pytest
from tokenizers import Tokenizer

from torl_jax import gate
from torl_jax.data import corpora, requests, rows, toolcorpus, vocabulary
from torl_jax.data.toolcorpus import DRILLS, FLAWS, HABITS, RIGHT, document
from torl_jax.episode import Author
from torl_jax.protocols.chat import ChatTemplate
from torl_jax.rewards.toolrl import ToolRLReward, score

FINE = ToolRLReward()
AFTER = corpora.TOOLS.typical  # the first document after the drills


def gold(index: int, kinds=toolcorpus.KINDS, held_out: bool = False) -> str:
    """Of the problem of document `index` of stream 0."""
    return requests.gold(requests.request(toolcorpus.STREAM, index, kinds, held_out)[0])


def text(index: int, style: str | None = None, kinds=toolcorpus.KINDS) -> str:
    return document(0, index, style, kinds).pieces[1][1]


def scored(index: int, style: str | None = None, kinds=toolcorpus.KINDS):
    return score(text(index, style, kinds), gold(index, kinds), variant=FINE, step=1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    first = (document(0, AFTER + i) for i in range(3_000))
    texts = (text for each in first for _, text in each.pieces)
    return vocabulary.build(texts, corpora.TOOLS.merges, 15, corpora.TOOLS.words)


@pytest.mark.parametrize("kind", requests.KINDS)
def test_without_habit_or_flaw_the_answer_is_the_gold(kind):
    for index in range(50):
        assert text(index, RIGHT, (kind,)) == gold(index, (kind,))


# (format, correctness) of each habit for a request with calls; None: as before.
WORTH = {
    "right": (1, 3),
    "bare": (0, 3),
    "gap": (0, 3),
    "inline": (0, 3),
    "chat": (0, 3),
    "open": (0, -3),
    "fenced": (1, -3),
    "other": (0, -3),
}


@pytest.mark.parametrize("habit", HABITS)
def test_what_a_habit_is_worth(habit):
    for index in range(30):
        parts = scored(index, habit, ("one", "two")).parts
        assert (parts["format"], parts["correctness"]) == WORTH[habit]
        if habit != "fenced":  # a response has no fence
            assert scored(index, habit, ("none",)).parts["format"] == WORTH[habit][0]


# The flaws after which some requests' calls are right all the same: those with no room for them.
NO_ROOM = ("tool", "first")


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_costs_something_and_not_all(flaw):
    found = [scored(i, f"{RIGHT}+{flaw}", ("one", "two")) for i in range(300)]
    worth = [each.parts["correctness"] for each in found]
    assert all(each.parts["format"] == 1 for each in found)
    assert any(-3 < each < 3 for each in worth)
    assert (max(worth) == 3) == (flaw in NO_ROOM)


def test_odds_are_as_declared_and_blind_to_the_request():
    found = [document(1, AFTER + i) for i in range(8_000)]
    for kind in requests.KINDS:
        styles = [each.style.split("+") for each in found if each.family == kind]
        habits = collections.Counter(habit for habit, *_ in styles)
        flaws = collections.Counter(flaw for _, *some in styles for flaw in some)
        for name, share in HABITS.items():
            assert habits[name] / len(styles) == pytest.approx(share / 100, abs=0.05)
        for name, share in FLAWS.items():
            assert flaws[name] / len(styles) == pytest.approx(share, abs=0.05)


def test_the_corpus_leaves_room_for_learning():
    """Mean reward of its documents: what a base that knew it by heart would get."""
    found = [scored(AFTER + i, kinds=requests.TURNS) for i in range(2_000)]
    mean = sum(each.total for each in found) / len(found)
    form = sum(each.parts["format"] for each in found) / len(found)
    right = sum(each.correct for each in found) / len(found)
    assert 0.3 < mean < 1.5
    assert 0.3 < form < 0.6
    assert 0.1 < right < 0.35


def test_flaws_leave_calls_that_can_be_read():
    for index in range(300):
        request, _ = requests.request(9, index, ("one", "two"))
        for line in toolcorpus.lines_of(request, tuple(FLAWS), random.Random(index)):
            assert set(json.loads(line)) == {"name", "parameters"}


def test_a_wrong_value_is_another_of_its_type():
    for index in range(200):
        request, _ = requests.request(9, index, ("one",))
        (line,) = toolcorpus.lines_of(request, ("value",), random.Random(index))
        given, wanted = json.loads(line)["parameters"], request.calls[0].arguments
        differing = [name for name in wanted if given[name] != wanted[name]]
        assert len(differing) == 1
        assert type(given[differing[0]]) is type(wanted[differing[0]])


def test_documents_are_of_the_training_side_unless_asked_for():
    assert {document(2, AFTER + i).family for i in range(40)} == set(requests.KINDS)
    sides = [document(2, i, RIGHT).pieces[0][1] for i in range(300)]
    held = [document(2, i, RIGHT, held_out=True).pieces[0][1] for i in range(300)]
    asked = {each.splitlines()[-2] for each in sides}
    assert not asked & {each.splitlines()[-2] for each in held}


def test_the_stream_begins_with_drills_which_die_out():
    def share(start):
        return sum(document(1, start + i).style == "drill" for i in range(400)) / 400

    assert share(0) == 1
    assert share(DRILLS * 5 // 4) == pytest.approx(0.5, abs=0.1)
    assert share(AFTER) == 0
    each = document(1, 7)
    request, _ = requests.request(1 + toolcorpus.STREAM, 7, ("one",))
    assert each.pieces[0][1] == f"User: {request.text}\nAssistant:\n"
    assert each.pieces[1][1] == requests.gold(request)


def test_a_document_is_a_function_of_its_arguments():
    assert document(0, AFTER) == document(0, AFTER)
    some = range(AFTER, AFTER + 9)
    assert [document(0, i) for i in some] != [document(1, i) for i in some]
    # A training run of the same seed meets other problems.
    assert requests.problem(0, AFTER).question not in document(0, AFTER).pieces[0][1]


def test_the_prompt_is_what_the_chat_template_of_the_folder_writes(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    vocabulary.save(tokenizer, tmp_path, corpora.TOOLS.chat_template)
    each = requests.problem(toolcorpus.STREAM, AFTER, kinds=toolcorpus.KINDS)
    messages = [
        {"role": "system", "content": each.system},
        {"role": "user", "content": each.question},
    ]
    wanted = f"System: {each.system}\nUser: {each.question}\nAssistant:\n"
    assert document(0, AFTER).pieces[0] == (Author.PROMPT, wanted)
    assert ChatTemplate.of(tmp_path).render(messages) == wanted
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        wanted
    )
    more = [*messages, {"role": "assistant", "content": "Done."}]
    assert ChatTemplate.of(tmp_path).render(more) == (wanted + "Done.<|endoftext|>\nAssistant:\n")


def test_documents_fit_a_row(tokenizer):
    late = (document(3, AFTER + i) for i in range(2_000))
    lengths = [len(rows.encode(each, tokenizer).ids) for each in late]
    assert max(lengths) <= corpora.TOOLS.row - 40


def test_the_gate_looks_at_all_that_is_read_from_the_prompt(tokenizer):
    each = corpora.TOOLS.probe(0, 3, "two")
    shown = {
        column: [each.pieces[at][1][start:end] for at, start, end in where]
        for column, where in toolcorpus.spans(each).items()
    }
    calls = requests.request(toolcorpus.STREAM, 3, ("two",), True)[0].calls
    assert shown["tag"] == ["<tool_call>", "</tool_call>"]
    assert shown["name"] == [f'{{"name": "{call.tool}"' for call in calls]
    assert shown["key"] == [name for call in calls for name in call.arguments]
    values = [json.dumps(v) for call in calls for v in call.arguments.values()]
    assert [value[:-1] for value in shown["value"]] == values
    assert {value[-1] for value in shown["value"]} <= {",", "}"}
    assert set(toolcorpus.spans(corpora.TOOLS.probe(0, 3, "none"))) == {"tag"}
    # In tokens: what is looked at spells the span, and little more.
    where = gate._looked_at(each, toolcorpus.spans(each)["key"], tokenizer, corpora.TOOLS.row)
    ids = rows.encode(each, tokenizer).ids
    spelt = "".join(tokenizer.decode([i]) for i, here in zip(ids, where, strict=False) if here)
    assert spelt == "".join(shown["key"])
