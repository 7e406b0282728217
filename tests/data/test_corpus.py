"""Documents are cut as rollouts are cut, say what programs really print, and hide nothing."""

import collections
import random
import re

import pytest

from sandbox import Sandbox
from torl_jax.data import arithmetic, corpus
from torl_jax.envs.python import fixed
from torl_jax.episode import Author
from torl_jax.protocols.torl import STOP, ToRL

STYLES = ("direct", "code", *corpus.FLAWS)
PROTOCOL = ToRL(prompt_template="User: {question}\nAssistant:\n", calls=2)


def code_of(turn: str) -> str:
    """The program that the protocol finds in a turn, without its last newline."""
    call = PROTOCOL.call(turn)
    assert call is not None
    return call.text.removesuffix("\n")


def turns(document: corpus.Document) -> list[tuple[str, str]]:
    """(policy turn, tool text) of every call."""
    pairs = zip(document.pieces, document.pieces[1:], strict=False)
    return [(a, b) for (_, a), (author, b) in pairs if author is Author.TOOL]


def printed(tool_text: str) -> str:
    match = re.fullmatch(r"\n(.*)\n```\n", tool_text, re.DOTALL)
    assert match, f"not what the protocol inserts: {tool_text!r}"
    return match[1]


def boxed(document: corpus.Document) -> str:
    match = re.fullmatch(r"The answer is \\boxed\{(.*)\}\.", document.pieces[-1][1])
    assert match
    return match[1]


def test_the_example_of_the_quickstart_letter_for_letter():
    code = corpus.correct(corpus.PROGRAMS["product"], (347, 28, 91))
    assert [*corpus.call(code, corpus.run(code)), (Author.POLICY, corpus.final("9807"))] == [
        (Author.POLICY, "```python\nprint(347*28+91)\n```\n```output"),
        (Author.TOOL, "\n9807\n```\n"),
        (Author.POLICY, "The answer is \\boxed{9807}."),
    ]


@pytest.mark.parametrize("style", STYLES)
def test_pieces_are_cut_where_a_rollout_cuts_them(style):
    for index in range(60):
        document = corpus.document(1, index, style)
        authors = [author for author, _ in document.pieces]
        calls = (len(authors) - 2) // 2
        assert authors == [
            Author.PROMPT,
            *[Author.POLICY, Author.TOOL] * calls,
            Author.POLICY,
        ]
        assert document.pieces[0][1].startswith("User: ")
        assert document.pieces[0][1].endswith("\nAssistant:\n")
        for turn, text in turns(document):
            assert turn.index(STOP) + len(STOP) == len(turn)
            assert code_of(turn)
            assert printed(text)
        assert STOP not in document.pieces[-1][1]


@pytest.mark.parametrize("family", arithmetic.FAMILIES)
@pytest.mark.parametrize("held_out", [False, True])
def test_a_program_without_a_flaw_prints_the_answer(family, held_out):
    for index in range(50):
        document = corpus.document(2, index, "code", (family,), held_out)
        ((turn, text),) = turns(document)
        assert printed(text) == boxed(document) == corpus.run(code_of(turn))


@pytest.mark.parametrize("family", arithmetic.FAMILIES)
@pytest.mark.parametrize("flaw", corpus.FLAWS)
def test_every_flaw_misses_the_answer(family, flaw):
    missed = []
    for index in range(40):
        good = boxed(corpus.document(2, index, "code", (family,)))
        document = corpus.document(2, index, flaw, (family,))
        first = printed(turns(document)[0][1])
        missed.append(first != good)
        if flaw == "mistaken":
            assert boxed(document) == first
        else:
            assert boxed(document) == good
    # A wrong formula is right by accident now and then; a program that fails never is.
    assert all(missed) if flaw != "mistaken" else sum(missed) > 0.85 * len(missed)


def test_a_retry_is_right_and_only_follows_a_visible_failure():
    tries = collections.Counter()
    for index in range(600):
        document = corpus.document(4, index)
        calls = turns(document)
        tries[document.style, len(calls)] += 1
        if len(calls) == 2:
            assert printed(calls[1][1]) == boxed(document)
    allowed = {("direct", 0), ("code", 1), ("mistaken", 1)}
    visible = [f for f in corpus.FLAWS if f != "mistaken"]
    assert set(tries) == allowed | {(flaw, n) for flaw in visible for n in (1, 2)}


def test_the_style_is_chosen_without_a_look_at_the_question():
    for index in range(20):
        prompts = {corpus.document(0, index, style).pieces[0][1] for style in (None, *STYLES)}
        assert len(prompts) == 1


def test_styles_occur_as_often_as_the_file_says():
    rng = random.Random(0)
    count = collections.Counter(corpus.draw_style(rng) for _ in range(40_000))
    code = 1 - count["direct"] / count.total()
    assert code == pytest.approx(corpus.CODE_SHARE, abs=0.01)
    flawed = sum(count[f] for f in corpus.FLAWS) / (count.total() - count["direct"])
    assert flawed == pytest.approx(corpus.FLAW_SHARE, abs=0.02)


def test_documents_hold_no_held_out_problem_and_none_of_a_training_run():
    seen = {corpus.document(0, i).pieces[0][1] for i in range(7_000)}
    held = {
        PROTOCOL.prompt(p)
        for seed in (0, 1, corpus.STREAM)
        for p in arithmetic.problems(seed, 0, 600, held_out=True)
    }
    assert not seen & held
    ids = {p.id for p in arithmetic.problems(0, 0, 100)}
    assert not ids & {p.id for p in arithmetic.problems(corpus.STREAM, 0, 100)}


def test_a_document_is_a_function_of_its_arguments():
    assert corpus.document(0, 5) == corpus.document(0, 5)
    assert [corpus.document(0, i) for i in range(9)] != [corpus.document(1, i) for i in range(9)]


@pytest.mark.parametrize("style", ["code", *corpus.FLAWS])
def test_the_sandbox_says_the_same_as_the_corpus(style):
    programs = [
        (code_of(turn), printed(text))
        for index, family in enumerate(arithmetic.FAMILIES)
        for turn, text in turns(corpus.document(6, index, style, (family,)))[:1]
    ]
    with Sandbox(workers=2) as sandbox:
        for code, text in programs:
            observation = fixed(sandbox.run(code, timeout=10.0), timeout=10.0)
            hint = ". Did you mean: 'print'?"  # from Python 3.12 on
            assert observation.text.removesuffix(hint) == text.removesuffix(hint)
