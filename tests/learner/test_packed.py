"""Packed is padded: rows of several episodes, of several lengths, and the loss of each alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torl_jax.learner import step

# (rows a microbatch, tokens a row, row lengths). The longest episode has 20 tokens.
PACKINGS = [(2, 44, 1), (2, 44, 2), (1, 88, 3)]


@functools.partial(jax.jit, static_argnames=("loss",))
def whole(params, batch, loss):
    """(loss, its gradient) of the whole batch; nothing of the optimiser's."""
    total = jnp.sum(batch.mask)

    def share(part):
        value, gradient = jax.value_and_grad(loss, has_aux=True)(params, part, total)
        return (value[0], gradient), value[1]

    return step.summed(lambda m: step.on_rung(share, batch, m), batch.count)[0]


def alone(batch):
    """Each episode in a row and a microbatch of its own, the rest of the row padding."""
    each = [batch(slice(i, i + 1), rows=1) for i in range(8)]
    made = jax.tree.map(lambda *x: np.concatenate(x) if x[0].ndim else np.int32(len(x)), *each)
    return dataclasses.replace(made, episode=made.episode + np.arange(8)[:, None, None])


def by_target(batch, values) -> dict:
    """{(episode, place in it): value} of the trained targets."""
    trained = np.argwhere(batch.mask > 0)
    places = [(batch.episode[*at], batch.positions[*at]) for at in trained]
    return dict(zip(places, np.asarray(values)[batch.mask > 0], strict=True))


@pytest.mark.parametrize(("rows", "row_tokens", "rungs"), PACKINGS)
def test_packed_is_padded(learner, params, batch, rows, row_tokens, rungs):
    policy = learner().policy
    padded, packed = alone(batch), batch(rows=rows, row_tokens=row_tokens, rungs=rungs)
    assert padded.segments.max() == 1 < packed.segments.max()
    if rungs > 1:
        assert packed.rung[: packed.count].any(), "some microbatch is a short one"
    wanted, found = (whole(params, x, loss=policy.loss) for x in (padded, packed))
    assert float(found[0]) == pytest.approx(float(wanted[0]), abs=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[1], wanted[1])
    assert max(np.abs(x).max() for x in jax.tree.leaves(wanted[1])) > 1e-2
    scores = [by_target(x, policy.tokens(params, x)) for x in (padded, packed)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
