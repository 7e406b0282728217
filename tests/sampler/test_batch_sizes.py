"""How many rows segments are compiled for."""

import pytest

from torl_jax.sampler.engine import batch_sizes


@pytest.mark.parametrize(
    ("slots", "ways", "wanted"),
    [(4, 1, (4,)), (128, 1, (16, 32, 64, 128)), (96, 1, (24, 48, 96)), (96, 8, (24, 48, 96)),
     (48, 16, (48,)), (31, 1, (31,)), (256, 8, (32, 64, 128, 256))],
)  # fmt: skip
def test_segments_of_a_few_sizes(slots, ways, wanted):
    assert batch_sizes(slots, ways) == wanted
