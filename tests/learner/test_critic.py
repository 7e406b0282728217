"""PPO's second network: what it is told, what it learns, and what it leaves alone."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.learner.relations import learn
from tests.rl.test_gae import plain
from torl_jax import config
from torl_jax.checkpoint import Checkpoints, Meta
from torl_jax.compilation import Counter
from torl_jax.learner import optimizer

SCORES = np.random.default_rng(5).normal(size=8).astype(np.float32)
GAE = {"estimator": "gae", "gamma": 0.95, "lam": 0.9}
TWICE = GAE | {"minibatches": 2, "epochs": 2}
FREE = {"advantage": None}  # a batch as it is packed, before any credit


def estimated(learner, state, batches, scores):
    return learner.credit(learner.annotate(state, batches), scores)


def bare(batch):
    return dataclasses.replace(batch, **FREE)


def headed(state):
    """The state with a critic whose values are not all 0."""
    noise = np.random.default_rng(6).normal(size=16).astype(np.float32)
    own = state.critic
    head = jax.device_put(noise, own.params["value_D"].sharding)
    return dataclasses.replace(
        state, critic=dataclasses.replace(own, params=own.params | {"value_D": head})
    )


def begun(learner, params):
    return headed(learner.create(params))


def close(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def updated(learner, params, batches, scores, step=0):
    state = begun(learner, params)
    state, stats = learner.update(state, estimated(learner, state, batches, scores), step)
    return jax.device_get((state.params, state.critic.params)), stats


@pytest.fixture(scope="module")
def reference(learner, params, batch):
    """All episodes in one microbatch on one device."""
    return updated(learner(**GAE), params, [bare(batch())], [SCORES])


def test_it_begins_as_the_policy_with_a_head_of_nothing(learner, params, batch):
    made = learner(**GAE)
    state = made.create(params)
    assert set(state.critic.params) == {"blocks", "embed_VD", "final_norm_D", "value_D"}
    assert not np.any(state.critic.params["value_D"])
    jax.tree.map(np.testing.assert_array_equal, state.critic.params["blocks"], params["blocks"])
    (placed,) = made.annotate(state, [bare(batch())])
    assert not np.any(placed.values) and placed.old_logp is None
    # No buffer is shared: each network's update uses up its own.
    assert not {id(x) for x in jax.tree.leaves(state.params)} & {
        id(x) for x in jax.tree.leaves(state.critic.params)
    }
    state, _ = learner(**GAE).update(state, estimated(made, state, [bare(batch())], [SCORES]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state)))


def test_without_it_there_is_no_trace_of_it(learner, params, batch):
    state = learner().create(params)
    assert state.critic is None and learner().abstract().critic is None
    _, stats = learn(learner(), state, [batch()])
    assert not {"vf_loss", "value_mean"} & set(stats)


def test_a_value_is_of_the_state_in_which_the_target_is_chosen(learner, params, batch):
    """It knows the token at its place and those before; the target itself it does not."""
    made = learner(**GAE)
    state, host = begun(made, params), bare(batch())
    (placed,) = made.annotate(state, [host])
    before = np.asarray(placed.values)
    m, b, t = np.argwhere(host.mask > 0)[4]
    tokens = host.tokens.copy()
    tokens[m, b, t + 1] = (tokens[m, b, t + 1] + 1) % 30  # the target, as the next input
    (placed,) = made.annotate(state, [dataclasses.replace(host, tokens=tokens)])
    after = np.asarray(placed.values)
    np.testing.assert_array_equal(after[m, b, : t + 1], before[m, b, : t + 1])
    assert abs(after[m, b, t + 1] - before[m, b, t + 1]) > 1e-4


@pytest.mark.parametrize(("sizes", "kl"), [((1, 1, 1), 0.0), ((2, 2, 2), 0.3)])
def test_the_credit_of_every_token(learner, params, batch, episodes, sizes, kl):
    """The score at the last policy token, less each token's KL; tools are passed over."""
    extra = {"kl_coef": kl, "kl_in": "reward", "kl_estimator": "k1"} if kl else {}
    made = learner(sizes=sizes, whiten=False, **GAE, **extra)
    made.refer(jax.tree.map(lambda x: 0.9 * x, params))
    state = begun(made, params)
    host = bare(batch(rows=8, row_tokens=44))
    (found,) = estimated(made, state, [host], [SCORES])
    (placed,) = made.annotate(state, [host])
    values, advantage, returns = map(np.asarray, (placed.values, found.advantage, found.returns))
    for e in range(len(episodes)):
        own = (host.mask > 0) & (host.episode == e)
        rewards = np.zeros(own.sum())
        rewards[-1] = SCORES[e]
        if kl:
            rewards -= kl * (np.asarray(placed.old_logp) - np.asarray(placed.ref_logp))[own]
        wanted = plain(rewards, values[own], GAE["gamma"], GAE["lam"])
        np.testing.assert_allclose(advantage[own], wanted, atol=1e-4)
        np.testing.assert_allclose(returns[own], wanted + values[own], atol=1e-4)
    assert (advantage[host.mask == 0] == 0).all() and (returns[host.mask == 0] == 0).all()


