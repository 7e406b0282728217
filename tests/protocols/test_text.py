"""Tokens spell bytes; a stop is found where decoding after every token would find it."""

import itertools
import json
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from torl_jax.errors import UserError
from torl_jax.protocols.text import (
    Stop,
    StopFinder,
    Tokenizer,
    byte_alphabet,
    find_stop,
)

OUTPUT = "```output"


def small_folder(folder: Path, vocabulary: list[str], eos: str | None = "<eos>") -> Path:
    """A byte-level tokenizer that has just these tokens and the bytes."""
    alphabet = {byte: char for char, byte in byte_alphabet().items()}
    spelled = ["".join(alphabet[b] for b in t.encode()) for t in vocabulary]
    names = [*alphabet.values(), *spelled]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate(names)}, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens(["<eos>", "<end>"])
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    if eos is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    return folder


def brute_force(pieces: list[bytes], stops: list[str]) -> Stop | None:
    """Spell everything anew after every token, and look at every ending."""
    for kept in range(1, len(pieces) + 1):
        before, text = b"".join(pieces[: kept - 1]), b"".join(pieces[:kept])
        for end in range(len(before) + 1, len(text) + 1):
            ended = [s for s in stops if text[:end].endswith(s.encode())]
            if ended:
                return Stop(kept, max(ended, key=lambda s: len(s.encode())), end)
    return None


def cut(text: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(borders)]


@pytest.fixture(scope="session")
def qwen(shared: Path) -> Tokenizer:
    return Tokenizer(shared / "tokenizers" / "qwen2.5")


@pytest.fixture(scope="session")
def library(shared: Path) -> tokenizers.Tokenizer:
    file = shared / "tokenizers" / "qwen2.5" / "tokenizer.json"
    return tokenizers.Tokenizer.from_file(str(file))


def test_every_byte_has_its_own_character() -> None:
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert byte_alphabet()["Ġ"] == ord(" ") and byte_alphabet()["Ċ"] == ord("\n")


# Any text over a few letters, cut anywhere (also into empty tokens), stops that overlap.
@given(
    st.text("ab`\u00e9", max_size=30),
    st.lists(st.integers(0, 60), max_size=12),
    st.lists(st.text("ab`\u00e9", min_size=1, max_size=5), max_size=4),
    st.integers(0, 5),
)
def test_stop_is_where_brute_force_finds_it(text, places, stops, segment) -> None:
    pieces = cut(text.encode(), places)
    wanted = brute_force(pieces, stops)
    assert find_stop(pieces, stops) == wanted
    finder, found = StopFinder(stops), None
    for first in range(0, len(pieces), segment + 1):
        found = finder.feed(pieces[first : first + segment + 1])
        if found:
            break
    assert found == wanted


@given(st.text("ab", max_size=20), st.text("ab", min_size=1, max_size=4), st.integers(0, 20))
def test_no_stop_begins_before_the_start(text, stop, start) -> None:
    at = text.find(stop, start)
    found = find_stop([c.encode() for c in text], [stop], start)
    assert (found.end if found else None) == (at + len(stop) if at >= 0 else None)


def test_stop_across_tokens_and_segments() -> None:
    finder = StopFinder([OUTPUT])
    assert finder.feed([b"x\n``", b"`"]) is None
    assert finder.feed([b"out"]) is None
    assert finder.feed([b"", b"put\n4", b"more"]) == Stop(5, OUTPUT, 11)


def test_of_stops_that_end_together_the_longest_wins() -> None:
    assert find_stop([b"xab"], ["b", "ab"]) == Stop(1, "ab", 3)
    assert find_stop([b"abc"], ["abc", "b"]) == Stop(1, "b", 2)


def test_no_stops_never_stop_and_an_empty_stop_is_refused() -> None:
    assert find_stop([b"anything"], []) is None
    with pytest.raises(ValueError, match="empty"):
        StopFinder([""])


def test_cost_is_linear_in_the_text() -> None:
    def seconds(count: int) -> float:
        finder, start = StopFinder(["`" * 40 + "output"]), time.perf_counter()
        for _ in range(count):
            assert finder.feed([b"`" * 39]) is None
        return time.perf_counter() - start

    small = min(seconds(1_000) for _ in range(3))
    assert min(seconds(10_000) for _ in range(3)) < 40 * small


