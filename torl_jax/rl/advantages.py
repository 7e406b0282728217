"""From rewards to advantages. Pure numpy functions of (rewards, groups)."""

import numpy as np


def grpo(rewards: np.ndarray, groups: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """Group-relative advantages (GRPO, Shao et al. 2024, arXiv 2402.03300, eq. 3).

        A_i = (r_i - mean_g) / (std_g + eps),   g = the group of i

    with the sample standard deviation (ddof = 1), as ToRL's release computes it.
    rewards: [E] floats; groups: [E] integers, equal for samples of one problem, in
    any order. Returns [E] float32. A group of one has no spread to compare
    with: its advantage is 0. Raises ValueError on unequal shapes.
    """
    rewards = np.asarray(rewards, np.float64)
    groups = np.asarray(groups)
    if rewards.shape != groups.shape or rewards.ndim != 1:
        raise ValueError(f"rewards {rewards.shape} and groups {groups.shape} must be equal, 1-d")
    if not rewards.size:
        return np.zeros(0, np.float32)
    _, index, count = np.unique(groups, return_inverse=True, return_counts=True)
    mean = np.bincount(index, rewards) / count
    centred = rewards - mean[index]
    variance = np.bincount(index, centred**2) / np.maximum(count - 1, 1)
    return (centred / (np.sqrt(variance)[index] + eps)).astype(np.float32)


ESTIMATORS = {"grpo": grpo}
