"""The clipped surrogate and the KL estimators, by hand and by their relations."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torl_jax.model import heads
from torl_jax.rl import loss

RNG = np.random.default_rng(4)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def one(log_ratio, advantage, **kwargs):
    """(loss, its gradient in logp, clip fraction) of a single token."""
    old, ones = np.full((1, 1), -1.5, np.float32), np.ones((1, 1), np.float32)

    def run(logp):
        return loss.policy_loss(logp, old, advantage * ones, ones, **kwargs)

    (value, stats), grad = jax.value_and_grad(run, has_aux=True)(old + np.float32(log_ratio))
    return float(value), float(grad[0, 0]), float(stats["clip_fraction"])


def test_at_ratio_one_it_is_the_policy_gradient():
    logp, advantage = draw(3, 5), draw(3, 5)
    mask = (RNG.random((3, 5)) < 0.6).astype(np.float32)

    def run(x):
        return loss.policy_loss(x, logp, advantage, mask)[0]

    value, grad = jax.value_and_grad(run)(logp)
    np.testing.assert_allclose(value, -(advantage * mask).sum() / mask.sum(), rtol=1e-5)
    np.testing.assert_allclose(grad, -advantage * mask / mask.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient", "clipped"),
    [
        (1.5, 2.0, -2.6, 0.0, 1.0),  # too high a ratio is not rewarded: 1.3 A
        (1.5, -2.0, 3.0, 3.0, 0.0),  # but it is punished in full
        (0.5, -2.0, 1.8, 0.0, 1.0),  # too low a ratio is not rewarded: 0.9 A
        (0.5, 2.0, -1.0, -1.0, 0.0),
        (1.2, 2.0, -2.4, -2.4, 0.0),
        (0.95, -2.0, 1.9, 1.9, 0.0),
    ],
)
def test_each_side_of_the_clip(ratio, advantage, value, gradient, clipped):
    got = one(np.log(ratio), advantage, clip_low=0.1, clip_high=0.3)
    np.testing.assert_allclose(got, (value, gradient, clipped), rtol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (5.0, -2.0, 6.0, 0.0),  # punished as if three times likelier, no further
        (2.9, -2.0, 5.8, 5.8),
        (0.5, -2.0, 1.8, 0.0),  # the first clip still holds
        (5.0, 2.0, -2.6, 0.0),  # and rewards are its business alone
    ],
)
def test_the_second_clip_bounds_punishment(ratio, advantage, value, gradient):
    got = one(np.log(ratio), advantage, clip_low=0.1, clip_high=0.3, dual_clip=3.0)
    np.testing.assert_allclose(got[:2], (value, gradient), rtol=1e-5)
    logp, ones = np.full((1, 1), np.log(ratio), np.float32), np.ones((1, 1), np.float32)
    _, stats = loss.policy_loss(logp, 0 * ones, advantage * ones, ones, dual_clip=3.0)
    assert stats["dual_clip_fraction"] == (ratio == 5.0 and advantage < 0)
    _, stats = loss.policy_loss(logp, 0 * ones, advantage * ones, ones)
    assert stats["dual_clip_fraction"] == 0


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan, 1e30])
def test_untrained_tokens_are_nothing(poison):
    """They change neither value nor gradient, whatever they hold."""
    logp, old, advantage = draw(2, 6), draw(2, 6), draw(2, 6)
    mask = np.asarray([[1, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 1]], np.float32)

    def run(x, old, advantage):
        value, stats = loss.policy_loss(x, old, advantage, mask)
        return value + sum(stats.values()), stats

    (value, stats), grad = jax.value_and_grad(run, has_aux=True)(logp, old, advantage)
    spoil = [np.where(mask > 0, x, np.float32(poison)) for x in (logp, old, advantage)]
    (value2, stats2), grad2 = jax.value_and_grad(run, has_aux=True)(*spoil)
    np.testing.assert_array_equal(value, value2)
    np.testing.assert_array_equal(grad, grad2)
    assert (np.asarray(grad2)[mask == 0] == 0).all() and (np.asarray(grad2)[mask > 0] != 0).any()
    assert stats == stats2


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_shares_add_up(parts):
    logp, old, advantage = draw(6, 4) / 3, draw(6, 4) / 3, draw(6, 4)
    # Uneven masks: a mean of the parts' means would differ.
    mask = (np.arange(4) < np.asarray([4, 1, 0, 3, 2, 1])[:, None]).astype(np.float32)
    value, stats = loss.policy_loss(logp, old, advantage, mask)
    total = mask.sum()
    shares = [
        loss.policy_loss(*(np.array_split(x, parts)[i] for x in (logp, old, advantage, mask)),
                         total=total)
        for i in range(parts)
    ]  # fmt: skip
    np.testing.assert_allclose(sum(v for v, _ in shares), value, rtol=1e-5)
    for name, wanted in stats.items():
        np.testing.assert_allclose(sum(s[name] for _, s in shares), wanted, rtol=1e-5)


def test_nothing_trained_is_zero_not_nan():
    value, stats = loss.policy_loss(draw(2, 3), draw(2, 3), draw(2, 3), np.zeros((2, 3)))
    assert value == 0 and all(x == 0 for x in stats.values())


def test_kl_estimators_by_enumeration():
    """Under p: E[k1] = E[k3] = KL(p, q) exactly; k3 and k2 never negative."""
    p, q = (np.asarray(jax.nn.log_softmax(draw(9))) for _ in range(2))
    kl = float((np.exp(p) * (p - q)).sum())
    assert float((np.exp(p) * loss.k1(p, q)).sum()) == pytest.approx(kl, rel=1e-5)
    assert float((np.exp(p) * loss.k3(p, q)).sum()) == pytest.approx(kl, rel=1e-4)
    for k in (loss.k2, loss.k3):
        assert (k(p, q) >= 0).all() and (k(p, p) == 0).all()


def test_the_gradient_of_k2_is_the_kls():
    """Sampled from p, grad k2 has the mean grad KL; grad k1 has the mean zero."""
    logits, q = draw(7), jax.nn.log_softmax(draw(7))

    def kl(x):
        p = jax.nn.log_softmax(x)
        return jnp.sum(jnp.exp(p) * (p - q))

    def sampled(k):
        def run(x):
            p = jax.nn.log_softmax(x)
            return jnp.sum(jax.lax.stop_gradient(jnp.exp(p)) * k(p, q))

        return jax.grad(run)(logits)

    np.testing.assert_allclose(sampled(loss.k2), jax.grad(kl)(logits), atol=1e-5)
    np.testing.assert_allclose(sampled(loss.k1), np.zeros(7), atol=1e-6)


@pytest.fixture
def vectors(shared):
    return json.loads((shared / "vectors/toolrl.json").read_text())["algorithm_vectors"]


def test_reference_loss(vectors):
    for case in vectors["policy_loss"]:
        arrays = (np.asarray(case[k], np.float32) for k in ("logp", "old_logp", "advantages"))
        mask = np.asarray(case["mask"], np.float32)
        value, stats = loss.policy_loss(
            *arrays, mask, clip_low=case["clip"], clip_high=case["clip"]
        )
        assert float(value) == pytest.approx(case["loss"], abs=1e-5)
        assert float(stats["clip_fraction"]) == pytest.approx(case["clipfrac"], abs=1e-6)
        gap = loss.k1(np.asarray(case["old_logp"]), np.asarray(case["logp"]))
        assert float(loss.token_mean(gap, mask)) == pytest.approx(case["ppo_kl"], abs=1e-5)


@pytest.mark.parametrize(
    ("value", "old", "goal", "error", "gradient", "clipped"),
    [
        (0.9, 0.2, 1.0, 0.3**2, 0.0, 1.0),  # moved further than 0.5: counts as at 0.7
        (1.9, 0.2, 1.0, 0.9**2, 0.9, 0.0),  # beyond the goal the error itself is the larger
        (0.4, 0.2, 1.0, 0.6**2, -0.6, 0.0),
        (-0.9, 0.2, -1.0, 0.7**2, 0.0, 1.0),
    ],
)
def test_each_side_of_the_value_clip(value, old, goal, error, gradient, clipped):
    ones = np.ones((1, 1), np.float32)

    def run(x):
        return loss.value_loss(x, old * ones, goal * ones, ones, clip=0.5)

    (got, stats), grad = jax.value_and_grad(run, has_aux=True)(value * ones)
    np.testing.assert_allclose((got, grad[0, 0]), (0.5 * error, gradient), atol=1e-6)
    assert stats["vf_clip_fraction"] == clipped
    free = loss.value_loss(value * ones, old * ones, goal * ones, ones, clip=0.0)
    np.testing.assert_allclose(free[0], 0.5 * (value - goal) ** 2, rtol=1e-5)
    assert free[1]["vf_clip_fraction"] == 0


@pytest.mark.parametrize("poison", [np.inf, np.nan, 1e30])
def test_untrained_values_are_nothing(poison):
    value, old, goal = draw(2, 6), draw(2, 6), draw(2, 6)
    mask = np.asarray([[1, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 1]], np.float32)
    run = jax.value_and_grad(lambda *x: loss.value_loss(*x, mask, clip=0.5)[0])
    spoil = [np.where(mask > 0, x, np.float32(poison)) for x in (value, old, goal)]
    for a, b in zip(run(value, old, goal), run(*spoil), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_shares_of_the_value_loss_add_up(parts):
    arrays = draw(6, 4), draw(6, 4), draw(6, 4)
    mask = (np.arange(4) < np.asarray([4, 1, 0, 3, 2, 1])[:, None]).astype(np.float32)
    whole, stats = loss.value_loss(*arrays, mask)
    shares = [
        loss.value_loss(*(np.array_split(x, parts)[i] for x in (*arrays, mask)), total=mask.sum())
        for i in range(parts)
    ]
    np.testing.assert_allclose(sum(v for v, _ in shares), whole, rtol=1e-5)
    fraction = sum(s["vf_clip_fraction"] for _, s in shares)
    np.testing.assert_allclose(fraction, stats["vf_clip_fraction"], rtol=1e-5)


def test_reference_value_loss(vectors):
    for case in vectors["value_loss"]:
        names = ("vpred", "old_values", "returns", "mask")
        arrays = (np.asarray(case[name], np.float32) for name in names)
        value, stats = loss.value_loss(*arrays, clip=case["clip_value"])
        assert float(value) == pytest.approx(case["loss"], abs=1e-5)
        assert float(stats["vf_clip_fraction"]) == pytest.approx(case["clipfrac"], abs=1e-6)


def test_reference_entropy(vectors):
    """The head's own, of hidden states that are the logits."""
    for case in vectors["entropy"]:
        logits = np.asarray(case["logits"], np.float32)
        params = {"embed_VD": np.eye(logits.shape[-1], dtype=np.float32)}
        _, entropy = heads.token_scores(params, logits[None], np.zeros((1, len(logits)), int))
        np.testing.assert_allclose(entropy[0], case["entropy"], atol=1e-5)


def test_reference_kl(vectors):
    ours = {"kl": loss.k1, "mse": loss.k2, "low_var_kl": loss.k3}
    for case in vectors["kl_estimators"]:
        got = ours[case["type"]](np.asarray(case["logp"]), np.asarray(case["ref_logp"]))
        np.testing.assert_allclose(got, case["value"], atol=1e-5)
