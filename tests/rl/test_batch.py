"""Door 2: what is trained is what the policy wrote, at the place that predicts it."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.episode import Author, End, Episode, Problem, Segment
from torl_jax.model.config import ModelConfig
from torl_jax.rl.batch import from_episodes
from torl_jax.sampler.engine import Engine
from torl_jax.sampler.sampling import Settings

TINY = ModelConfig(
    vocab_size=12, d_model=12, layers=1, heads=1, kv_heads=1, head_dim=2, d_mlp=1, tied=True
)

POLICY, TOOL, PROMPT = Author.POLICY, Author.TOOL, Author.PROMPT
authors = st.lists(st.tuples(st.sampled_from([POLICY, TOOL]), st.integers(1, 4)), max_size=4)


@st.composite
def episodes(draw):
    """Episodes in which every token and every log-prob is another number."""
    out, token = [], 1
    for _ in range(draw(st.integers(1, 7))):
        segments = []
        for author, count in [(PROMPT, draw(st.integers(1, 4))), *draw(authors)]:
            tokens = tuple(range(token, token + count))
            logps = tuple(-t / 1024 for t in tokens) if author is POLICY else ()
            segments.append(Segment(author, tokens, "", logps))
            token += count
        out.append(Episode(Problem("p", "", ""), 0, tuple(segments), (), End.EOS))
    return out


def batch_of(episodes, keep, row_tokens=32, microbatch_rows=2, rungs=1):
    batch = from_episodes(
        episodes, keep, row_tokens=row_tokens, microbatch_rows=microbatch_rows, rungs=rungs
    )
    return dataclasses.replace(batch, advantage=(1 + batch.episode) / 8)


@given(episodes(), st.data())
def test_trained_is_written_by_the_policy_and_kept(episodes, data):
    keep = np.asarray([data.draw(st.booleans()) for _ in episodes])
    batch = batch_of(episodes, keep)
    wanted = {
        token: (logp, (i + 1) / 8)
        for i, episode in enumerate(episodes)
        if keep[i]
        for segment in episode.segments
        if segment.author is POLICY
        for token, logp in zip(segment.tokens, segment.logps, strict=True)
    }
    trained = batch.mask > 0
    assert set(np.unique(batch.mask)) <= {0.0, 1.0}
    got = {
        int(token): (float(logp), float(advantage))
        for token, logp, advantage in zip(
            batch.targets[trained], batch.sampler_logp[trained], batch.advantage[trained],
            strict=True,
        )
    }  # fmt: skip
    assert trained.sum() == len(wanted)
    assert got.keys() == wanted.keys()
    for token, values in wanted.items():
        assert got[token] == pytest.approx(values, rel=1e-6)


@given(episodes(), st.sampled_from([16 + 4, 32, 64]), st.integers(1, 3), st.integers(1, 3))
def test_every_episode_lies_whole_and_aligned_in_a_segment(episodes, row_tokens, rows, rungs):
    batch = batch_of(episodes, np.ones(len(episodes), bool), row_tokens, rows, rungs)
    M, B, T = batch.tokens.shape
    assert (rows, row_tokens) == (B, T) and -(-len(episodes) // rows) + (rungs > 2) == M
    found = []
    for m, b in np.ndindex(M, B):
        segments = batch.segments[m, b]
        assert m < batch.count or not segments.any()
        assert rungs == 1 or not segments[batch.widths[batch.rung[m]] :].any()
        for segment in range(1, segments.max() + 1):
            where = np.flatnonzero(segments == segment)
            assert (np.diff(where) == 1).all()
            tokens = batch.tokens[m, b, where]
            found.append(tuple(tokens.tolist()))
            assert batch.positions[m, b, where].tolist() == list(range(len(where)))
            assert batch.targets[m, b, where[:-1]].tolist() == tokens[1:].tolist()
            assert batch.mask[m, b, where[-1]] == 0
    assert sorted(found) == sorted(episode.tokens for episode in episodes)
    assert (batch.mask[batch.segments == 0] == 0).all()
    assert batch.segments[batch.count - 1].any()


class Script:
    """A policy that writes what it is told to, whatever it is asked."""

    config, dtype, mesh = TINY, "float32", None

    def apply(self, variables, tokens_BT, positions_BT, segments_BT=None, cache=None, window=None):
        params = variables["params"]
        return 100 * params["embed_VD"][params["next_S"][positions_BT]], cache


def test_reference_response_mask(shared):
    """Trained is what was sampled, up to and with the first end of text and no further."""
    vectors = json.loads((shared / "vectors/toolrl.json").read_text())["algorithm_vectors"]
    engine_of = functools.partial(
        Engine, slots=1, capacity=16, segment=8, extend_rows=1, vocab=12, ladder=(4,),
        stop_SV=np.zeros((1, 12), np.uint16),
    )  # fmt: skip
    for case in vectors["response_mask"]:
        engine, prompt = engine_of(Script(), end_V=np.arange(12) == case["eos"]), (11, 10)
        for ids, mask in zip(case["ids"], case["mask"], strict=True):
            script = np.zeros(16, np.int32)
            script[1 : 1 + len(ids)] = ids
            params = {"embed_VD": np.eye(12, dtype=np.float32), "next_S": script}
            engine.load(params, jax.random.key(0), Settings.of())
            slot = engine.admit(prompt, problem=0, sample=0, budget=len(ids), watch=False)
            (chunk,) = engine.decode()
            engine.release(slot)
            segments = (Segment(PROMPT, prompt, ""), Segment(POLICY, chunk.tokens, "", chunk.logps))
            episode = Episode(Problem("p", "", ""), 0, segments, (), End.EOS)
            made = batch_of([episode], [True], row_tokens=8, microbatch_rows=1)
            trained = made.mask[0, 0] > 0
            assert made.targets[0, 0][trained].tolist() == ids[: sum(mask)]
            assert trained[1 : 1 + len(ids)].tolist() == [bool(m) for m in mask]


def test_there_may_be_room_for_more_episodes_than_come():
    one = Episode(Problem("p", "", ""), 0, (Segment(PROMPT, (1, 2), ""),), (), End.EOS)
    made = from_episodes([one], np.ones(1, bool), row_tokens=8, microbatch_rows=2, most=5)
    assert made.tokens.shape == (3, 2, 8) and made.count == 1


def test_shapes_do_not_depend_on_lengths_or_on_what_is_kept():
    short, long = (
        Episode(Problem("p", "", ""), 0, (Segment(PROMPT, tuple(range(n)), ""),), (), End.EOS)
        for n in (2, 30)
    )
    shapes = {
        tuple(np.shape(x) for x in jax.tree.leaves(batch))
        for batch in (
            batch_of([short] * 5, np.ones(5, bool)),
            batch_of([long] * 5, np.ones(5, bool)),
            batch_of([long] * 5, np.zeros(5, bool)),
        )
    }
    assert len(shapes) == 1
    assert batch_of([long] * 5, np.ones(5, bool)).count == 3
    assert batch_of([short] * 5, np.ones(5, bool)).count == 1
    assert batch_of([long] * 5, np.zeros(5, bool)).count == 0
