"""The tiny bases' tokenizer: byte-level BPE in the published layout of Qwen2.5's.

The same pieces in the same order (split by the same regular expression, then bytes,
then merges), so what loads Qwen2.5's tokenizer loads this one; every text
round-trips because all 256 bytes are tokens. Two things differ: the vocabulary is
small, and a number is cut into pairs of digits from the left (Qwen: single digits):
every pair is an added token, matched before the split. (A split rule of our own
would not survive: transformers gives every model of type qwen2 Qwen's own.) A small
model copies "347" as two tokens, almost surely. Words that it is to copy may be tokens of
their own likewise: "Oslo" is then the same token behind a blank and within quotes.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

END_OF_TEXT = "<|endoftext|>"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _pipeline(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def build(
    texts: Iterable[str], merges: int = 400, min_frequency: int = 100, words: Sequence[str] = ()
) -> Tokenizer:
    """All bytes and pairs of digits, `words`, merges learnt from `texts`, end-of-text.

    Deterministic in `texts`. At most `merges` merges, each of what occurs `min_frequency` times.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = _pipeline(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 100 + merges,
        initial_alphabet=alphabet,
        min_frequency=min_frequency,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = [tuple(p) for p in json.loads(learner.to_str())["model"]["merges"]][:merges]
    pairs = [a + b for a in "0123456789" for b in "0123456789"]
    whole = [*pairs, *words]
    vocab = {token: i for i, token in enumerate([*alphabet, *whole])}
    for left, right in learnt:
        vocab.setdefault(left + right, len(vocab))
    tokenizer = _pipeline(models.BPE(vocab=vocab, merges=learnt))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in whole])
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def save(tokenizer: Tokenizer, folder: str | os.PathLike[str], chat_template: str = "") -> None:
    """Writes tokenizer.json and tokenizer_config.json, with a chat template where there is one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=True)
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "bos_token": None,
        "unk_token": None,
        "model_max_length": 512,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "errors": "replace",
    }
    if chat_template:
        settings["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
