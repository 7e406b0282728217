"""The decoder's mathematics against versions of a few lines that share no code with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torl_jax.model import layers
from torl_jax.model.config import ModelConfig, RopeScaling

RNG = np.random.default_rng(0)
SHAPE = ModelConfig(vocab_size=8, d_model=8, layers=1, heads=2, kv_heads=1, head_dim=8, d_mlp=8)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_rms_norm():
    x, scale = normal(2, 3, 8), normal(8)
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2) * scale
    np.testing.assert_allclose(layers.rms_norm(x, scale, 1e-2), wanted, atol=1e-6)


def test_rms_norm_of_bfloat16_takes_its_mean_in_float32():
    x = jnp.asarray(200 + normal(1, 1, 4096), jnp.bfloat16)
    got = np.asarray(layers.rms_norm(x, jnp.ones(4096), 1e-6), np.float32)
    assert layers.rms_norm(x, jnp.ones(4096), 1e-6).dtype == jnp.bfloat16
    x32 = np.asarray(x, np.float32)
    np.testing.assert_allclose(got, x32 / np.sqrt((x32**2).mean()), rtol=2**-8)


def turn(x_BTNH, positions_BT, theta):
    """Rotary embedding as multiplication of complex numbers."""
    half = x_BTNH.shape[-1] // 2
    z = x_BTNH[..., :half] + 1j * x_BTNH[..., half:]
    angle = positions_BT[:, :, None, None] * theta ** (-2 * np.arange(half) / (2 * half))
    z = z * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], -1)


def speeds(head_dim, theta):
    return layers.frequencies(dataclasses.replace(SHAPE, head_dim=head_dim, rope_theta=theta))


def test_rope():
    x, positions = normal(2, 5, 3, 10), RNG.integers(0, 500, (2, 5))
    got = layers.rope(x, positions, speeds(10, 1e4))
    np.testing.assert_allclose(got, turn(x, positions, 1e4), atol=1e-4)


def test_rope_scaling_slows_the_slow_ones_only():
    """The bands by the number of turns in the original context, as Llama 3.1 has them."""
    shape = dataclasses.replace(SHAPE, head_dim=64, rope_theta=5e5)
    plain_h = layers.frequencies(shape)
    scaling = RopeScaling(factor=32.0, low=1.0, high=4.0, original=8192)
    scaled_h = layers.frequencies(dataclasses.replace(shape, rope_scaling=scaling))
    turns_h = 8192 * plain_h / (2 * np.pi)
    fast_h, slow_h = turns_h > 4, turns_h < 1
    np.testing.assert_array_equal(scaled_h[fast_h], plain_h[fast_h])
    np.testing.assert_allclose(scaled_h[slow_h], plain_h[slow_h] / 32, rtol=1e-6)
    middle_h = ~fast_h & ~slow_h
    assert middle_h.any() and (np.diff(scaled_h) < 0).all()
    assert (scaled_h[middle_h] < plain_h[middle_h]).all()


def test_rope_knows_only_distances():
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8)

    def score(i, j):
        a, b = (layers.rope(x, np.asarray([[p]]), speeds(8, 50.0)) for x, p in ((q, i), (k, j)))
        return float(jnp.sum(a * b))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-5)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_swiglu():
    x, gate, up, down = normal(2, 3, 4), normal(4, 6), normal(4, 6), normal(6, 4)
    z = x @ gate
    wanted = (z / (1 + np.exp(-z)) * (x @ up)) @ down
    np.testing.assert_allclose(layers.swiglu(x, gate, up, down), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "weight", "over"),
    [((2, 5, 8), (8, 3), 1), ((2, 5, 3), (3, 8), 1), ((2, 5, 8), (8, 2, 3), 1),
     ((2, 5, 2, 3), (2, 3, 4), 2), ((2, 5, 2, 3), (2, 3, 40), 2), ((7, 4), (4, 4), 1)],
)  # fmt: skip
def test_dense_and_its_gradients_are_those_of_a_plain_product(x, weight, over):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=x), rng.normal(size=weight)
    direction = rng.normal(size=np.tensordot(x, weight, over).shape)

    def results(product):
        def total(x, weight):
            out = product(x, weight, over)
            return jnp.sum(jnp.sin(out) * direction), out

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, weight)

    for a, b in zip(
        jax.tree.leaves(results(layers.dense)), jax.tree.leaves(results(jnp.tensordot)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


def test_the_gradient_of_dense_keeps_its_dtypes():
    x, weight = jnp.ones((3, 4), jnp.bfloat16), jnp.ones((4, 2), jnp.bfloat16)
    grads = jax.grad(lambda *a: layers.dense(*a).astype(jnp.float32).sum(), (0, 1))(x, weight)
    assert [grad.dtype for grad in grads] == [jnp.bfloat16, jnp.bfloat16]
