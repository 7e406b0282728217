"""One token from logits: the distribution sampled from is the one reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.compilation import Counter
from torl_jax.sampler.sampling import Settings, pick, sample, truncate, uniform

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


@pytest.mark.parametrize("size", [1, 13, 256, 1000])
def test_a_vocabulary_of_any_size(size):
    """Whatever it folds to, every token is drawn as often as is due."""
    logits = np.random.default_rng(3).normal(size=size).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum()
    keys = jax.random.split(jax.random.key(5), DRAWS)
    token, logp = map(
        np.asarray, draw(jnp.broadcast_to(logits, (DRAWS, size)), keys, Settings.of())
    )
    np.testing.assert_allclose(np.exp(logp), p[token], rtol=1e-4)
    frequency = np.bincount(token, minlength=size) / DRAWS
    assert np.all(np.abs(frequency - p) < 6 * np.sqrt(p * (1 - p) / DRAWS) + 1e-9)


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.1, 1.0]), min_size=1, max_size=40).filter(any),
    st.sampled_from([0, 1, 2**22, 2**23 - 2, 2**23 - 1]),
)
def test_what_has_no_mass_is_never_picked(mass, step):
    drawn = np.float32(step * 2.0**-23 + 2.0**-24)
    assert mass[int(pick(jnp.asarray([mass], jnp.float32), jnp.asarray([drawn]))[0])] > 0


def test_random_numbers_are_midpoints(monkeypatch):
    """Neither 0, at which a first token would be drawn however unlikely, nor 1."""
    keys = jax.random.split(jax.random.key(0), 2)
    for word, wanted in ((0, 2.0**-24), (2**32 - 1, 1 - 2.0**-24)):
        monkeypatch.setattr(
            jax.random, "bits", lambda _, shape, w=word: jnp.full(shape, w, "uint32")
        )
        np.testing.assert_array_equal(uniform(keys), np.full((2, 2), wanted, np.float32))


def test_of_equals_greedy_takes_the_first():
    logits = jnp.zeros((1, 1000)).at[0, jnp.asarray([7, 130, 999])].set(2.0)
    token, _ = draw(logits, jax.random.split(jax.random.key(0), 1), Settings.of(0.0))
    assert token.tolist() == [7]


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
