r"""Makes the tiny base: a seeded corpus, a tokenizer, a decoder trained from nothing, a gate.

    python -m torl_jax.pretrain --out=assets/tiny-base

1. `data/corpus.py` writes documents, `data/vocabulary.py` a tokenizer from the first of them.
2. Documents are packed into rows of ROW tokens; segment ids keep them apart.
3. AdamW on next-token cross entropy over everything after the prompt: questions are
   given, never generated, and their operands are incompressible noise in the loss.
   Tool text is learnt too, as a corpus of transcripts would teach it.
4. The gate: on held-out problems, in programs without a flaw, are the digits right?
   Reinforcement learning chooses among habits; it does not repair copying.
5. The folder is Hugging Face's layout, with gate.json and a model card.

No document is read twice. The result is a pure function of the flags (on one machine).
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from tokenizers import Tokenizer

from torl_jax import cli
from torl_jax.data import arithmetic, corpus, vocabulary
from torl_jax.episode import Author
from torl_jax.errors import UserError
from torl_jax.model import heads, hf
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer, initialise

ROW = 128  # tokens a row; the longest document has fewer
TOKENIZER_DOCUMENTS = 20_000
GATE = 0.9  # least share of documents with every digit right
GATE_DOCUMENTS = 128  # a family

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "folder to write, Hugging Face layout (required)")
flags.DEFINE_integer("seed", 0, "of the corpus and of the initial weights")
flags.DEFINE_integer("steps", 4500, "optimiser steps: linear warm-up, then one cosine to zero", 2)
flags.DEFINE_integer("rows", 32, f"rows of {ROW} tokens a step", 1)
flags.DEFINE_float("learning_rate", 3e-3, "AdamW's peak step size", 0.0)
flags.DEFINE_integer("warmup", 100, "steps of linear warm-up", 0)
flags.DEFINE_integer("layers", 3, "decoder blocks", 1)
flags.DEFINE_integer("width", 128, "model width; heads are 32 wide, two to a key head", 64)
flags.DEFINE_integer("mlp", 256, "width of the gated mlp", 1)
flags.DEFINE_integer("log_every", 50, "steps between lines of progress", 1)


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


def encode(document: corpus.Document, tokenizer: Tokenizer) -> Encoded:
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


def batches(seed: int, tokenizer: Tokenizer, rows: int) -> Iterator[Rows]:
    """The corpus from its first document on, for ever."""
    index, waiting = 0, []
    while True:
        while sum(len(d.ids) for d in waiting) < rows * ROW:
            waiting.append(encode(corpus.document(seed, index), tokenizer))
            index += 1
        batch, taken = pack(waiting, rows)
        waiting = waiting[taken:]
        yield batch


def token_logps(config: ModelConfig, params: dict, batch: Rows) -> jax.Array:
    """Log-prob [B, T-1] of each token but the first given those before it, nats."""
    hidden_BTD, _ = Transformer(config).apply(
        {"params": params}, batch.tokens_BT, batch.positions_BT, batch.segments_BT
    )
    targets_BT = jnp.asarray(batch.tokens_BT)[:, 1:]
    logp_BT, _ = heads.token_scores(params, hidden_BTD[:, :-1], targets_BT, chunk=4096)
    return logp_BT


def loss_of(config: ModelConfig, params: dict, batch: Rows) -> jax.Array:
    """Mean negative log-prob over learnt tokens, nats a token."""
    # A document's first token is its prompt's, so no weight reaches across documents.
    weight_BT = batch.weight_BT[:, 1:]
    return -jnp.sum(token_logps(config, params, batch) * weight_BT) / jnp.sum(weight_BT)


def train(config: ModelConfig, tokenizer: Tokenizer) -> tuple[dict, float]:
    """(parameters, mean loss of the last progress line); prints progress."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, FLAGS.learning_rate, FLAGS.warmup, FLAGS.steps
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01)
    )

    def step(params: dict, state: optax.OptState, batch: Rows):
        loss, gradient = jax.value_and_grad(loss_of, argnums=1)(config, params, batch)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = initialise(config, jax.random.key(FLAGS.seed))
    state = optimiser.init(params)
    step_jit = jax.jit(step, donate_argnums=(0, 1))
    source = batches(FLAGS.seed, tokenizer, FLAGS.rows)
    start, losses, mean = time.monotonic(), [], float("nan")
    for n in range(1, FLAGS.steps + 1):
        params, state, loss = step_jit(params, state, next(source))
        losses.append(loss)
        if n % FLAGS.log_every == 0 or n == FLAGS.steps:
            mean = float(np.mean(jax.device_get(losses)))
            losses = []
            spent = time.monotonic() - start
            left = spent / n * (FLAGS.steps - n)
            print(
                f"step {n}/{FLAGS.steps}  loss {mean:.4f} nats a token  "
                f"{spent:.0f} s spent, {left:.0f} s left",
                flush=True,
            )
    return jax.device_get(params), mean


class Digits(NamedTuple):
    """Shares of documents, each under teacher forcing.

    `greedy`: every digit is the likeliest token. `sampled`: the mean probability
    that all of them are right when sampled at T=1.
    """

    greedy: float
    sampled: float


def _masked(right_BT: np.ndarray, logp_BT: np.ndarray, where_BT: np.ndarray) -> Digits:
    greedy_B = np.all(right_BT | ~where_BT, axis=1)
    sampled_B = np.exp(np.sum(np.where(where_BT, logp_BT, 0.0), axis=1))
    return Digits(float(np.mean(greedy_B)), float(np.mean(sampled_B)))


def gate(
    config: ModelConfig, params: dict, tokenizer: Tokenizer, seed: int = 0
) -> dict[str, dict[str, Digits]]:
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
            for i in range(GATE_DOCUMENTS)
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


