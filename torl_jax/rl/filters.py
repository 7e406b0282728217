"""Which episodes are trained on."""

from collections.abc import Sequence

import numpy as np

from torl_jax.episode import End, Episode


def keep(episodes: Sequence[Episode]) -> np.ndarray:
    """bool [E]: all but those that our own failures ended."""
    return np.asarray([episode.end is not End.ABORT for episode in episodes], bool)
