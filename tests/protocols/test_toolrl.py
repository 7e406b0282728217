"""ToolRL's markup: what a block is, where a turn ends, what is inserted, and who wrote it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.episode import Call, Observation, Problem
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.protocols.text import Tokenizer, find_stop
from torl_jax.protocols.toolrl import STOP, ToolRL

PROBLEM = Problem("p", "**Dialogue Records History**\n<user> Hi </user>", "", system="Tools: none.")
CALL = '{"name": "f", "parameters": {"x": 1}}'
TURN = f"<think> I call f. </think>\n<tool_call>\n{CALL}\n</tool_call>"
SEEN = Observation('[{"name": "f", "results": 2}]', True, "ok")


def render(messages):
    return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"


SINGLE, LIVE = ToolRL(render), ToolRL(render, calls=2)


def test_the_prompt_is_the_system_message_and_the_users():
    assert SINGLE.prompt(PROBLEM) == f"[system]Tools: none.[user]{PROBLEM.question}[assistant]"
    assert SINGLE.prompt(Problem("p", "Hi", "")) == "[user]Hi[assistant]"


def test_a_single_step_has_no_stops_and_a_live_one_as_many_as_calls():
    assert SINGLE.stops(0) == ()
    assert [LIVE.stops(made) for made in range(4)] == [(STOP,), (STOP,), (), ()]
    assert [LIVE.end(STOP, made) for made in range(2)] == [None, None]
    with pytest.raises(UserError, match="calls is -1"):
        ToolRL(render, calls=-1)


def test_the_call_is_what_stands_in_the_last_block():
    assert LIVE.call(TURN) == Call(f"\n{CALL}\n")
    assert LIVE.call(TURN + "s and more") == Call(f"\n{CALL}\n")
    assert LIVE.call("<think> I open <tool_call> now </think>\n" + TURN) == Call(f"\n{CALL}\n")


@pytest.mark.parametrize(
    "turn",
    ["", "</tool_call>", "<tool_call>\n \n</tool_call>", f"<tool_call>{CALL}", "<tool_call>",
     "</tool_call><tool_call>x</tool_call>"],
)  # fmt: skip
def test_a_turn_without_a_whole_block_asks_for_nothing(turn):
    assert LIVE.call(turn) is None


def test_blocks_are_listed_where_they_open():
    text = "a<tool_call>1<tool_call>2</tool_call>b</tool_call><tool_call>3"
    blocks = LIVE.blocks(text)
    assert [(b.code, b.closed) for b in blocks] == [("1", False), ("2", True), ("3", False)]
    assert all(text.startswith("<tool_call>", block.start) for block in blocks)


def test_the_answer_begins_at_the_last_complete_response():
    text = "<response> a </response> x <response> b </response> <response> c"
    assert LIVE.answer_at(text) == text.index("<response> b")
    for none in ("", "</response>", "<response>", "</response><response>"):
        assert LIVE.answer_at(none) is None


def test_what_is_inserted_reads_as_a_history_does():
    inserted = LIVE.insertion(TURN, SEEN)
    call = {"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}
    history = dialogue.history(
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "[2]"},
            {"role": "user", "content": "And?"},
        ]
    )
    shown = history[history.index("</tool_call>") :].removesuffix("<user> And? </user>")
    assert STOP + inserted == shown.replace("[2]", "2")
    assert LIVE.insertion(TURN + "\n", SEEN) == inserted[1:]
    assert LIVE.insertion(TURN, None) == ""


@pytest.mark.parametrize("family", ["qwen2.5", "llama3.2"])
def test_no_special_token_comes_out_of_an_insertion(shared, family):
    folder = shared / "tokenizers" / family
    if not folder.is_dir():
        pytest.skip(f"there is no tokenizer of {family}")
    tokenizer = Tokenizer(folder)
    config = json.loads((folder / "tokenizer.json").read_text())
    special = {
        token["id"]: token["content"] for token in config["added_tokens"] if token["special"]
    }
    hostile = Observation(
        json.dumps([{"name": "f", "results": " ".join(special.values())}]), True, "ok"
    )
    inserted = LIVE.insertion(TURN, hostile)
    assert not special.keys() & set(tokenizer.encode(inserted, special=False))
    # Else the line above proves nothing.
    assert special.keys() <= set(tokenizer.encode(inserted))
    assert tokenizer.decode(tokenizer.encode(inserted, special=False)) == inserted


TAGS = st.sampled_from(
    ["<tool_call>", "</tool_call>", "<response>", "</response>", "\n", CALL, "<"]
)
TEXTS = st.lists(TAGS | st.text(max_size=5), max_size=12).map("".join)


@given(TEXTS)
def test_no_text_breaks_it(text):
    blocks = LIVE.blocks(text)
    assert len(blocks) == text.count("<tool_call>")
    assert all("tool_call>" not in block.code.replace("</tool_call>", "") for block in blocks)
    call, at = LIVE.call(text), LIVE.answer_at(text)
    before, stop, _ = text.partition(STOP)
    assert (call is not None) == bool(
        stop and before.rpartition("<tool_call>")[1] and before.rpartition("<tool_call>")[2].strip()
    )
    if call is not None:
        assert before.endswith("<tool_call>" + call.text)
    assert at is None or (text.startswith("<response>", at) and "</response>" in text[at:])


@given(st.lists(TEXTS, max_size=6))
def test_a_stop_is_found_by_its_text_alone(pieces):
    stop = find_stop([piece.encode() for piece in pieces], LIVE.stops(0))
    assert (stop is not None) == (STOP in "".join(pieces))
    assert find_stop([piece.encode() for piece in pieces], SINGLE.stops(0)) is None
