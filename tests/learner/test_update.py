"""Relations of one update: what must not change it, and what must."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from tests.learner.relations import learn
from torl_jax.compilation import Counter
from torl_jax.learner import losses


def updated(learner, params, batches):
    """(new parameters, statistics) of one update of a fresh state."""
    state, stats = learn(learner, learner.create(params), batches)
    return jax.device_get(state.params), stats


def close(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def same_stats(a, b):
    assert a == pytest.approx(b, abs=1e-5)


@pytest.fixture(scope="module")
def reference(learner, params, batch):
    """The update of all episodes in one microbatch on one device."""
    new, stats = updated(learner(), params, [batch()])
    moved = jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), new, params))
    assert min(moved) > 1e-3
    return new, stats


def test_microbatching_changes_nothing(learner, params, batch, reference):
    made = batch(rows=2)
    assert made.tokens.shape[0] == made.count == 4
    new, stats = updated(learner(rows=2), params, [made])
    close(new, reference[0], 1e-6)
    same_stats(stats, reference[1])


@pytest.mark.parametrize("rungs", [1, 2])
def test_packing_changes_nothing(learner, params, batch, reference, rungs):
    loose, tight = batch(), batch(rows=2, row_tokens=44, rungs=rungs)
    filled = [int(b.segments.any(-1).sum()) for b in (loose, tight)]
    assert filled[1] <= filled[0] / 2 + (rungs > 1) and tight.count == 2
    assert rungs == 1 or tight.rung[1] == 1, "the last rows are short"
    new, stats = updated(learner(rows=2, row_tokens=44), params, [tight])
    close(new, reference[0], 1e-5)
    same_stats(stats, reference[1])


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_the_number_of_devices_changes_nothing(learner, params, batch, reference, sizes):
    new, stats = updated(learner(sizes=sizes), params, [batch()])
    close(new, reference[0], 1e-5)
    same_stats(stats, reference[1])


def test_untrained_places_may_hold_anything(learner, params, batch, reference):
    """Prompt, tool and padding enter as context alone: as targets they are nothing."""
    made, rng = batch(), np.random.default_rng(0)
    junk = {
        name: np.where(made.mask > 0, getattr(made, name), value).astype(getattr(made, name).dtype)
        for name, value in {
            "targets": rng.integers(0, 30, made.tokens.shape),
            "sampler_logp": -1e9,
            "advantage": 1e9,
        }.items()
    }
    new, stats = updated(learner(), params, [dataclasses.replace(made, **junk)])
    jax.tree.map(np.testing.assert_array_equal, new, reference[0])
    assert stats == reference[1]
    # As context they do count.
    tokens = np.where(made.mask > 0, made.tokens, (made.tokens + 1) % 30)
    _, stats = updated(learner(), params, [dataclasses.replace(made, tokens=tokens)])
    assert stats["agreement_max"] > 1e-2


def test_nothing_trained_changes_nothing(learner, params, batch):
    masked = dataclasses.replace(batch(), mask=np.zeros_like(batch().mask))
    for made in (masked, batch(keep=[False] * 8), batch(advantages=np.zeros(8, np.float32))):
        new, stats = updated(learner(), params, [made])
        assert stats["grad_norm"] == 0
        jax.tree.map(np.testing.assert_array_equal, new, params)


def test_dropped_episodes_are_as_if_never_sampled(learner, params, batch, reference):
    keep = [True, True, True, False, True, True, False, False]
    dropped, stats = updated(learner(), params, [batch(keep=keep)])
    alone, _ = updated(learner(), params, [batch(np.flatnonzero(keep))])
    close(dropped, alone, 1e-7)
    assert stats["trained_tokens"] < reference[1]["trained_tokens"]


def test_agreement(learner, params, batch, reference):
    assert reference[1]["agreement_max"] < 1e-5
    made = batch()
    off = made.sampler_logp.copy()
    m, b, t = np.argwhere(made.mask > 0)[3]
    off[m, b, t] += 0.5
    _, stats = updated(learner(), params, [dataclasses.replace(made, sampler_logp=off)])
    assert stats["agreement_max"] == pytest.approx(0.5, abs=1e-4)
    assert stats["agreement_mean"] == pytest.approx(0.5 / made.mask.sum(), abs=1e-5)


@pytest.fixture(scope="module")
def pulled(learner, params):
    """A learner with a reference policy; both tests below give it two minibatches."""
    made = learner(kl_coef=1.0, minibatches=2)
    made.refer(params)
    return made


def test_minibatches_share_the_log_probs_of_the_policy_that_sampled(pulled, params, batch):
    halves = [batch(slice(0, 4)), batch(slice(4, 8))]
    state, stats = learn(pulled, pulled.create(params), halves)
    assert int(state.step) == 2
    # Recomputed after the first step they would be another policy's.
    assert stats["agreement_max"] < 1e-5
    assert stats["approx_kl"] > 1e-4
    assert stats["trained_tokens"] == sum(b.mask.sum() for b in halves)


def test_kl_to_the_reference(pulled, params, batch):
    halves = slice(0, 4), slice(4, 8)
    moving = [batch(half) for half in halves]
    still = [batch(half, advantages=np.zeros(8, np.float32)) for half in halves]
    state, stats = learn(pulled, pulled.create(params), still)
    assert stats["kl"] == pytest.approx(0, abs=1e-6) and stats["grad_norm"] < 1e-4
    for _ in range(2):
        state, _ = learn(pulled, state, moving)
    kls = []
    for _ in range(5):
        state, stats = learn(pulled, state, still)
        kls.append(stats["kl"])
    assert kls[0] > 1e-3 and kls[-1] < kls[0] / 2


def test_epochs_go_through_the_same_old_log_probs_again(learner, params, batch):
    twice, halves = learner(minibatches=2, epochs=2), [batch(slice(0, 4)), batch(slice(4, 8))]
    state, stats = learn(twice, twice.create(params), halves)
    assert int(state.step) == 4
    # Recomputed after an epoch they would be another policy's.
    assert stats["agreement_max"] < 1e-5
    by_hand = learner(minibatches=2)
    other = by_hand.create(params)
    annotated = by_hand.annotate(other, halves)
    for _ in range(2):
        other, _ = by_hand.update(other, annotated)
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (state, other)))
    assert stats["trained_tokens"] == 2 * sum(b.mask.sum() for b in halves)


def test_on_policy_updates_need_no_second_look(learner, params, batch):
    (placed,) = learner().annotate(learner().create(params), [batch()])
    assert placed.old_logp is None and placed.ref_logp is None


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_the_kl_of_each_episode(learner, params, batch, episodes, sizes):
    made = learner(sizes=sizes, kl_coef=0.1, kl_in="reward", kl_estimator="k1")
    made.refer(jax.tree.map(lambda x: 0.9 * x, params))
    assert made.policy.loss.kl_coef == 0, "in the reward, not in the loss"
    keep = np.asarray([True, True, False] + [True] * 5)
    host = batch(keep=keep, rows=8, row_tokens=44)
    (placed,) = made.annotate(made.create(params), [host])
    (found,) = made.divergence([placed], len(episodes))
    logp, ref = (np.asarray(x)[host.mask > 0] for x in (placed.old_logp, placed.ref_logp))
    wanted = np.bincount(host.episode[host.mask > 0], logp - ref, minlength=len(episodes))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert found[2] == 0 and (np.abs(np.delete(found, 2)) > 1e-3).all()


def test_credit_on_the_mesh_is_credit_on_the_host(learner, params, batch):
    made, values = learner(sizes=(2, 2, 2)), np.arange(8, dtype=np.float32) - 3
    host = batch(advantages=values)
    placed = made.annotate(made.create(params), [batch()])
    (credited,) = made.credit(placed, [values])
    np.testing.assert_array_equal(credited.advantage, host.advantage)
    assert np.any(host.advantage) and credited.returns is None


def test_the_loss_is_the_sum_of_its_terms(learner, params, batch):
    loss = learner(kl_coef=0.5, kl_estimator="k1", entropy_coef=0.25).policy.loss
    one = jax.tree.map(lambda x: x[0] if np.ndim(x) else x, batch())
    one = dataclasses.replace(one, ref_logp=one.sampler_logp - 0.1)
    value, stats = jax.jit(loss)(params, one, one.mask.sum())
    assert stats["kl"] == pytest.approx(0.1, abs=1e-4)
    assert 0 < stats["entropy"] < np.log(30)
    wanted = stats["policy_loss"] + 0.5 * stats["kl"] - 0.25 * stats["entropy"]
    assert value == pytest.approx(float(wanted), abs=1e-6)


class Lookup(nn.Module):
    """The smallest model: its hidden states are the embeddings."""

    mesh: None = None
    remat: str = "full"

    @nn.compact
    def __call__(self, tokens_BT, positions_BT, segments_BT):
        return self.param("embed_VD", nn.initializers.normal(), (32, 16))[tokens_BT], None


def test_untrained_places_cannot_blow_up_the_kl(params, batch):
    """A tool token that the reference finds likely and the policy does not: exp(200)."""
    one = jax.tree.map(lambda x: x[0] if np.ndim(x) else x, batch())
    far = np.where(one.mask > 0, one.sampler_logp, np.float32(200.0))
    one = dataclasses.replace(one, ref_logp=far)
    loss = losses.Policy(model=Lookup(), vocab=30, kl_coef=1.0)
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    grads, _ = gradient({"embed_VD": params["embed_VD"]}, one, one.mask.sum())
    assert np.isfinite(grads["embed_VD"]).all() and np.any(grads["embed_VD"])


@pytest.mark.parametrize("kwargs", [{}, {"sizes": (2, 2, 2)}], ids=["one", "eight"])
def test_nothing_compiles_after_the_first_update(learner, params, batch, kwargs):
    """Whatever the episodes' lengths and how many are kept."""
    one = learner(**kwargs)
    counter = Counter()
    state, _ = learn(one, one.create(params), [batch()])
    # Earlier tests may have compiled the update; that the counter counts is seen on another.
    jax.jit(lambda x: x + 1)(0)
    assert counter.count > 0
    counted = counter.count
    for keep in ([True] * 5 + [False] * 3, [False] * 7 + [True]):
        state, _ = learn(one, state, [batch(keep=keep)])
    assert counter.count == counted
    assert int(state.step) == 3


