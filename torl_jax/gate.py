"""The gate of a tiny base: on held-out problems, in documents without a flaw, is it copied right?

Reinforcement learning chooses among habits; it does not repair copying. So a base is
fit for a quickstart only if every digit of its code, and of its box (or every name and
value of its calls), is right in `corpus.needed` of the documents of *every* family.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from torl_jax.data.corpora import ARITHMETIC, Corpus, Span
from torl_jax.data.corpus import Document
from torl_jax.data.rows import Rows, encode, pack
from torl_jax.model import heads
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer

DOCUMENTS = 128  # a family


class Digits(NamedTuple):
    """Shares of documents, each under teacher forcing.

    `greedy`: every digit (every token of the column) is the likeliest. `sampled`: the
    mean probability that all of them are right when sampled at T=1.
    """

    greedy: float
    sampled: float


Table = dict[str, dict[str, Digits]]  # family -> column, as in "code" and "box"


def _masked(right_BT: np.ndarray, logp_BT: np.ndarray, where_BT: np.ndarray) -> Digits:
    greedy_B = np.all(right_BT | ~where_BT, axis=1)
    sampled_B = np.exp(np.sum(np.where(where_BT, logp_BT, 0.0), axis=1))
    return Digits(float(np.mean(greedy_B)), float(np.mean(sampled_B)))


def _looked_at(
    document: Document, spans: Sequence[Span], tokenizer: Tokenizer, width: int
) -> np.ndarray:
    """Which tokens [T] of the document, encoded piece by piece, lie in any span."""
    where_T, at = np.zeros(width, bool), 0
    for piece, (_, text) in enumerate(document.pieces):
        offsets = tokenizer.encode(text).offsets
        mine = [(start, end) for which, start, end in spans if which == piece]
        for n, (first, last) in enumerate(offsets, start=at):
            where_T[n] = any(first < end and start < last for start, end in mine)
        at += len(offsets)
    return where_T


def measure(
    config: ModelConfig,
    params: dict,
    tokenizer: Tokenizer,
    seed: int = 0,
    corpus: Corpus = ARITHMETIC,
) -> Table:
    """Per family and column of the corpus, over held-out documents without a flaw."""

    @jax.jit
    def read(params: dict, batch: Rows) -> tuple[jax.Array, jax.Array]:
        hidden_BTD, _ = Transformer(config).apply(
            {"params": params}, batch.tokens_BT, batch.positions_BT, batch.segments_BT
        )
        logits_BTV = heads.logits(params, hidden_BTD[:, :-1])
        target_BT1 = batch.tokens_BT[:, 1:, None]
        logp_BTV = jax.nn.log_softmax(logits_BTV)
        right_BT = jnp.argmax(logits_BTV, axis=-1) == target_BT1[..., 0]
        return right_BT, jnp.take_along_axis(logp_BTV, target_BT1, axis=-1)[..., 0]

    table = {}
    for family in corpus.kinds:
        documents = [corpus.probe(seed, i, family) for i in range(DOCUMENTS)]
        rows = [pack([encode(document, tokenizer)], 1, corpus.row)[0] for document in documents]
        batch = Rows(*(np.concatenate(column) for column in zip(*rows, strict=True)))
        right_BT, logp_BT = map(np.asarray, read(params, batch))
        found = [corpus.spans(document) for document in documents]
        table[family] = {}
        for name in found[0]:
            where_BT = np.stack(
                [
                    _looked_at(document, spans[name], tokenizer, corpus.row)
                    for document, spans in zip(documents, found, strict=True)
                ]
            )
            table[family][name] = _masked(right_BT, logp_BT, where_BT[:, 1:])
    return table


def failures(table: Table, needed: float) -> list[str]:
    """The gate's cells below `needed`, in words."""
    return [
        f"{family} {name} {digits.greedy:.2f}"
        for family, row in table.items()
        for name, digits in row.items()
        if digits.greedy < needed
    ]


def markdown(table: Table) -> str:
    """The gate as a table; a family without a column has a dash there."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    titles = [f"{name}, {which}" for name in columns for which in ("greedy", "T=1")]
    lines = [f"| family | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
    for family, row in table.items():
        cells = [
            f"{x:.3f}" if name in row else "-"
            for name in columns
            for x in row.get(name, Digits(0.0, 0.0))
        ]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)
