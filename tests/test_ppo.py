"""PPO through the real entry point: it runs, warms its critic up, compiles once, resumes."""

import pytest

from tests.test_train import environment, params, rows, run, timeless

__all__ = ["environment"]

PPO = [
    "--config.rl.estimator=gae",
    "--config.rl.problems_per_step=16",
    "--config.rl.group_size=1",
    "--config.rl.gamma=0.99",
    "--config.rl.lam=0.95",
    "--config.rl.epochs=2",
    "--config.rl.kl_coef=0.01",
    "--config.rl.kl_in=reward",
    "--config.rl.kl_estimator=k1",
    "--config.rl.entropy_coef=0.001",
    "--config.critic.lr=1e-3",
    "--config.critic.warmup=1",
    "--config.optimizer.decay=20",
    "--config.data.eval_problems=0",
    "--config.filters.overlong=mask",
    "--config.filters.void=mask",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    """A run of four steps that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    run(workdir, environment, *PPO)
    return workdir


def test_a_step_says_what_both_networks_did(whole):
    first, *later = rows(whole)[1:]
    assert [row["step"] for row in (first, *later)] == [1, 2, 3, 4]
    of_critic = {"train/vf_loss", "train/vf_clip_fraction", "train/vf_grad_norm",
                 "train/value_mean", "train/return_mean", "train/explained_variance"}  # fmt: skip
    for row in (first, *later):
        assert of_critic <= row.keys() and row["train/vf_grad_norm"] > 0
        assert 0 < row["trained/share"] <= 1
    assert "train/policy_loss" not in first, "the critic's warm-up"
    for row in later:
        assert row["train/grad_norm"] > 0 and row["train/agreement_max"] < 1e-4
    assert later[-1]["train/value_mean"] != 0


def test_nothing_compiles_after_the_first_step(whole):
    first, *later = [row["time/compilations"] for row in rows(whole)[1:]]
    assert first > 0 and later == [0, 0, 0]


def test_a_resumed_run_is_as_if_nothing_happened(whole, environment, tmp_path):
    """Stopped within and after the warm-up; the critic goes on where it was."""
    for steps in (1, 3, 4):
        run(tmp_path, environment, *PPO, f"--config.run.steps={steps}")
    assert timeless(tmp_path) == timeless(whole)
    mine, theirs = params(tmp_path, 4), params(whole, 4)
    assert all((mine[name] == theirs[name]).all() for name in mine)