def test_whitening_is_over_all_minibatches_together(learner, params, batch):
    made = learner(**TWICE)
    halves = [bare(batch(slice(0, 4))), bare(batch(slice(4, 8)))]
    state = begun(made, params)
    # The second half earns more: each by itself would hide it.
    found = estimated(made, state, halves, [SCORES[:4], SCORES[4:] + 5])
    kept = [np.asarray(b.advantage)[np.asarray(b.mask) > 0] for b in found]
    whole = np.concatenate(kept)
    assert whole.mean() == pytest.approx(0, abs=1e-5)
    assert whole.std(ddof=1) == pytest.approx(1, abs=1e-5)
    assert kept[1].mean() > kept[0].mean() + 0.5
    assert all(b.old_logp is not None for b in found)


@pytest.mark.parametrize(
    ("shape", "packing"),
    [({"rows": 2, "row_tokens": 44},) * 2, ({"sizes": (2, 2, 2)}, {})],
    ids=["packing and microbatches", "devices"],
)
def test_what_changes_nothing(learner, params, batch, reference, shape, packing):
    trees, stats = updated(learner(**GAE, **shape), params, [bare(batch(**packing))], [SCORES])
    close(trees, reference[0], 1e-5)
    assert stats == pytest.approx(reference[1], abs=2e-4)


def test_the_whole_critic_is_sharded(learner, params):
    state = learner(sizes=(2, 2, 2), **GAE).create(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.critic):
        keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        letters = keys[-1].rsplit("_", 1)[1] if keys else ""
        split = leaf.size // np.prod(leaf.sharding.shard_shape(leaf.shape))
        wanted = 1
        if len(letters) > 1:
            wanted = 2 ** ("D" in letters) * 2 ** bool(set(letters) & set("VNKF"))
        assert split == wanted, (keys, leaf.shape)


def test_dropped_episodes_count_nowhere(learner, params, batch, reference):
    keep = [True, True, True, False, True, True, False, False]
    junk = np.where(keep, SCORES, np.float32(1e6))
    some, stats = updated(learner(**GAE), params, [bare(batch(keep=keep))], [junk])
    other = np.flatnonzero(keep)
    alone, _ = updated(learner(**GAE), params, [bare(batch(other))], [SCORES[other]])
    close(some, alone, 1e-6)
    assert stats["trained_tokens"] < reference[1]["trained_tokens"]


