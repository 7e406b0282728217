"""What each episode of a group is worth beside the others. Pure numpy functions.

    values_E = estimate(rewards_E, groups_E, tokens_E)

rewards: [E] floats (gdpo: [E, C]); groups: [E] integers, equal for samples of one problem, in
any order; tokens: [E], how many the policy wrote. Each returns [E] float32 and raises
ValueError on unequal shapes. What an episode is worth becomes the reward of its last token
(`learner.credit`), from where all tokens that the policy wrote have it; tool output is between
them and has none. ESTIMATORS says what else belongs to each name.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
EPS = 1e-6  # ToRL's release; ZeroTIR's has 1e-9


def reinforce(rewards_E: Array, groups_E: Array, tokens_E: Array) -> Array:
    """The reward itself: REINFORCE++ (arXiv 2501.03262), PPO.

    A_i = r_i
    """
    rewards, _, _ = _checked(rewards_E, groups_E, tokens_E)
    return rewards.astype(np.float32)


def centred(rewards_E: Array, groups_E: Array, tokens_E: Array) -> Array:
    """Beside the group's mean: REINFORCE++-baseline (arXiv 2501.03262), Dr. GRPO (2503.20783).

    A_i = r_i - mean_g,   g = the group of i
    """
    rewards, groups, _ = _checked(rewards_E, groups_E, tokens_E)
    return (rewards - _mean(rewards, groups)).astype(np.float32)


def rloo(rewards_E: Array, groups_E: Array, tokens_E: Array) -> Array:
    """Beside the mean of the others: RLOO (Ahmadian et al. 2024, arXiv 2402.14740).

    A_i = r_i - (sum_g - r_i) / (n_g - 1) = (r_i - mean_g) n_g / (n_g - 1)

    A group of one has no others: its advantage is 0.
    """
    rewards, groups, _ = _checked(rewards_E, groups_E, tokens_E)
    count = _sum(np.ones(len(groups)), groups)
    around = rewards - _mean(rewards, groups)
    return (around * count / np.maximum(count - 1, 1)).astype(np.float32)


def opo(rewards_E: Array, groups_E: Array, tokens_E: Array) -> Array:
    """Beside the mean weighted by length: OPO (arXiv 2505.23585), the baseline of least variance.

    A_i = r_i - sum_g(l r) / sum_g(l),   l = tokens that the policy wrote

    if gradients of longer responses are longer in proportion. A group without any
    token has nothing to learn: its advantages are 0.
    """
    rewards, groups, tokens = _checked(rewards_E, groups_E, tokens_E)
    total = _sum(tokens, groups)
    baseline = _sum(tokens * rewards, groups) / np.maximum(total, 1)
    return np.where(total > 0, rewards - baseline, 0.0).astype(np.float32)


def grpo(rewards_E: Array, groups_E: Array, tokens_E: Array, eps: float = EPS) -> Array:
    """Beside the group's mean, in its spreads: GRPO (Shao et al. 2024, arXiv 2402.03300, eq. 3).

        A_i = (r_i - mean_g) / (std_g + eps)

    with the sample standard deviation (ddof = 1), as ToRL's release computes it. A group of
    one has no spread to compare with: its advantage is 0.
    """
    rewards, groups, _ = _checked(rewards_E, groups_E, tokens_E)
    return _normalised(rewards, groups, eps).astype(np.float32)


def gdpo(
    parts_EC: Array, groups_E: Array, tokens_E: Array, eps: float = EPS, batch_eps: float = 1e-4
) -> Array:
    """Advantages of rewards in C parts (GDPO, arXiv 2601.05242).

        A_i = sum over k of (r_ik - mean_gk) / (std_gk + eps),   g = the group of i
        advantage_i = (A_i - mean) / (std + batch_eps),          over all E episodes

    A sum normalised as a whole (`grpo`) gives one advantage to all parts of one sum: format 1
    and correctness 0 weigh as format 0 and correctness 1. Here each part counts by its own
    spread in the group, and the second line keeps the size independent of C.
    A part that is equal within a group adds nothing to it, so a group of one has A_i = 0.

    Choices: 1. sample standard deviations (ddof = 1) in both lines, as the authors' code has.
    2. The second mean and std are over episodes, as in their TRL code;
    their verl code whitens tokens, by which long responses weigh more. 3. `batch_eps` is theirs
    too: parts that cancel leave a rest of the size of eps, which must not be blown up.
    """
    parts_EC = np.asarray(parts_EC, np.float64)
    if parts_EC.ndim != 2:
        raise ValueError(f"parts {parts_EC.shape} must be [E, C]")
    _, groups, _ = _checked(np.zeros(len(parts_EC)), groups_E, tokens_E)
    summed = np.zeros(len(groups))
    for part in parts_EC.T:
        summed += _normalised(part, groups, eps)
    return _normalised(summed, np.zeros(len(groups), int), batch_eps).astype(np.float32)


def _checked(rewards: Any, groups: Any, tokens: Any) -> tuple[Array, Array, Array]:
    """As float64, groups numbered from 0, float64."""
    rewards, tokens = np.asarray(rewards, np.float64), np.asarray(tokens, np.float64)
    groups = np.asarray(groups)
    if rewards.ndim != 1 or not rewards.shape == groups.shape == tokens.shape:
        raise ValueError(
            f"rewards {rewards.shape}, groups {groups.shape} and tokens {tokens.shape} must be "
            "equal, 1-d"
        )
    return rewards, np.unique(groups, return_inverse=True)[1], tokens


def _sum(values: Array, groups: Array) -> Array:
    """[E]: the sum of each one's group."""
    return np.bincount(groups, values)[groups] if values.size else values


def _mean(values: Array, groups: Array) -> Array:
    return _sum(values, groups) / _sum(np.ones(len(values)), groups)


def _normalised(values: Array, groups: Array, eps: float) -> Array:
    """Minus the group's mean, over its sample standard deviation + eps."""
    around = values - _mean(values, groups)
    spread = _sum(around**2, groups) / np.maximum(_sum(np.ones(len(values)), groups) - 1, 1)
    return around / (np.sqrt(spread) + eps)


@dataclasses.dataclass(frozen=True)
class Estimator:
    """A way from rewards to advantages."""

    estimate: Callable[[Array, Array, Array], Array]
    critic: bool = False  # less the critic's values, by GAE
    compares: bool = True  # samples of one problem: a group needs two
    whitens: bool = False  # over the tokens of the step, where rl.whiten says so
    # With the KL in the reward: each token pays its own, or (False) the episode pays all of it
    # before it is compared.
    token_kl: bool = False


ESTIMATORS = {
    "grpo": Estimator(grpo),
    "dr_grpo": Estimator(centred),
    "gdpo": Estimator(gdpo),
    "rloo": Estimator(rloo, whitens=True),
    "opo": Estimator(opo, whitens=True),
    "reinforce_pp": Estimator(reinforce, compares=False, whitens=True, token_kl=True),
    "reinforce_pp_baseline": Estimator(centred, whitens=True, token_kl=True),
    "gae": Estimator(reinforce, critic=True, compares=False, whitens=True, token_kl=True),
}
