r"""Makes a tiny base: a seeded corpus, a tokenizer, a decoder trained from nothing, a gate.

    python -m torl_jax.pretrain --out=DIR [--corpus=tools|thoughts]

1. A corpus of `data/corpora.py` writes documents, `data/vocabulary.py` a tokenizer from the first
   of them.
2. Documents are packed into rows; segment ids keep them apart.
3. AdamW on next-token cross entropy over everything after the prompt: questions are
   given, never generated, and their operands are incompressible noise in the loss.
   Tool text is learnt too, as a corpus of transcripts would teach it.
4. The gate: on held-out problems, in documents without a flaw, is everything copied right?
   Reinforcement learning chooses among habits; it does not repair copying.
5. The folder is Hugging Face's layout, with gate.json and a model card.

No document is read twice. The result is a pure function of the flags (on one machine).
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from tokenizers import Tokenizer

from torl_jax import cli, compilation, gate
from torl_jax.data import corpora, vocabulary
from torl_jax.data.corpora import Corpus
from torl_jax.data.rows import Rows, batches
from torl_jax.errors import UserError
from torl_jax.model import heads, hf
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer, initialise

TOKENIZER_DOCUMENTS = 20_000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a base is trained; each field is a flag, and the defaults made the shipped one."""

    corpus: str = "arithmetic"
    seed: int = 0
    steps: int = 4500
    rows: int = 32
    learning_rate: float = 3e-3
    warmup: int = 100
    layers: int = 3
    width: int = 128
    mlp: int = 256
    init: float = 0.02
    log_every: int = 50

    def __post_init__(self) -> None:
        corpora.named(self.corpus)
        for field in dataclasses.fields(self):
            if field.type is str:
                continue
            least = 0 if field.name in ("seed", "warmup") else 1e-9
            value = getattr(self, field.name)
            if value < least:
                wanted = "0 or more" if least == 0 else "a number above 0"
                raise UserError(f"--{field.name}={value}: expected {wanted}")
        if self.width % 64:
            raise UserError(
                f"--width={self.width}: expected a multiple of 64 (heads come in pairs)"
            )
        if self.steps <= self.warmup:
            raise UserError(
                f"--steps={self.steps} leaves nothing after --warmup={self.warmup}: "
                "raise the first or lower the second"
            )

    def command(self) -> str:
        """The command that makes this base."""
        changed = [
            f"--{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return " ".join(["python -m torl_jax.pretrain", "--out=DIR", *changed])


HELP = {
    "corpus": f"What it reads: {' or '.join(corpora.CORPORA)}.",
    "seed": "Of the corpus and of the initial weights.",
    "steps": "Optimiser steps: linear warm-up, then one cosine to zero.",
    "rows": "Rows a step: "
    + ", ".join(f"{c.name} of {c.row} tokens" for c in corpora.CORPORA.values())
    + ".",
    "learning_rate": "AdamW's peak step size.",
    "warmup": "Steps of linear warm-up.",
    "layers": "Decoder blocks.",
    "width": "Model width; heads are 32 wide, two to a key head.",
    "mlp": "Width of the gated mlp.",
    "init": "Standard deviation of the blocks' initial weights.",
    "log_every": "Steps between lines of progress.",
}


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


def initial(config: ModelConfig, recipe: Recipe) -> dict:
    """The model's own initial parameters, the blocks' weights scaled to `recipe.init`.

    At 0.02 a decoder of width 128 starts with almost even attention and almost no output of it:
    out of a long prompt it learns to copy late. 1 / sqrt(width) is 0.09.
    """
    params = initialise(config, jax.random.key(recipe.seed))
    scale = recipe.init / 0.02
    blocks = {
        name: jax.tree.map(lambda w: w * scale, weights) if isinstance(weights, dict) else weights
        for name, weights in params["blocks"].items()
    }
    return {**params, "blocks": blocks}


def train(
    config: ModelConfig, tokenizer: Tokenizer, recipe: Recipe, corpus: Corpus
) -> tuple[dict, float]:
    """(parameters, mean loss of the last progress line); prints progress."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.warmup, recipe.steps
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01)
    )

    def step(params: dict, state: optax.OptState, batch: Rows):
        loss, gradient = jax.value_and_grad(loss_of, argnums=1)(config, params, batch)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = initial(config, recipe)
    state = optimiser.init(params)
    step_jit = jax.jit(step, donate_argnums=(0, 1))
    source = batches(recipe.seed, tokenizer, recipe.rows, corpus.document, corpus.row)
    start, losses, mean = time.monotonic(), [], float("nan")
    for n in range(1, recipe.steps + 1):
        params, state, loss = step_jit(params, state, next(source))
        losses.append(loss)
        if n % recipe.log_every == 0 or n == recipe.steps:
            mean = float(np.mean(jax.device_get(losses)))
            losses = []
            spent = time.monotonic() - start
            left = spent / n * (recipe.steps - n)
            print(
                f"step {n}/{recipe.steps}  loss {mean:.4f} nats a token  "
                f"{spent:.0f} s spent, {left:.0f} s left",
                flush=True,
            )
    return jax.device_get(params), mean


CARD = """# {title}

A decoder of {parameters:,} parameters in Qwen2.5's architecture, for the quickstart. {about}

Made from nothing but `{module}` by

    {command}

seed {seed}, {steps} steps, {seconds:.0f} s on {device}; last loss {loss:.4f} nats a token.

{mixture}

## The gate

Share of {documents} {gate}: *greedy* means that each is the likeliest token, *T=1* is the mean
probability that sampling gets all of them right. Needed: greedy at least {needed:.2f} everywhere.

{table}
"""


def write(
    folder: Path, config: ModelConfig, params: dict, tokenizer: Tokenizer, corpus: Corpus
) -> None:
    """The model and its tokenizer in Hugging Face layout."""
    hf.save(folder, config, params)
    vocabulary.save(tokenizer, folder, corpus.chat_template)
    generation = {"eos_token_id": config.eos_ids[0], "do_sample": True, "temperature": 1.0}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def report(
    folder: Path,
    recipe: Recipe,
    table: gate.Table,
    parameters: int,
    loss: float,
    seconds: float,
) -> None:
    """gate.json and the model card."""
    corpus = corpora.named(recipe.corpus)
    record = {
        "command": recipe.command(),
        "seconds": round(seconds),
        "loss": loss,
        "needed": corpus.needed,
        "documents_per_family": gate.DOCUMENTS,
        "families": {
            family: {name: digits._asdict() for name, digits in row.items()}
            for family, row in table.items()
        },
    }
    (folder / "gate.json").write_text(json.dumps(record, indent=2) + "\n")
    card = CARD.format(
        title=corpus.title,
        parameters=parameters,
        about=corpus.about,
        module=corpus.module,
        command=recipe.command(),
        seed=recipe.seed,
        steps=recipe.steps,
        seconds=seconds,
        device=f"{jax.device_count()} {jax.devices()[0].platform} device",
        loss=loss,
        mixture=corpus.mixture,
        documents=gate.DOCUMENTS,
        gate=corpus.gate,
        needed=corpus.needed,
        table=gate.markdown(table),
    )
    (folder / "README.md").write_text(card)


def build_tokenizer(corpus: Corpus, seed: int) -> Tokenizer:
    """Of the corpus' first documents that are alike."""
    some = (corpus.document(seed, corpus.typical + i) for i in range(TOKENIZER_DOCUMENTS))
    texts = (text for document in some for _, text in document.pieces)
    return vocabulary.build(texts, corpus.merges, words=corpus.words)


def make(folder: Path, recipe: Recipe) -> list[str]:
    """Makes everything and returns what failed the gate."""
    start = time.monotonic()
    corpus = corpora.named(recipe.corpus)
    tokenizer = build_tokenizer(corpus, recipe.seed)
    end = tokenizer.encode(vocabulary.END_OF_TEXT).ids
    config = ModelConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=recipe.width,
        layers=recipe.layers,
        heads=recipe.width // 32,
        kv_heads=recipe.width // 64,
        head_dim=32,
        d_mlp=recipe.mlp,
        rope_theta=10_000.0,
        tied=True,
        max_positions=512,
        eos_ids=tuple(end),
    )
    print(f"{config.parameter_count:,} parameters, vocabulary {config.vocab_size}", flush=True)
    params, loss = train(config, tokenizer, recipe, corpus)
    write(folder, config, params, tokenizer, corpus)
    table = gate.measure(config, params, tokenizer, recipe.seed, corpus)
    report(folder, recipe, table, config.parameter_count, loss, time.monotonic() - start)
    print(gate.markdown(table))
    return gate.failures(table, corpus.needed)


DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}


def main(arguments: list[str]) -> None:
    """Exit codes: 0 made and passed, 1 made but below the gate, 2 a user's error."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: every option is a --flag")
    values = flags.FLAGS
    if not values.out:
        raise UserError("--out is missing: name the folder to write")
    chosen = values.flag_values_dict()
    recipe = Recipe(**{field.name: chosen[field.name] for field in dataclasses.fields(Recipe)})
    folder = Path(values.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out={folder} exists and is not empty: name a new folder")
    compilation.keep()
    failed = make(folder, recipe)
    if failed:
        needed = corpora.named(recipe.corpus).needed
        words = f"gate failed (needed {needed}): {', '.join(failed)}; train longer (--steps)"
        print(words, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Folder to write, Hugging Face layout (required).")
    for option in dataclasses.fields(Recipe):
        DEFINE[option.type](option.name, getattr(Recipe(), option.name), HELP[option.name])
    cli.run(main, __doc__ or "")
