"""Corpus documents as packed rows of token ids, for pretraining."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from torl_jax.data import corpus, vocabulary
from torl_jax.data.corpus import Document
from torl_jax.episode import Author

ROW = 128  # tokens a row; the longest document of `corpus.py` has fewer


class Rows(NamedTuple):
    """A packed batch, [B, T] each: segment 0 is padding, weight 1.0 where a token is learnt."""

    tokens_BT: np.ndarray
    positions_BT: np.ndarray
    segments_BT: np.ndarray
    weight_BT: np.ndarray


class Encoded(NamedTuple):
    """A document as ids; `authors` says who wrote each, `piece` which piece it lies in."""

    ids: list[int]
    authors: list[Author]
    piece: list[int]


def encode(document: Document, tokenizer: Tokenizer) -> Encoded:
    """Every piece encoded alone, as a rollout does; end-of-text is the policy's last token."""
    ids, authors, piece = [], [], []
    for i, (author, text) in enumerate(document.pieces):
        new = tokenizer.encode(text).ids
        if i == len(document.pieces) - 1:
            new = [*new, tokenizer.token_to_id(vocabulary.END_OF_TEXT)]
        ids += new
        authors += [author] * len(new)
        piece += [i] * len(new)
    return Encoded(ids, authors, piece)


def pack(documents: Sequence[Encoded], rows: int, width: int = ROW) -> tuple[Rows, int]:
    """First-fit packing; (batch, how many of `documents` it holds).

    Stops at the first document that fits in no row. A document longer than a row is
    a ValueError.
    """
    shape = (rows, width)
    tokens_BT, positions_BT, segments_BT = np.zeros((3, *shape), np.int32)
    batch = Rows(tokens_BT, positions_BT, segments_BT, np.zeros(shape, np.float32))
    used, count = [0] * rows, [0] * rows
    for taken, document in enumerate(documents):
        length = len(document.ids)
        if length > width:
            raise ValueError(f"a document of {length} tokens does not fit a row of {width}")
        row = next((r for r in range(rows) if used[r] + length <= width), None)
        if row is None:
            return batch, taken
        where = slice(used[row], used[row] + length)
        used[row] += length
        count[row] += 1
        batch.tokens_BT[row, where] = document.ids
        batch.positions_BT[row, where] = range(length)
        batch.segments_BT[row, where] = count[row]
        batch.weight_BT[row, where] = [a is not Author.PROMPT for a in document.authors]
    return batch, len(documents)


def batches(
    seed: int,
    tokenizer: Tokenizer,
    rows: int,
    document: Callable[[int, int], Document] = corpus.document,
    width: int = ROW,
) -> Iterator[Rows]:
    """A corpus from its first document on, for ever; `document(seed, index)` gives each."""
    index, waiting = 0, []
    while True:
        while sum(len(d.ids) for d in waiting) < rows * width:
            waiting.append(encode(document(seed, index), tokenizer))
            index += 1
        batch, taken = pack(waiting, rows, width)
        waiting = waiting[taken:]
        yield batch
