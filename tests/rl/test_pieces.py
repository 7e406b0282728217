"""The pieces of the loss: ratios, surrogates, importance weights, what a token weighs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.episode import Author, End, Episode, Problem, Segment
from torl_jax.rl import loss
from torl_jax.rl.batch import WEIGHTS, from_episodes

RNG = np.random.default_rng(11)
# Two packed episodes and padding; in the first a tool spoke at places 2 and 3.
SEGMENTS = np.asarray([[1, 1, 1, 1, 1, 2, 2, 2, 0, 0]], np.int32)
MASK = np.asarray([[1, 1, 0, 0, 1, 1, 1, 0, 0, 0]], np.float32)
OLD = RNG.normal(size=MASK.shape).astype(np.float32)
NEW = OLD + np.float32(0.3) * RNG.normal(size=MASK.shape).astype(np.float32)
ADVANTAGE = np.asarray([[1, 1, 9, 9, 1, -2, -2, 9, 9, 9]], np.float32)
OWN = MASK[0] > 0


def run(logp=NEW, advantage=ADVANTAGE, weight=None, **kwargs):
    """(loss, its gradient [T], statistics)."""

    def value(logp):
        return loss.policy_loss(logp, OLD, advantage, MASK, SEGMENTS, weight, **kwargs)

    (found, stats), grad = jax.value_and_grad(value, has_aux=True)(jnp.asarray(logp))
    return float(found), np.asarray(grad)[0], stats


def test_a_sequences_ratio_is_the_geometric_mean_of_its_tokens():
    gap = np.where(MASK > 0, NEW - OLD, 0)
    found = np.asarray(loss.sequencewise(gap, MASK, SEGMENTS))[0]
    first, second = gap[0, [0, 1, 4]].mean(), gap[0, [5, 6]].mean()
    np.testing.assert_allclose(found[:5], np.exp(first), rtol=1e-6)
    np.testing.assert_allclose(found[5:8], np.exp(second), rtol=1e-6)


def test_gspo_by_hand():
    """mean over episodes of min(s A, clip(s) A), with the weights of a mean over episodes."""
    weight = np.where(SEGMENTS == 1, 5 / (2 * 3), 5 / (2 * 2)).astype(np.float32)
    found, grad, _ = run(weight=weight, ratio="sequence", clip_low=0.05, clip_high=0.05)
    wanted = 0.0
    for places, advantage in (([0, 1, 4], 1.0), ([5, 6], -2.0)):
        s = np.exp((NEW - OLD)[0, places].mean())
        wanted -= min(s * advantage, np.clip(s, 0.95, 1.05) * advantage) / 2
    assert found == pytest.approx(wanted, rel=1e-5)
    # Tokens of one episode share one gradient.
    np.testing.assert_allclose(grad[[0, 1, 4]], grad[0], rtol=1e-5)
    np.testing.assert_allclose(grad[[5, 6]], grad[5], rtol=1e-5)


def test_gspo_is_clipped_as_a_whole():
    far = OLD + np.float32(0.5) * (SEGMENTS == 1) - np.float32(0.5) * (SEGMENTS == 2)
    _, grad, stats = run(logp=far, ratio="sequence")
    assert not np.any(grad)  # up where it should go up, down where down: both beyond the clip
    assert stats["clip_fraction"] == 1


@pytest.mark.parametrize("ratio", loss.RATIOS)
@pytest.mark.parametrize("surrogate", loss.SURROGATES)
def test_at_ratio_one_all_are_the_policy_gradient(ratio, surrogate):
    _, grad, stats = run(logp=OLD, ratio=ratio, surrogate=surrogate)
    np.testing.assert_allclose(grad, np.where(OWN, -ADVANTAGE[0] / 5, 0), atol=1e-6)
    assert stats["clip_fraction"] == 0


@pytest.mark.parametrize("ratio", loss.RATIOS)
@pytest.mark.parametrize("surrogate", loss.SURROGATES)
def test_places_of_tools_have_no_gradient_and_no_say(ratio, surrogate):
    found, grad, _ = run(ratio=ratio, surrogate=surrogate)
    assert not np.any(grad[~OWN]) and np.any(grad[OWN])
    wild = np.where(MASK > 0, NEW, np.float32(300.0))
    again, grad, _ = run(logp=wild, ratio=ratio, surrogate=surrogate)
    assert again == found and np.isfinite(grad).all()


def test_cispo_by_hand():
    ratio = np.exp(NEW - OLD)
    weight = np.clip(ratio, 0.9, 1.1)
    found, grad, stats = run(surrogate="cispo", clip_low=0.1, clip_high=0.1)
    assert found == pytest.approx(-(weight * ADVANTAGE * NEW)[MASK > 0].sum() / 5, rel=1e-5)
    np.testing.assert_allclose(grad, np.where(OWN, -weight * ADVANTAGE / 5, 0)[0], rtol=1e-5)
    outside = ((ratio < 0.9) | (ratio > 1.1))[MASK > 0]
    assert stats["clip_fraction"] == pytest.approx(outside.mean()) and outside.any()


def test_cispo_keeps_the_gradient_that_the_clip_takes():
    far = OLD + np.float32(1.0)
    first = [0, 1, 4]
    assert not np.any(run(logp=far)[1][first])
    assert np.all(run(logp=far, surrogate="cispo")[1][first] < 0)


@given(st.floats(-20, 20), st.floats(1, 5))
def test_importance_is_truncated_and_has_no_gradient(gap, cap):
    old, sampler = np.full((1, 2), gap, np.float32), np.zeros((1, 2), np.float32)
    mask = np.asarray([[1, 0]], np.float32)

    def total(old):
        return loss.importance(old, sampler, mask, cap).sum()

    found = np.asarray(loss.importance(old, sampler, mask, cap))[0]
    assert found[0] == pytest.approx(min(np.exp(np.float32(gap)), cap), rel=1e-4)
    assert found[1] == 1  # a tool's place
    assert not np.any(jax.grad(total)(old))


def episode(written):
    """A prompt, the policy's tokens and a tool's output in between."""
    half = written // 2
    plan = [(Author.PROMPT, 2), (Author.POLICY, half), (Author.TOOL, 3)]
    segments = [
        Segment(author, (1,) * n, "", (-1.0,) * n if author is Author.POLICY else ())
        for author, n in [*plan, (Author.POLICY, written - half)]
        if n
    ]
    return Episode(Problem("p", "", ""), 0, tuple(segments), (), End.EOS)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.data())
def test_what_a_token_weighs(lengths, data):
    """The loss of x is the mean over tokens, the mean of means, or the sum over a constant."""
    keep = np.asarray([data.draw(st.booleans()) for _ in lengths])
    x = RNG.normal(size=len(lengths)).astype(np.float32)  # of all tokens of an episode
    n, kept = np.asarray(lengths, float), keep & (np.asarray(lengths) > 0)
    wanted = {
        "token": (n * x)[kept].sum() / max(n[kept].sum(), 1),
        "sequence": x[kept].mean() if kept.any() else 0.0,
        "constant": (n * x)[kept].sum() / 20 / max(kept.sum(), 1),
    }
    for name, weigh in WEIGHTS.items():
        made = from_episodes(
            [episode(n) for n in lengths], keep, row_tokens=24, microbatch_rows=2,
            weigh=weigh, longest=20,
        )  # fmt: skip
        found = loss.token_mean(made.weight * x[made.episode], made.mask)
        assert float(found) == pytest.approx(wanted[name], abs=1e-5), name
        assert not np.any(made.weight[made.segments == 0])
