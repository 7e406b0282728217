"""One token from logits: the distribution sampled from is the one reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torl_jax.compilation import Counter
from torl_jax.sampler.sampling import Settings, sample, truncate

V = 12
LOGITS = np.random.default_rng(0).normal(size=V).astype(np.float32) * 2
DRAWS = 20_000
draw = jax.jit(sample)


def expected(temperature, top_k, top_p):
    """The distribution in plain numpy: temperature, then top-k, then top-p of what is left."""
    p = np.exp(LOGITS.astype(np.float64) / temperature)
    order = np.argsort(-p)[: top_k or V]
    p /= p[order].sum()
    keep = np.zeros(V, bool)
    before = 0.0
    for rank, token in enumerate(order):
        if rank and before >= top_p:
            break
        keep[token] = True
        before += p[token]
    p = np.where(keep, p, 0.0)
    return p / p.sum()


def drawn(settings):
    keys = jax.random.split(jax.random.key(1), DRAWS)
    logits = jnp.broadcast_to(LOGITS, (DRAWS, V))
    return map(np.asarray, draw(logits, keys, settings))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 1.0), (1.0, 3, 1.0), (1.0, 1, 1.0),
     (1.0, 0, 0.7), (1.0, 0, 1e-6), (0.7, 5, 0.8)],
)  # fmt: skip
def test_frequencies_and_logps_are_those_of_the_truncated_distribution(temperature, top_k, top_p):
    p = expected(temperature, top_k, top_p)
    token, logp = drawn(Settings.of(temperature, top_k, top_p))
    np.testing.assert_allclose(np.exp(logp), p[token], rtol=1e-4)
    frequency = np.bincount(token, minlength=V) / DRAWS
    # Five standard errors of a share.
    assert np.all(np.abs(frequency - p) < 5 * np.sqrt(p * (1 - p) / DRAWS) + 1e-9)


def test_greedy_takes_the_likeliest_with_probability_one():
    token, logp = drawn(Settings.of(temperature=0.0))
    assert set(token) == {int(np.argmax(LOGITS))} and not logp.any()


def test_a_row_depends_on_its_own_key_alone():
    keys = jax.random.split(jax.random.key(2), 6)
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(6, V)), jnp.float32)
    token, _ = draw(logits, keys, Settings.of())
    back, _ = draw(logits[::-1], keys[::-1], Settings.of())
    np.testing.assert_array_equal(token, back[::-1])


def test_settings_are_data():
    jax.clear_caches()
    keys = jax.random.split(jax.random.key(2), 4)
    logits = jnp.zeros((4, V))
    draw(logits, keys, Settings.of())
    counter = Counter()
    for settings in (Settings.of(0.0), Settings.of(0.3, 2), Settings.of(1.0, 0, 0.5)):
        draw(logits, keys, settings)
    assert counter.count == 0


def test_each_row_may_have_its_own_settings():
    each = [
        Settings.of(1.0), Settings.of(0.0), Settings.of(0.5, 3), Settings.of(1.0, 0, 0.6),
        Settings.of(2.0, 0, 0.999), Settings.of(0.7),
    ]  # fmt: skip
    keys = jax.random.split(jax.random.key(4), len(each))
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(len(each), 500)) * 3, jnp.float32)
    token, logp = map(np.asarray, draw(logits, keys, Settings.rows(each)))
    for row, settings in enumerate(each):
        # To the last bit: what the neighbours ask for, truncation too, is nothing to a row.
        alone, alone_logp = map(np.asarray, draw(logits, keys, settings))
        assert (token[row], logp[row]) == (alone[row], alone_logp[row])


def test_a_row_without_truncation_keeps_its_unlikeliest_token():
    """Summed in float32 the mass is whole before the last of so many tokens."""
    V = 50_000
    logits = jnp.linspace(0.0, -30.0, V)[None].repeat(2, axis=0)
    kept = truncate(logits, Settings.rows([Settings.of(), Settings.of(1.0, 0, 0.5)]))
    assert jnp.isfinite(kept[0]).all() and not jnp.isfinite(kept[1]).all()
