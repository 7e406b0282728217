"""The gate of a tiny base: on held-out problems, in programs without a flaw, are the digits right?

Reinforcement learning chooses among habits; it does not repair copying. So a base is
fit for the quickstart only if every digit of its code, and of its box, is right in at
least NEEDED of the documents of *every* family.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from torl_jax.data import arithmetic, corpus
from torl_jax.data.rows import ROW, Rows, encode, pack
from torl_jax.model import heads
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer

NEEDED = 0.9  # least share of documents with every digit right
DOCUMENTS = 128  # a family


class Digits(NamedTuple):
    """Shares of documents, each under teacher forcing.

    `greedy`: every digit is the likeliest token. `sampled`: the mean probability
    that all of them are right when sampled at T=1.
    """

    greedy: float
    sampled: float


Table = dict[str, dict[str, Digits]]  # family -> code, box


def _masked(right_BT: np.ndarray, logp_BT: np.ndarray, where_BT: np.ndarray) -> Digits:
    greedy_B = np.all(right_BT | ~where_BT, axis=1)
    sampled_B = np.exp(np.sum(np.where(where_BT, logp_BT, 0.0), axis=1))
    return Digits(float(np.mean(greedy_B)), float(np.mean(sampled_B)))


def measure(config: ModelConfig, params: dict, tokenizer: Tokenizer, seed: int = 0) -> Table:
    """Per family, {"code": ..., "box": ...} over held-out programs without a flaw."""
    numeric = np.array(
        [any(c.isdigit() for c in tokenizer.decode([i])) for i in range(config.vocab_size)]
    )

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
    for family in arithmetic.FAMILIES:
        documents = [
            encode(corpus.document(seed, i, "code", (family,), held_out=True), tokenizer)
            for i in range(DOCUMENTS)
        ]
        rows = [pack([document], 1)[0] for document in documents]
        batch = Rows(*(np.concatenate(column) for column in zip(*rows, strict=True)))
        right_BT, logp_BT = map(np.asarray, read(params, batch))
        piece_BT = np.zeros((len(documents), ROW), np.int32)
        for row, document in enumerate(documents):
            piece_BT[row, : len(document.piece)] = document.piece
        digit_BT = numeric[batch.tokens_BT] & (piece_BT > 0)
        # Pieces: 0 the prompt, 1 the program, 2 what it printed, 3 the answer.
        table[family] = {
            name: _masked(right_BT, logp_BT, (digit_BT & (piece_BT == piece))[:, 1:])
            for name, piece in (("code", 1), ("box", 3))
        }
    return table


def failures(table: Table) -> list[str]:
    """The gate's cells below NEEDED, in words."""
    return [
        f"{family} {name} {digits.greedy:.2f}"
        for family, row in table.items()
        for name, digits in row.items()
        if digits.greedy < NEEDED
    ]


def markdown(table: Table) -> str:
    """The gate as a table."""
    lines = [
        "| family | code, greedy | code, T=1 | box, greedy | box, T=1 |",
        "|---|---|---|---|---|",
    ]
    for family, row in table.items():
        cells = [f"{x:.3f}" for digits in row.values() for x in digits]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)