def test_at_first_the_critic_learns_alone(learner, params, batch):
    made = learner(warmup=2, estimator="gae")
    state = begun(made, params)
    before = jax.device_get((state.params, state.opt_state))
    counter, counts = Counter(), []
    for step in range(4):
        was = jax.device_get(state.critic.params)
        found = estimated(made, state, [bare(batch())], [SCORES])
        counted = counter.count
        state, stats = made.update(state, found, step)
        counts.append(counter.count - counted)
        now = jax.device_get(state)
        moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), was, now.critic.params)
        assert min(jax.tree.leaves(moved)) > 0
        if step < 2:
            jax.tree.map(np.testing.assert_array_equal, before, (now.params, now.opt_state))
            assert "policy_loss" not in stats and stats["vf_loss"] > 0
    assert "policy_loss" in stats and int(now.step) == 2 and int(now.critic.step) == 4
    assert np.abs(now.params["embed_VD"] - before[0]["embed_VD"]).max() > 1e-3
    assert counts[0] > 0 and counts[1:] == [0, 0, 0], "all is compiled before the warm-up ends"


def test_it_learns_to_foretell_the_returns(learner, params, batch):
    made = learner(warmup=2, estimator="gae")
    state, explained = begun(made, params), []
    for _ in range(100):
        found = estimated(made, state, [bare(batch())], [SCORES])
        state, stats = made.update(state, found, step=0)
        explained.append(stats["explained_variance"])
    assert explained[0] < 0.1 and explained[-1] > 0.8
    assert stats["return_mean"] == pytest.approx(
        np.average(SCORES, weights=np.bincount(batch().episode[batch().mask > 0])), abs=1e-4
    )


def test_the_critic_has_its_own_rate_and_clip(learner, params, batch):
    def moved(**own):
        made = learner(**own, **TWICE | {"epochs": 1, "minibatches": 1})
        before, (after, stats) = (
            jax.device_get(begun(made, params)),
            updated(made, params, [bare(batch())], [SCORES]),
        )
        return after[0], before.critic.params["value_D"] - after[1]["value_D"], stats

    policy, step, _ = moved()
    same, quarter, _ = moved(value_lr=0.0125)
    jax.tree.map(np.testing.assert_array_equal, policy, same)
    np.testing.assert_allclose(quarter * 4, step, rtol=1e-3, atol=1e-6)
    halves, scores = [bare(batch(slice(i, i + 4))) for i in (0, 4)], [SCORES[:4], SCORES[4:]]
    wide, narrow = (
        updated(learner(value_clip=clip, **TWICE), params, halves, scores)[1]["vf_clip_fraction"]
        for clip in (100.0, 1e-3)
    )
    assert wide == 0 < narrow


def test_equal_returns_explain_nothing(learner, params, batch):
    """They are an advantage and a value, added, so they differ by rounding."""
    made = learner(estimator="gae", whiten=False)
    state = begun(made, params)
    found = estimated(made, state, [bare(batch())], [np.full(8, -3.0, np.float32)])
    spread = np.asarray(found[0].returns)[np.asarray(found[0].mask) > 0]
    assert 0 < spread.std() < 1e-5
    _, stats = made.update(state, found)
    assert stats["return_mean"] == pytest.approx(-3.0, abs=1e-5)
    assert np.isnan(stats["explained_variance"])


def test_old_values_are_those_before_the_step(learner, params, batch):
    """Two epochs of two minibatches: the clip is about the values at the start of all."""
    made = learner(**TWICE)
    halves = [bare(batch(slice(0, 4))), bare(batch(slice(4, 8)))]
    state = begun(made, params)
    found = estimated(made, state, halves, [SCORES[:4], SCORES[4:]])
    state, stats = made.update(state, found)
    assert int(state.step) == int(state.critic.step) == 4
    assert stats["agreement_max"] < 1e-5 and stats["approx_kl"] > 1e-5
    other = begun(made, params)
    for b in [*found] * 2:
        critic, _ = made.critic.update(other.critic, b)
        other = dataclasses.replace(other, critic=critic)
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((state.critic, other.critic)))