TEXTS = st.lists(
    st.sampled_from(
        ["```", "`", "``", "output", "out", "put", "\n", " ", "python", "é", "😀", "1"]
    ),
    max_size=14,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, more=st.lists(st.integers(0, 151_664), max_size=4), at=st.integers(0, 99))
def test_stop_with_the_real_tokenizer(qwen: Tokenizer, text: str, more, at: int) -> None:
    ids = qwen.encode(text)
    ids[at % (len(ids) + 1) : 0] = more
    pieces = [qwen.bytes_of(i) for i in ids]
    stops = [OUTPUT, "```\n"]
    assert find_stop(pieces, stops) == brute_force(pieces, stops)


def test_a_fence_and_a_newline_are_two_other_tokens(qwen: Tokenizer) -> None:
    assert [qwen.bytes_of(i) for i in qwen.encode("```")] == [b"```"]
    assert [qwen.bytes_of(i) for i in qwen.encode("```\n")] == [b"``", b"`\n"]
    pieces = [qwen.bytes_of(i) for i in qwen.encode("1```\n```output\n2")]
    found = find_stop(pieces, [OUTPUT])
    assert found is not None and b"".join(pieces[: found.tokens]).endswith(b"```output")


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 151_664), max_size=12))
def test_decode_agrees_with_the_library(
    qwen: Tokenizer, library: tokenizers.Tokenizer, ids: list[int]
) -> None:
    assert qwen.decode(ids) == library.decode(ids, skip_special_tokens=False)


@settings(max_examples=100, deadline=None)
@given(text=st.text("abc \n`01é😀\\", max_size=30))
def test_encoding_loses_nothing(qwen: Tokenizer, text: str) -> None:
    assert qwen.decode(qwen.encode(text)) == text


def test_qwen_vocabulary(qwen: Tokenizer) -> None:
    assert len(qwen) == qwen.vocab_size == 151_665
    assert qwen.eos_ids == (151_643,)
    assert qwen.encode("Hello world") == [9707, 1879]
    assert qwen.bytes_of(151_643) == b"<|endoftext|>"
    assert qwen.bytes_of(151_935) == b"", "a padding row of the embedding spells nothing"
    with pytest.raises(ValueError, match="negative"):
        qwen.bytes_of(-1)


def test_control_tokens_in_data_can_be_spelled_out(qwen: Tokenizer) -> None:
    name = "<|endoftext|>"
    assert qwen.encode(name) == [151_643]
    plain = qwen.encode(name, special=False)
    assert 151_643 not in plain and qwen.decode(plain) == name


def test_which_file_names_the_end_of_text(tmp_path: Path) -> None:
    folder = small_folder(tmp_path, [])
    eos, end = 256, 257
    assert Tokenizer(folder).eos_ids == (eos,)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": end}))
    assert Tokenizer(folder).eos_ids == (end,)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, eos]}))
    assert Tokenizer(folder).eos_ids == (end, eos)


def test_a_text_to_learn_from_ends_with_the_tokenizers_own_end(tmp_path: Path) -> None:
    """Any of several may end a text; the first of Llama 3's is not the one that ends a turn."""
    folder = small_folder(tmp_path, [])
    eos, end = 256, 257
    assert Tokenizer(folder).end_id == eos
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, eos]}))
    assert Tokenizer(folder).end_id == eos
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    assert Tokenizer(folder).end_id == end


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer_config.json", "{}", "no end-of-text token"),
        ("tokenizer_config.json", '{"eos_token": "<other>"}', "<other>"),
        ("tokenizer_config.json", "not json", "not valid JSON"),
        ("tokenizer_config.json", "[]", "holds a list"),
        ("config.json", '{"eos_token_id": 9999}', "eos_token_id 9999"),
        ("generation_config.json", '{"eos_token_id": []}', "eos_token_id"),
        ("tokenizer.json", "{}", "cannot be read"),
    ],
)
def test_a_broken_folder_is_one_clear_line(tmp_path: Path, file, content, words) -> None:
    folder = small_folder(tmp_path, [])
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        Tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_or_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folder .*nowhere does not exist"):
        Tokenizer(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"tokenizer\.json does not exist"):
        Tokenizer(tmp_path)


def test_a_tokenizer_that_is_not_byte_level(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="not a byte-level tokenizer"):
        Tokenizer(tmp_path)


def test_lengths_are_those_of_encode(qwen):
    texts = ["", "x", "What is 6*7?\n```python\nprint(42)\n```", "<|endoftext|>", "é" * 50]
    assert qwen.lengths(texts) == [len(qwen.encode(text)) for text in texts]