def test_a_state_is_used_up_by_its_update(learner, params, batch):
    before = jax.tree.map(np.copy, params)
    state = learner().create(params)
    new, _ = learn(learner(), state, [batch()])
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    newer, _ = learn(learner(), new, [batch()])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(newer.params)))
    # The caller's own arrays are not.
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_an_optimiser_state_kept_by_the_host_learns_the_same(learner, params, batch):
    near, far = learner(sizes=(2, 2, 2)), learner(sizes=(2, 2, 2), offload=True)
    states = [near.create(params), far.create(params)]
    counted = None
    for _ in range(3):
        states = [learn(one, s, [batch()])[0] for one, s in zip((near, far), states, strict=True)]
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(states[1].opt_state) if x.ndim}
        assert kinds == {"pinned_host"}
        counter = counted or Counter()
        counted, before = counter, counter.count
    assert counted.count == before == 0  # compiled once, like any update
    assert {x.sharding.memory_kind for x in jax.tree.leaves(states[1].params)} == {"device"}
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, states))


def test_a_first_moment_in_bfloat16_takes_half_and_learns_nearly_the_same(learner, params, batch):
    full, half = learner(), learner(moments="bfloat16")
    states = [full.create(params), half.create(params)]
    for _ in range(3):
        states = [learn(one, s, [batch()])[0] for one, s in zip((full, half), states, strict=True)]
    first, second = (
        {str(x.dtype) for x in jax.tree.leaves(tree)} for tree in optax_moments(states[1])
    )
    assert first == {"bfloat16"} and second == {"float32"}
    for x, y, z in zip(*map(jax.tree.leaves, (*(s.params for s in states), params)), strict=True):
        moved = np.abs(x - z).max()
        assert np.abs(x - y).max() <= 0.1 * moved + 1e-7


def optax_moments(state):
    """(first, second) of AdamW, wherever they are in the optimiser's state."""
    (adam,) = [x for x in jax.tree.leaves(state.opt_state, is_leaf=is_adam) if is_adam(x)]
    return adam.mu, adam.nu


def is_adam(x) -> bool:
    return isinstance(x, optax.ScaleByAdamState)
