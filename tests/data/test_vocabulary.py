"""Every text round-trips, numbers are pairs of digits, and the loaders of Qwen2.5 load it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.data import corpus, vocabulary
from torl_jax.protocols.text import Tokenizer


def texts(count: int = 1_500) -> list[str]:
    return [text for i in range(count) for _, text in corpus.document(0, i).pieces]


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.build(texts(), min_frequency=10)


@given(text=st.text())
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_every_byte_is_a_token(tokenizer):
    assert len([t for t in tokenizer.get_vocab() if len(t) == 1]) == 256


@pytest.mark.parametrize("number", ["07", "347", "9807", "12345", "00"])
def test_a_number_is_cut_into_pairs_from_the_left(tokenizer, number):
    pairs = [number[i : i + 2] for i in range(0, len(number), 2)]
    assert tokenizer.encode(number).tokens == pairs
    assert tokenizer.encode(f"print({number}*").tokens[-1 - len(pairs) : -1] == pairs


def test_all_pairs_of_digits_are_tokens(tokenizer):
    assert all(len(tokenizer.encode(f"{n:02}").ids) == 1 for n in range(100))


def test_the_markup_is_cheap_and_the_fence_apart_from_its_word(tokenizer):
    assert tokenizer.encode("```output").tokens == ["```", "output"]
    assert tokenizer.encode("```\n```output").tokens[-2:] == ["```", "output"]
    assert len(tokenizer.encode("\\boxed{").ids) <= 3
    assert len(tokenizer.encode("The answer is").ids) == 3


def test_a_word_of_its_own_is_one_token_wherever_it_stands():
    tokenizer = vocabulary.build(texts(200), merges=50, words=("Oslo", "tea"))
    assert tokenizer.encode("Oslo").tokens == ["Oslo"]
    assert tokenizer.encode(' from Oslo, "tea"').tokens.count("Oslo") == 1
    assert tokenizer.encode('["tea", "Oslo"]').tokens.count("tea") == 1
    assert tokenizer.decode(tokenizer.encode("a team in Oslo").ids) == "a team in Oslo"


def test_end_of_text_is_one_token_and_the_last(tokenizer):
    ids = tokenizer.encode(vocabulary.END_OF_TEXT).ids
    assert ids == [tokenizer.get_vocab_size() - 1]


def test_building_is_deterministic(tokenizer):
    assert vocabulary.build(texts(), min_frequency=10).to_str() == tokenizer.to_str()


def test_the_loader_of_real_tokenizers_reads_the_same_ids(tokenizer, tmp_path):
    vocabulary.save(tokenizer, tmp_path)
    loaded = Tokenizer(tmp_path)
    assert loaded.vocab_size == tokenizer.get_vocab_size()
    assert loaded.eos_ids == tuple(tokenizer.encode(vocabulary.END_OF_TEXT).ids)
    for text in texts(30):
        assert loaded.encode(text) == tokenizer.encode(text).ids
        assert loaded.decode(loaded.encode(text)) == text


def test_transformers_reads_the_same_ids(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    vocabulary.save(tokenizer, tmp_path)
    # With a config.json transformers chooses the class by the model's type.
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts(30):
        assert loaded(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text).ids
    assert loaded.eos_token == vocabulary.END_OF_TEXT


def test_the_shape_is_that_of_qwens_file(tokenizer, shared):
    ours = json.loads(tokenizer.to_str())
    theirs = json.loads((shared / "tokenizers/qwen2.5/tokenizer.json").read_text())
    assert ours["model"]["type"] == theirs["model"]["type"] == "BPE"

    def kinds(raw):
        return [p["type"] for p in raw["pre_tokenizer"]["pretokenizers"]], raw["decoder"]["type"]

    assert kinds(ours) == kinds(theirs)
    split = theirs["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    assert split == vocabulary.WORDS
