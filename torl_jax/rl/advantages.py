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
    return _normalised(rewards, groups, eps).astype(np.float32)


def gdpo(
    parts_EC: np.ndarray, groups: np.ndarray, eps: float = 1e-6, batch_eps: float = 1e-4
) -> np.ndarray:
    """Advantages of rewards in C parts (GDPO, arXiv 2601.05242).

        A_i = sum over k of (r_ik - mean_gk) / (std_gk + eps),   g = the group of i
        advantage_i = (A_i - mean) / (std + batch_eps),          over all E episodes

    A sum normalised as a whole (`grpo`) gives one advantage to all parts of one sum: format 1
    and correctness 0 weigh as format 0 and correctness 1. Here each part counts by its own
    spread in the group, and the second line keeps the size independent of C.
    parts_EC: [E, C] floats, as summed to the reward; groups as in `grpo`. Returns [E] float32.
    A part that is equal within a group adds nothing to it, so a group of one has A_i = 0.
    Raises ValueError on unequal lengths.

    Choices: 1. sample standard deviations (ddof = 1) in both lines, as the authors' code has.
    2. The second mean and std are over episodes, as in their TRL code;
    their verl code whitens tokens, by which long responses weigh more. 3. `batch_eps` is theirs
    too: parts that cancel leave a rest of the size of eps, which must not be blown up.
    """
    parts_EC = np.asarray(parts_EC, np.float64)
    groups = np.asarray(groups)
    if parts_EC.ndim != 2 or groups.shape != parts_EC.shape[:1]:
        raise ValueError(f"parts {parts_EC.shape} and groups {groups.shape} must be [E, C] and [E]")
    summed = np.zeros(len(groups))
    for part in parts_EC.T:
        summed += _normalised(part, groups, eps)
    return _normalised(summed, np.zeros(len(groups), int), batch_eps).astype(np.float32)


def _normalised(values: np.ndarray, groups: np.ndarray, eps: float) -> np.ndarray:
    """[E] float64 minus their group's mean, over its sample standard deviation + eps."""
    if not values.size:
        return np.zeros(0)
    _, index, count = np.unique(groups, return_inverse=True, return_counts=True)
    mean = np.bincount(index, values) / count
    centred = values - mean[index]
    variance = np.bincount(index, centred**2) / np.maximum(count - 1, 1)
    return centred / (np.sqrt(variance)[index] + eps)


ESTIMATORS = {"grpo": grpo, "gdpo": gdpo}
