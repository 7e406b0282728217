"""Transcripts: nothing added or lost, authors told apart, control codes harmless."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from torl_jax import transcript
from torl_jax.episode import (
    Author,
    Call,
    End,
    Episode,
    Observation,
    Problem,
    Score,
    Segment,
    Turn,
)


def segment(author: Author, text: str) -> Segment:
    return Segment(author, (1, 2), text, (-0.5, -0.5) if author is Author.POLICY else ())


def episode(*parts: tuple[Author, str]) -> Episode:
    turn = Turn(Call("print(2)"), Observation("2", True, "ok", 0.1))
    segments = tuple(segment(author, text) for author, text in parts)
    return Episode(Problem("p-1", "1+1", "2"), 3, segments, (turn,), End.ANSWER)


TOOL_USE = episode(
    (Author.PROMPT, "User: 1+1\nAssistant:\n"),
    (Author.POLICY, "```python\nprint(2)\n```\n```output"),
    (Author.TOOL, "\n2\n\n```\n"),
    (Author.POLICY, "It is \\boxed{2}."),
)


def test_plain_names_the_author_of_each_line():
    assert transcript.plain(TOOL_USE, Score(1.0, True, {"penalty": -0.5})) == (
        "prompt │ User: 1+1\n"
        "prompt │ Assistant:\n"
        " model │ ```python\n"
        " model │ print(2)\n"
        " model │ ```\n"
        " model │ ```output\n"
        "  tool │ 2\n"
        "  tool │\n"
        "  tool │ ```\n"
        " model │ It is \\boxed{2}.\n"
        "       └ end: answer · correct, reward +1 · penalty -0.5 · 1 call"
        " · 4 model + 2 tool tokens\n"
    )


def test_plain_keeps_blank_lines_that_are_no_line_ends():
    kept = transcript.plain(episode((Author.PROMPT, "a\n"), (Author.POLICY, "\nb\n\n")))
    assert kept.splitlines()[:-1] == ["prompt │ a", " model │", " model │ b", " model │"]


def test_render_colours_by_author():
    text = transcript.render(TOOL_USE)
    painted = {str(span.style): text.plain[span.start : span.end] for span in text.spans}
    assert painted["dim"] == "User: 1+1\nAssistant:\n"
    assert painted["cyan"] == "\n2\n\n```\n"
    assert painted["green"] == "It is \\boxed{2}."


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Author), st.text("ab \n", max_size=6)), max_size=5))
def test_render_is_the_text_then_one_line(parts: list[tuple[Author, str]]):
    made = episode(*parts)
    body, _, last = transcript.render(made).plain.rpartition("\n")
    written = "".join(text for _, text in parts)
    assert body == written.removesuffix("\n")
    assert last == f"[{transcript.verdict(made)}]"


@settings(deadline=None)
@given(st.text())
def test_no_control_code_reaches_the_terminal(text: str):
    out = io.StringIO()
    made = episode((Author.POLICY, text), (Author.TOOL, "\x1b]0;owned\x07\x9b2J\x7f\r"))
    Console(file=out, color_system=None, width=200).print(transcript.render(made))
    for shown in (out.getvalue(), transcript.plain(made)):
        codes = {c for c in shown if ord(c) < 32 or 0x7F <= ord(c) < 0xA0} - {"\n", "\t"}
        assert not codes
    assert "␛]0;owned␇" in transcript.plain(made)


def test_markup_in_model_text_is_text():
    assert "[bold]x[/bold]" in transcript.render(episode((Author.POLICY, "[bold]x[/bold]"))).plain


def test_an_abort_says_why_on_one_line():
    aborted = Episode(Problem("p", "q", "a"), 0, (), (), End.ABORT, error="pool\ndied")
    assert transcript.plain(aborted).startswith("       └ end: abort · pool died · 0 calls")