def test_nothing_compiles_after_the_first_step(learner, params, batch):
    """Whatever is kept, and however many minibatches are left."""
    made, counter = learner(**TWICE), Counter()
    state, counts = begun(made, params), []
    for keep, parts in (([True] * 8, 2), ([True] * 3 + [False] * 5, 1), ([False, True] * 4, 2)):
        halves = [bare(batch(slice(i, i + 4), keep=keep)) for i in (0, 4)[:parts]]
        found = estimated(made, state, halves, [SCORES[i : i + 4] for i in (0, 4)[:parts]])
        state, _ = made.update(state, found)
        jax.jit(lambda x: x + 1)(len(counts) + 0.5)  # that the counter counts
        counts.append(counter.count)
    assert np.diff(counts).tolist() == [1, 1]


def test_eight_devices_compile_no_more_either(learner, params, batch):
    made, counter, counts = learner(sizes=(2, 2, 2), **GAE), Counter(), []
    state = begun(made, params)
    for keep in ([True] * 8, [True] * 3 + [False] * 5):
        found = estimated(made, state, [bare(batch(keep=keep))], [SCORES])
        state, _ = made.update(state, found)
        counts.append(counter.count)
    assert counts[0] == counts[1]


def test_an_offloaded_optimiser_learns_the_same(learner, params, batch):
    trees = []
    for offload in (False, True):
        made = learner(sizes=(2, 2, 2), offload=offload, **GAE)
        state = begun(made, params)
        for _ in range(2):
            state, _ = made.update(state, estimated(made, state, [bare(batch())], [SCORES]))
        for own in (state, state.critic):
            kinds = {x.sharding.memory_kind for x in jax.tree.leaves(own.opt_state) if x.ndim}
            assert kinds == ({"pinned_host"} if offload else {"device"})
        trees.append(jax.device_get(state))
    jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 2)])
def test_a_checkpoint_holds_both_networks(learner, params, batch, tmp_path, sizes):
    made = learner(sizes=(2, 2, 2), **GAE)
    state = begun(made, params)
    state, _ = made.update(state, estimated(made, state, [bare(batch())], [SCORES]))
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(1, state, Meta(0, config.Config()), {})
    saved.close()
    again = Checkpoints(tmp_path, keep=1)
    other = learner(sizes=sizes, **GAE).abstract()
    restored = again.restore(1, other)
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((restored, state)))
    jax.tree.map(lambda x, y: x.sharding == y.sharding or pytest.fail(), restored, other)
    # The policy can be taken out alone, as an evaluation does.
    alone = again.params(1, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params))
    jax.tree.map(np.testing.assert_array_equal, alone, jax.device_get(state.params))
    again.close()


@functools.cache
def rates(**cfg):
    """The first ten steps of a single parameter under a gradient of one sign."""
    made = optimizer.make(config.Optimizer(lr=1.0, weight_decay=0.0, clip_norm=1e9, **cfg))
    params = {"x_D": np.zeros(1, np.float32)}
    state, out = made.init(params), []
    for _ in range(10):
        step, state = made.update({"x_D": np.ones(1, np.float32)}, state, params)
        out.append(-float(step["x_D"][0]))
    return out


def test_the_rate_rises_and_falls():
    wanted = [0, 0.5] + [0.5 * (1 + np.cos(np.pi * i / 5)) for i in range(6)] + [0, 0]
    np.testing.assert_allclose(rates(warmup=2, decay=5), wanted, atol=1e-5)
    wanted = [0.5 * (1 + np.cos(np.pi * min(i / 8, 1))) for i in range(10)]
    np.testing.assert_allclose(rates(decay=8), wanted, atol=1e-5)
    np.testing.assert_allclose(rates(warmup=2), [0, 0.5] + [1] * 8, atol=1e-5)
    np.testing.assert_allclose(rates(), [1] * 10, atol=1e-5)