def failures(table: dict[str, dict[str, Digits]]) -> list[str]:
    """The gate's cells below GATE, in words."""
    return [
        f"{family} {name} {digits.greedy:.2f}"
        for family, row in table.items()
        for name, digits in row.items()
        if digits.greedy < GATE
    ]


def markdown(table: dict[str, dict[str, Digits]]) -> str:
    """The gate as a table."""
    lines = [
        "| family | code, greedy | code, T=1 | box, greedy | box, T=1 |",
        "|---|---|---|---|---|",
    ]
    for family, row in table.items():
        cells = [f"{x:.3f}" for digits in row.values() for x in digits]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


CARD = """# tiny-base

A decoder of {parameters:,} parameters in Qwen2.5's architecture, for the quickstart. It is a
*base* model: it has read problems answered at sight, problems answered by a program, and
programs with mistakes in them and what came of them. It knows these habits and prefers none.

Made from nothing but `torl_jax/data/corpus.py` by

    {command}

seed {seed}, {steps} steps, {seconds:.0f} s on {device}; last loss {loss:.4f} nats a token.

Mixture: {direct:.0%} answered at sight, {code:.0%} by a program; of the programs
{flawed:.0%} have a flaw ({flaws}).
After a program that failed visibly {retry:.0%} try again with a right one, the others state the
answer. Problems: {families}; all equally often, sums twice.
Problems whose operands are held out (one in {held_out}) never occur in it.

## The gate

Share of {documents} held-out documents a family (programs without a flaw, teacher forcing) in
which every digit is right: *greedy* means that each is the likeliest token, *T=1* is the mean
probability that sampling gets all of them right. Needed: greedy at least {needed:.2f} everywhere.

{table}
"""


def write(folder: Path, config: ModelConfig, params: dict, tokenizer: Tokenizer) -> None:
    """The model and its tokenizer in Hugging Face layout."""
    hf.save(folder, config, params)
    vocabulary.save(tokenizer, folder)
    generation = {"eos_token_id": config.eos_ids[0], "do_sample": True, "temperature": 1.0}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def report(
    folder: Path, table: dict[str, dict[str, Digits]], parameters: int, loss: float, seconds: float
) -> None:
    """gate.json and the model card."""
    changed = [f for f in FLAGS.get_key_flags_for_module(sys.modules[__name__]) if f.present]
    command = " ".join(
        ["python -m torl_jax.pretrain", *(f"--{flag.name}={flag.value}" for flag in changed)]
    )
    record = {
        "command": command,
        "seconds": round(seconds),
        "loss": loss,
        "needed": GATE,
        "documents_per_family": GATE_DOCUMENTS,
        "families": {
            family: {name: digits._asdict() for name, digits in row.items()}
            for family, row in table.items()
        },
    }
    (folder / "gate.json").write_text(json.dumps(record, indent=2) + "\n")
    total = sum(corpus.FLAWS.values())
    card = CARD.format(
        parameters=parameters,
        command=command,
        seed=FLAGS.seed,
        steps=FLAGS.steps,
        seconds=seconds,
        device=f"{jax.device_count()} {jax.devices()[0].platform} device",
        loss=loss,
        direct=1 - corpus.CODE_SHARE,
        code=corpus.CODE_SHARE,
        flawed=corpus.FLAW_SHARE,
        flaws=", ".join(f"{name} {share / total:.0%}" for name, share in corpus.FLAWS.items()),
        retry=corpus.RETRY_SHARE,
        families=", ".join(arithmetic.FAMILIES),
        held_out=arithmetic.HELD_OUT_SHARE,
        documents=GATE_DOCUMENTS,
        needed=GATE,
        table=markdown(table),
    )
    (folder / "README.md").write_text(card)


def make(folder: Path) -> list[str]:
    """Makes everything and returns what failed the gate."""
    start = time.monotonic()
    first = (corpus.document(FLAGS.seed, i) for i in range(TOKENIZER_DOCUMENTS))
    tokenizer = vocabulary.build(text for document in first for _, text in document.pieces)
    end = tokenizer.encode(vocabulary.END_OF_TEXT).ids
    config = ModelConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=FLAGS.width,
        layers=FLAGS.layers,
        heads=FLAGS.width // 32,
        kv_heads=FLAGS.width // 64,
        head_dim=32,
        d_mlp=FLAGS.mlp,
        rope_theta=10_000.0,
        tied=True,
        max_positions=512,
        eos_ids=tuple(end),
    )
    print(f"{config.parameter_count:,} parameters, vocabulary {config.vocab_size}", flush=True)
    params, loss = train(config, tokenizer)
    write(folder, config, params, tokenizer)
    table = gate(config, params, tokenizer, FLAGS.seed)
    report(folder, table, config.parameter_count, loss, time.monotonic() - start)
    print(markdown(table))
    return failures(table)


def main(arguments: list[str]) -> None:
    """Exit codes: 0 made and passed, 1 made but below the gate, 2 a user's error."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: every option is a --flag")
    if not FLAGS.out:
        raise UserError("--out is missing: name the folder to write")
    if FLAGS.width % 64:
        raise UserError(f"--width={FLAGS.width}: expected a multiple of 64 (heads come in pairs)")
    if FLAGS.steps <= FLAGS.warmup:
        raise UserError(
            f"--steps={FLAGS.steps} leaves nothing after --warmup={FLAGS.warmup}: "
            "raise the first or lower the second"
        )
    folder = Path(FLAGS.out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out={folder} is a file: name a folder to write")
    failed = make(folder)
    if failed:
        words = f"gate failed (needed {GATE}): {', '.join(failed)}; train longer (--steps)"
        print(words, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, __doc__ or "")
