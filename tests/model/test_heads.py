"""Log-probs and entropy in chunks: the dense answer, without the dense array."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torl_jax.model import heads

RNG = np.random.default_rng(2)
D, V, VOCAB = 6, 33, 29
HEAD = {"head_DV": RNG.normal(size=(D, V)).astype(np.float32), "embed_VD": np.zeros((V, D))}
HIDDEN = RNG.normal(size=(3, 7, D)).astype(np.float32)
TARGETS = RNG.integers(0, VOCAB, (3, 7))


def dense(params, hidden_BTD, temperature=1.0):
    """(log-prob, entropy) by one log_softmax over the real vocabulary."""
    logp_BTV = jax.nn.log_softmax(hidden_BTD @ params["head_DV"][:, :VOCAB] / temperature)
    chosen = jnp.take_along_axis(logp_BTV, TARGETS[..., None], -1)[..., 0]
    return chosen, -jnp.sum(jnp.exp(logp_BTV) * logp_BTV, -1)


@pytest.mark.parametrize("chunk", [1, 4, 5, 21, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_scores_is_log_softmax(chunk, temperature):
    got = heads.token_scores(HEAD, HIDDEN, TARGETS, temperature, chunk=chunk, vocab=VOCAB)
    for x, wanted in zip(got, dense(HEAD, HIDDEN, temperature), strict=True):
        np.testing.assert_allclose(x, wanted, atol=3e-5)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("chunk", [4, 21])
def test_so_is_its_gradient(chunk, keep):
    a, b = RNG.normal(size=(2, 3, 7)).astype(np.float32)

    def value(scores):
        def run(head_DV, hidden_BTD):
            logp, entropy = scores(HEAD | {"head_DV": head_DV}, hidden_BTD)
            return jnp.sum(a * logp + b * entropy)

        return jax.grad(run, argnums=(0, 1))(HEAD["head_DV"], HIDDEN)

    got = value(lambda p, h: heads.token_scores(p, h, TARGETS, chunk=chunk, vocab=VOCAB, keep=keep))
    for x, wanted in zip(got, value(dense), strict=True):
        np.testing.assert_allclose(x, wanted, atol=1e-5)


def test_padding_rows_have_no_probability():
    free = heads.logits(HEAD, HIDDEN)
    masked = heads.logits(HEAD, HIDDEN, vocab=VOCAB)
    assert (jax.nn.softmax(masked)[..., VOCAB:] == 0).all()
    np.testing.assert_array_equal(masked[..., :VOCAB], free[..., :VOCAB])


def test_a_tied_head_is_the_embedding():
    tied = {"embed_VD": HEAD["head_DV"].T}
    np.testing.assert_allclose(heads.logits(tied, HIDDEN), heads.logits(HEAD, HIDDEN), atol=1e-6)


def test_logits_of_bfloat16_are_float32():
    assert heads.logits(HEAD, jnp.asarray(HIDDEN, jnp.bfloat16)).dtype == jnp.float32


def test_all_logits_at_once_are_never_built():
    B, T, D, V, chunk = 4, 1024, 8, 8192, 256
    params = {"embed_VD": jax.ShapeDtypeStruct((V, D), jnp.float32)}
    hidden = jax.ShapeDtypeStruct((B, T, D), jnp.float32)
    targets = jax.ShapeDtypeStruct((B, T), jnp.int32)

    def total(params, hidden, targets):
        logp, entropy = heads.token_scores(params, hidden, targets, chunk=chunk)
        return jnp.sum(logp + entropy)

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    text = str(jax.make_jaxpr(step)(params, hidden, targets))
    shapes = {m[1] for m in re.finditer(r"\w+\[([\d,]+)\]", text)}
    largest = max(int(np.prod([int(n) for n in s.split(",")])) for s in shapes)
    assert f"{B},{chunk // B},{V}" in shapes
    assert largest == chunk * V
    memory = step.lower(params, hidden, targets).compile().memory_analysis()
    assert memory.temp_size_in_bytes < B * T * V * 4 / 2
