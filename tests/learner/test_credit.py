"""Advantages of tokens without a critic, and updates by each piece of the loss."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.learner.relations import learn
from torl_jax.rl.batch import WEIGHTS, by_constant, by_sequence

WORTH = np.random.default_rng(7).normal(size=8).astype(np.float32)


def bare(batch):
    return dataclasses.replace(batch, advantage=None)


def credited(made, params, host, worth=WORTH):
    made.refer(jax.tree.map(lambda x: 0.9 * x, params))
    (placed,) = made.annotate(made.create(params), [host])
    (found,) = made.credit([placed], [worth])
    return placed, found


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo", "reinforce_pp"])
def test_every_token_of_the_policy_has_its_episodes_worth(learner, params, batch, estimator):
    """Also those before a tool's output, which has none; whatever gamma's and lambda's defaults."""
    host = bare(batch(rows=8, row_tokens=44))
    _, found = credited(learner(estimator=estimator, whiten=False, lam=0.5), params, host)
    wanted = WORTH[host.episode] * host.mask
    np.testing.assert_array_equal(found.advantage, wanted)
    assert found.returns is None


def test_a_discount_counts_the_policys_tokens_alone(learner, params, batch, episodes):
    host = bare(batch(rows=8, row_tokens=44))
    made = learner(estimator="reinforce_pp", whiten=False, gamma=0.5)
    _, found = credited(made, params, host)
    advantage = np.asarray(found.advantage)
    for e in range(len(episodes)):
        own = (host.mask > 0) & (host.episode == e)
        wanted = WORTH[e] * 0.5 ** np.arange(own.sum())[::-1]
        np.testing.assert_allclose(advantage[own], wanted, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["reinforce_pp", "reinforce_pp_baseline"])
def test_each_token_pays_the_kl_from_there_on(learner, params, batch, episodes, estimator):
    """A_t = r - beta sum over t' >= t of KL_t' (REINFORCE++, arXiv 2501.03262)."""
    host = bare(batch(rows=8, row_tokens=44))
    more = {"kl_coef": 0.3, "kl_in": "reward", "kl_estimator": "k1"}
    made = learner(estimator=estimator, whiten=False, **more)
    placed, found = credited(made, params, host)
    kl = np.asarray(placed.old_logp) - np.asarray(placed.ref_logp)
    for e in range(len(episodes)):
        own = (host.mask > 0) & (host.episode == e)
        togo = np.cumsum(kl[own][::-1])[::-1]
        np.testing.assert_allclose(
            np.asarray(found.advantage)[own], WORTH[e] - 0.3 * togo, atol=1e-4
        )
    assert np.ptp(togo) > 1e-3


def test_where_samples_are_compared_the_kl_is_in_the_reward_already(learner, params, batch):
    """So that no token pays twice: the trainer has taken it from the reward."""
    host = bare(batch(rows=8, row_tokens=44))
    more = {"kl_coef": 0.3, "kl_in": "reward", "kl_estimator": "k1"}
    _, found = credited(learner(estimator="grpo", **more), params, host)
    np.testing.assert_array_equal(found.advantage, WORTH[host.episode] * host.mask)


@pytest.mark.parametrize(
    ("estimator", "whitened"),
    [("rloo", True), ("opo", True), ("reinforce_pp", True), ("grpo", False), ("dr_grpo", False)],
)
def test_who_is_whitened(learner, params, batch, estimator, whitened):
    host = bare(batch(rows=8, row_tokens=44))
    _, found = credited(learner(estimator=estimator), params, host)
    own = np.asarray(found.advantage)[host.mask > 0]
    assert (abs(own.mean()) < 1e-5 and own.std(ddof=1) == pytest.approx(1, abs=1e-4)) == whitened


PIECES = {
    "gspo": ({"ratio": "sequence", "clip_low": 0.01, "clip_high": 0.01}, by_sequence),
    "cispo": ({"surrogate": "cispo"}, by_constant),
    "importance": ({"importance_cap": 2.0}, WEIGHTS["token"]),
}


@pytest.mark.parametrize("name", PIECES)
def test_packing_and_devices_change_nothing(learner, params, batch, name):
    """Off-policy: sampler and old log-probs are not the policy's own."""
    keys, weigh = PIECES[name]

    def update(sizes=(1, 1, 1), **shape):
        made = learner(sizes=sizes, **keys, **({"rows": shape["rows"]} if shape else {}))
        host = batch(weigh=weigh, **shape)
        noise = np.sin(np.arange(1, 31, dtype=np.float32))[host.targets]
        old = host.sampler_logp + 0.1 * noise * host.mask
        host = dataclasses.replace(host, old_logp=old)
        state = made.create(params)
        state, stats = made.update(state, [made.place(host)])
        return jax.device_get(state.params), stats

    whole, stats = update()
    for other, found in (update(rows=2, row_tokens=44), update(sizes=(2, 2, 2))):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), whole, other)
        for key in ("loss", "grad_norm", "clip_fraction", "importance_mean", "importance_max"):
            assert found[key] == pytest.approx(stats[key], abs=1e-5), key
    assert stats["importance_max"] > 1.05


def test_importance_weighs_the_policys_loss_and_nothing_else(learner, params, batch):
    """A sampler that found each token e times less likely: weights of e, or of the cap."""
    host = batch()
    host = dataclasses.replace(host, sampler_logp=host.sampler_logp - host.mask)
    plain, found = learner(), {}
    _, base = learn(plain, plain.create(params), [host])
    for cap in (1.5, 5.0):
        made = learner(importance_cap=cap)
        _, found[cap] = learn(made, made.create(params), [host])
        ratio = found[cap]["policy_loss"] / base["policy_loss"]
        assert ratio == pytest.approx(min(np.e, cap), rel=1e-4)
        assert found[cap]["entropy"] == pytest.approx(base["entropy"], abs=1e-6)
        assert found[cap]["importance_mean"] == pytest.approx(np.e, rel=1e-4)
    assert (found[1.5]["importance_capped"], found[5.0]["importance_capped"]) == (1, 0)
    assert base["importance_capped"] == 1  # told above 2, though nothing is weighed
