"""A tiny policy, episodes in its tokens, and learners of several shapes and meshes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from torl_jax import config
from torl_jax.episode import Author, End, Episode, Problem, Segment
from torl_jax.learner.learner import Learner
from torl_jax.model import heads
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.parallel import mesh
from torl_jax.rl.batch import by_token, from_episodes

# Everything divides by two: the mesh data=2, fsdp=2, tp=2 splits each axis that it can.
SHAPE = ModelConfig(
    vocab_size=32, d_model=16, layers=2, heads=4, kv_heads=2, head_dim=6, d_mlp=20,
    rope_theta=100.0, tied=False,
)  # fmt: skip
VOCAB, LONGEST, EPISODES = 30, 20, 8
MODEL = Transformer(SHAPE)


@pytest.fixture(scope="session")
def model() -> Transformer:
    return MODEL


@pytest.fixture(scope="session")
def params() -> dict:
    rng = np.random.default_rng(0)

    def draw(path, x):
        around = 1.0 if "norm" in path[-1].key else 0.0
        return (around + 0.3 * rng.normal(size=x.shape)).astype(np.float32)

    abstract = jax.eval_shape(lambda: initialise(SHAPE, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(draw, abstract)


@pytest.fixture(scope="session")
def logps(params):
    """(tokens of an episode) -> log-prob of each token but the first, from a run of its own."""

    @jax.jit
    def run(params, tokens_1T):
        positions_1T = np.arange(LONGEST)[None]
        hidden, _ = MODEL.apply({"params": params}, tokens_1T, positions_1T)
        targets = jax.numpy.roll(tokens_1T, -1, axis=1)
        return heads.token_scores(params, hidden, targets, vocab=VOCAB)[0][0]

    def of(tokens):
        padded = np.zeros((1, LONGEST), int)
        padded[0, : len(tokens)] = tokens
        return np.asarray(run(params, padded))[: len(tokens) - 1]

    return of


@pytest.fixture(scope="session")
def episodes(logps) -> list[Episode]:
    """Prompt, policy, tool, policy: with the log-probs that `params` really gives."""
    rng, out = np.random.default_rng(1), []
    plan = (Author.PROMPT, Author.POLICY, Author.TOOL, Author.POLICY)
    for i in range(EPISODES):
        runs = [(a, rng.integers(0, VOCAB, rng.integers(3, 6)).tolist()) for a in plan[: 3 + i % 2]]
        found = logps([t for _, tokens in runs for t in tokens])
        segments, at = [], 0
        for author, tokens in runs:
            own = found[at - 1 : at - 1 + len(tokens)].tolist() if author is Author.POLICY else ()
            segments.append(Segment(author, tuple(tokens), "", tuple(own)))
            at += len(tokens)
        out.append(Episode(Problem(str(i // 4), "", ""), i % 4, tuple(segments), (), End.EOS))
    return out


ADVANTAGES = np.random.default_rng(2).normal(size=EPISODES).astype(np.float32)


@pytest.fixture(scope="session")
def batch(episodes):
    """batch(some=slice, advantages=..., keep=..., rows=, row_tokens=, ..) of the episodes."""

    def make(
        some=slice(None), *, advantages=ADVANTAGES, keep=None, rows=8, row_tokens=22, rungs=1,
        weigh=by_token,
    ):  # fmt: skip
        chosen = [episodes[i] for i in np.arange(EPISODES)[some]]
        keep = np.ones(EPISODES, bool) if keep is None else np.asarray(keep)
        made = from_episodes(
            chosen, keep[some], row_tokens=row_tokens, microbatch_rows=rows, rungs=rungs,
            weigh=weigh, longest=16,
        )  # fmt: skip
        worth_E = np.asarray(advantages[some], np.float32)
        return dataclasses.replace(made, advantage=worth_E[made.episode] * made.mask)

    return make


@pytest.fixture(scope="session")
def learner():
    """learner(rows=8, row_tokens=22, mesh=(1, 1, 1), **rl): made once for each combination."""

    @functools.cache
    def make(
        rows=8, row_tokens=22, sizes=(1, 1, 1), moments="float32", offload=False, warmup=0,
        value_lr=0.05, value_clip=0.5, samples=(), **rl,
    ) -> Learner:  # fmt: skip
        cfg = config.Config(
            sampler=config.Sampler(max_prompt=6, max_response=16),
            # A large eps keeps Adam from blowing rounding errors up to whole steps.
            optimizer=config.Optimizer(
                lr=0.02, eps=1e-3, clip_norm=0.5, weight_decay=0.0, moments=moments, offload=offload
            ),
            learner=config.Learner(row_tokens=row_tokens, microbatch_rows=rows, head_chunk=64),
            rl=dataclasses.replace(config.Rl(), **rl),
            filters=config.Filters(samples=samples),
            critic=config.Critic(lr=value_lr, warmup=warmup, clip=value_clip),
        )
        devices = jax.devices()[: int(np.prod(sizes))]
        return Learner(cfg, MODEL, VOCAB, mesh.make(*sizes, devices=devices))

    return make
