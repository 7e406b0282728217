"""What the loop hands to the estimators."""

import numpy as np
import pytest

from torl_jax import trainer
from torl_jax.episode import Score
from torl_jax.rl import advantages

SCORES = [
    Score(4.0, True, {"format": 1.0, "correctness": 3.0}),
    Score(1.0, False, {"format": 1.0, "correctness": 0.0}),
    Score(-3.0, False, {"correctness": -3.0}),
    Score(0.0, False),  # an aborted one: not counted, but it has a place
]


def test_gdpo_gets_each_part_and_the_others_their_sum():
    parts = trainer.rewards_of(SCORES, "gdpo")
    np.testing.assert_array_equal(parts, [[3, 1], [0, 1], [-3, 0], [0, 0]])
    np.testing.assert_array_equal(trainer.rewards_of(SCORES, "grpo"), [4, 1, -3, 0])
    assert trainer.rewards_of(SCORES[3:], "gdpo").shape == (1, 0)


@pytest.mark.parametrize("name", advantages.ESTIMATORS)
def test_every_estimator_takes_what_it_is_given(name):
    rewards = trainer.rewards_of(SCORES, name)
    found = advantages.ESTIMATORS[name].estimate(rewards, np.zeros(4, int), np.arange(1, 5))
    assert found.shape == (4,) and found.dtype == np.float32
    assert found[0] > found[1] > found[2]
