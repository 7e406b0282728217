"""Bamboogle's loop as a state machine: what a reply asks for, what the next round reads."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.errors import UserError
from torl_jax.metrics import Ratio
from torl_jax.protocols import dialogue
from torl_jax.scoreboard import BEHAVIOUR, Answered, Sample
from torl_jax.toolbench import bamboogle, tables
from torl_jax.toolbench.bamboogle import Dialogue, asked, final

ASKS = (
    "<think> t </think>\n<tool_call>\n"
    '{"name": "Search", "parameters": {"query": "Uranus"}}\n</tool_call>'
)


def test_a_search_then_an_answer():
    begun = Dialogue("Which rocket? ")
    assert begun.user == "**Dialogue Records History**\n<user> Which rocket? </user>"
    waits = begun.heard(ASKS)
    assert waits.query == "Uranus" and not waits.over and waits.calls == 1
    goes_on = waits.found(["Voyager 2: Titan IIIE", "more"])
    assert goes_on.query is None
    assert goes_on.user == (
        f"{begun.user}\n\n{ASKS}\n"
        '<obs> [{"name": "Search", "results": ["Voyager 2: Titan IIIE", "more"]}] </obs>\n\n'
        f"<user> {bamboogle.GO_ON} </user>"
    )
    done = goes_on.heard("<think> so </think>\n<response> Titan IIIE </response>")
    assert done.over and done.answer == "Titan IIIE" and done.calls == 1


def test_the_third_round_asks_for_the_answer_and_the_fourth_is_the_last():
    said = Dialogue("q")
    for _ in range(3):
        said = said.heard(ASKS).found(["x"])
    assert said.user.count(bamboogle.GO_ON) == 2
    assert said.user.endswith(f"<user> {bamboogle.ANSWER_NOW} </user>")
    last = said.heard(ASKS)
    # Asked for and counted, but nobody would read it.
    assert last.over and last.answer is None and last.query is None and last.calls == 4
    with pytest.raises(ValueError, match="no search is open"):
        last.found(["x"])
    with pytest.raises(ValueError, match="no reply is due"):
        last.heard("again")


def test_a_lost_round_leaves_no_trace():
    begun = Dialogue("q")
    lost = begun.heard("<tool_call>\nnot a call\n</tool_call>")
    assert lost.user == begun.user and lost.calls == 0 and lost.query is None and not lost.over
    for _ in range(3):
        lost = lost.heard("<tool_call>")
    assert lost.over and lost.answer is None
    # The nudge goes by the round, not by the search.
    late = begun.heard("<tool_call>").heard("<tool_call>").heard(ASKS).found(["x"])
    assert bamboogle.ANSWER_NOW in late.user and bamboogle.GO_ON not in late.user


def test_no_reply_while_a_search_is_open():
    with pytest.raises(ValueError, match="no reply is due"):
        Dialogue("q").heard(ASKS).heard("too early")


@pytest.mark.parametrize(
    ("body", "python", "json_", "either"),
    [
        ('{"name": "Search", "parameters": {"query": "a"}}', "a", "a", "a"),
        ("{'name': 'Search', 'parameters': {'query': 'a'}}", "a", None, "a"),
        ('{"name": "Search", "parameters": {"query": "a", "safe": true}}', None, "a", "a"),
        ('{"name": "Search", "parameters": {"query": "a", "safe": True}}', "a", None, "a"),
        ('{"name": "Search", "parameters": {"query": null}}', None, None, None),
        ('{"name": "Search", "parameters": {"query": "  "}}', None, None, None),
        ('{"name": "Search", "parameters": {}}', None, None, None),
        ('{"name": "Search", "parameters": "a"}', None, None, None),
        ('["a"]', None, None, None),
        ('\n\n  {"parameters": {"query": "a"}}  \n{"parameters": {"query": "b"}}', "a", "a", "a"),
        ('```json\n{"parameters": {"query": "a"}}', None, None, None),
        ("__import__('os')", None, None, None),
        ("{[]: 1}", None, None, None),
        ("(" * 5_000, None, None, None),
        ("-" * 90_000 + "1", None, None, None),
        ("[" * 200_000, None, None, None),
        ("", None, None, None),
    ],
)
def test_how_the_line_of_a_call_is_read(body, python, json_, either):
    reply = f"<think> <tool_call> </think>\n<tool_call>\n{body}\n</tool_call>\nmore"
    assert asked(reply) == python
    assert asked(reply, "json") == json_
    assert asked(reply, "either") == either


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think> t </think>\n<response> A </response>", "A"),
        ("<response> no </response> <response> A </response> end", "A"),
        ("<think> t </think>\n<response> A", "A"),
        ("<think> t </think>\n A ", "A"),
        (" A ", "A"),
        ("<think> A", "<think> A"),
        ("<think> t </think>", ""),
        ("", ""),
    ],
)
def test_the_final_answer(reply, answer):
    assert final(reply) == answer
    assert Dialogue("q").heard(reply).answer == answer


@given(st.text(alphabet=st.sampled_from("<>/tol_cal{}[]\"'':,\n 1qerysT()\\"), max_size=60))
def test_any_reply_is_an_answer_a_search_or_a_lost_round(text):
    for literal in bamboogle.LITERALS:
        heard = Dialogue("q").heard(f"<tool_call>\n{text}", literal)
        assert heard.answer is None and len(heard.rounds) == 1
    heard = Dialogue("q").heard(text)
    assert (heard.answer is None) == ("<tool_call>" in text)


def test_the_system_message_is_ours_or_the_trained_one_and_ends_with_a_newline():
    ours = bamboogle.system()
    assert ours == dialogue.system([bamboogle.SEARCH]) + "\n"
    assert "1. Name: Search\n" in ours
    other = dialogue.Tool("fly", "flies", {})
    trained = dialogue.system([other, other], "Be kind.")
    taken = bamboogle.system(trained)
    assert taken.endswith("Be kind.\n") and "fly" not in taken
    assert dialogue.tools_of(taken) == [bamboogle.SEARCH]


def test_the_published_questions(shared):
    items = bamboogle.read(str(shared / "data" / "toolrl" / "bamboogle.json"))
    assert len(items) == 125 and not bamboogle.notes(items)
    assert len({item.name for item in items}) == 125
    problem = Dialogue(items[1].question).problem(items[1], "s")
    assert problem.answer == "Titan IIIE" and problem.id == "bamboogle:1"
    later = Dialogue(items[1].question).heard(ASKS).found([]).problem(items[1], "s")
    assert later.id == "bamboogle:1/2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "no list of questions"),
        ('{"Question": "q", "Answer": "a"}', "no list of questions"),
        ('[{"Question": "q", "Answer": "a"}, {"Question": "q"}]', "item 1 has no Question"),
        ('[{"Question": " ", "Answer": "a"}]', "item 0 has no Question"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        bamboogle.read(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        bamboogle.read(str(tmp_path / "nowhere.json"))


def test_what_is_left_out_is_no_wrong_answer():
    def one(i, right, searches):
        behaviour = {name: Ratio(0, 1) for name in BEHAVIOUR}
        behaviour[tables.SEARCHES] = Ratio(searches, 1)
        return Answered(f"bamboogle:{i}", "bamboogle", (Sample(right, None, behaviour),))

    answered = [one(0, True, 1), one(1, False, 4)]
    sheet = tables.bamboogle_sheet(answered, 3, True, "Qwen2.5-7B", 0)
    assert sheet.rows[0] == ("this policy", "2", "50.0", "0.0-100.0", "2.50", "3")
    cold = next(r for r in sheet.rows if r[0] == "Qwen2.5-7B GRPO cold")
    assert cold[2] == "72.0" and cold[4] == "1.63"
    assert tables.bamboogle_sheet(answered, 3, False, "Qwen2.5-7B", 0).rows[-1][2] == "-"
    nothing = tables.bamboogle_sheet([], 5, True, "", 0)
    assert nothing.rows == (("this policy", "0", "-", "-", "-", "5"),)
    assert json.dumps(nothing.columns)
