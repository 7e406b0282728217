"""The machine of stop strings pauses where the host's finder finds one, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocols.test_text import small_folder
from torl_jax.protocols import machine
from torl_jax.protocols.text import Stage, StopFinder, Tokenizer
from torl_jax.protocols.zerotir import CLOSE, OPEN, Fences
from torl_jax.stops import DONE

WORDS = ["ab", "ba", "aab", "abab", "</", "answer", "```", "python"]
USUAL = [word.encode() for word in (*WORDS, "a", "b", "c", ">", "\n")]


def first_done(table_SV, tokens) -> int | None:
    """How many tokens until the first stop is completed."""
    state = 0
    for count, token in enumerate(tokens, 1):
        moved = int(table_SV[state, token])
        if moved >= DONE:
            return count
        state = moved
    return None


@pytest.fixture(scope="module")
def qwen(shared: Path) -> Tokenizer:
    return Tokenizer(shared / "tokenizers/qwen2.5")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Tokenizer:
    return Tokenizer(small_folder(tmp_path_factory.mktemp("small"), WORDS))


@pytest.mark.parametrize("stops", [("aba",), ("abab", "bb"), ("b", "ab"), ("</answer>", "c\n"), ()])
@given(data=st.data())
def test_it_pauses_where_the_finder_stops(small: Tokenizer, stops, data) -> None:
    spelled = small.pieces(range(len(small)))
    ids = st.sampled_from(list(map(spelled.index, USUAL))) | st.integers(0, len(small) - 1)
    tokens = data.draw(st.lists(ids, max_size=30))
    found = StopFinder(stops).feed([small.bytes_of(token) for token in tokens])
    table_SV = machine.table(small, StopFinder(stops).stages)
    assert first_done(table_SV, tokens) == (None if found is None else found.tokens)


@given(data=st.data())
def test_a_fence_closes_only_what_was_opened(small: Tokenizer, data) -> None:
    parts = st.sampled_from([OPEN, CLOSE, "\n", "```", "</answer>", "a", "python", "c"])
    tokens = small.encode("".join(data.draw(st.lists(parts, max_size=12))))
    fences = Fences(("</answer>", "c"), OPEN, CLOSE)
    table_SV = machine.table(small, fences.stages)
    found = fences.feed([small.bytes_of(token) for token in tokens])
    assert first_done(table_SV, tokens) == (None if found is None else found.tokens)


@pytest.mark.parametrize(
    "stop", ["</answer>", "User:", "Assistant:", "```output", "<|im_end|>", "</tool_call>"]
)
def test_however_qwen_spells_a_stop(qwen: Tokenizer, tables, stop: str) -> None:
    for behind in ("", "\n", "\n\n", " 4", ">"):
        tokens = qwen.encode(f"The <answer> output: user\n{stop}{behind}")
        found = StopFinder((stop,)).feed([qwen.bytes_of(token) for token in tokens])
        assert found is not None and first_done(tables(stop), tokens) == found.tokens


@pytest.fixture(scope="module")
def tables(qwen: Tokenizer):
    return lambda stop: machine.table(qwen, (Stage((stop,)),), rows=151_936)


def test_rows_of_the_embedding_that_spell_nothing_change_nothing(qwen: Tokenizer, tables) -> None:
    table_SV = tables("User:")
    assert table_SV.shape == (5, 151_936) and table_SV.dtype == np.uint16
    assert (table_SV[:, len(qwen) :] == np.arange(5)[:, None]).all()


def test_a_token_that_holds_a_stop_and_more(tmp_path: Path) -> None:
    text = Tokenizer(small_folder(tmp_path, ["xabcab"]))
    spelled = [text.bytes_of(token) for token in range(len(text))]
    whole, end = spelled.index(b"xabcab"), spelled.index(b"c")
    table_SV = machine.table(text, (Stage(("abc",)),))
    assert first_done(table_SV, [whole]) == 1
    # What stands behind the stop may begin the next one.
    assert table_SV[table_SV[0, whole] % DONE, end] >= DONE
