"""Door 2: what is trained is what the policy wrote, at the place that predicts it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.episode import Author, End, Episode, Problem, Segment
from torl_jax.rl.batch import credit, from_episodes, pack

lengths = st.lists(st.integers(1, 20), max_size=30)


@given(lengths, st.integers(20, 50))
def test_pack(lengths, room):
    rows = pack(lengths, room)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= room for row in rows)
    assert len(rows) <= len(lengths)
    assert rows == pack(list(lengths), room)
    # First fit: no two rows could have been one.
    loads = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > room


def test_pack_takes_the_longest_first_and_keeps_the_order_of_equals():
    assert pack([3, 5, 3, 8, 2], 8) == [[3], [1, 0], [2, 4]]


def test_pack_refuses_what_cannot_fit():
    with pytest.raises(ValueError, match="9 tokens exceeds rows of 8"):
        pack([3, 9], 8)


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


def batch_of(episodes, keep, row_tokens=32, microbatch_rows=2):
    batch = from_episodes(episodes, keep, row_tokens=row_tokens, microbatch_rows=microbatch_rows)
    return credit(batch, np.arange(1, len(episodes) + 1) / 8)


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


@given(episodes(), st.sampled_from([16 + 4, 32, 64]), st.integers(1, 3))
def test_every_episode_lies_whole_and_aligned_in_a_segment(episodes, row_tokens, rows):
    batch = batch_of(episodes, np.ones(len(episodes), bool), row_tokens, rows)
    M, B, T = batch.tokens.shape
    assert (rows, row_tokens) == (B, T) and -(-len(episodes) // rows) == M
    found = []
    for m, b in np.ndindex(M, B):
        segments = batch.segments[m, b]
        assert m < batch.count or not segments.any()
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


def test_shapes_do_not_depend_on_lengths_or_on_what_is_kept():
    short, long = (
        Episode(Problem("p", "", ""), 0, (Segment(PROMPT, tuple(range(n)), ""),), (), End.EOS)
        for n in (2, 30)
    )
    shapes = {
        tuple(x.shape for x in vars(batch).values() if x is not None)
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
