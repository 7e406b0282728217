"""Rollouts ahead of training, through the real entry point: staleness, resuming, stopping."""

import signal

import pytest

from tests import running
from tests.running import params, rows, run, start, timeless, wait_for_rows

STEPS = 6
AHEAD = (
    "--config.pipeline.depth=1",
    "--config.checkpoint.every=3",
    f"--config.run.steps={STEPS}",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One compilation cache for all runs: what is tested is not the compiler."""
    return running.environment(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    """A run one batch ahead that nothing disturbed."""
    folder = tmp_path_factory.mktemp("ahead")
    run(folder, environment, *AHEAD)
    return folder


def test_a_step_is_trained_on_what_weights_of_one_update_ago_sampled(whole):
    """But the first, and those behind a checkpoint, while which nothing is under way."""
    staleness = [row["rollout/staleness"] for row in rows(whole)[1:]]
    assert staleness == [0, 1, 1, 0, 1, 1]
    for row in rows(whole)[1:]:
        # Stale weights say other log-probs than the trained ones; fresh ones the same.
        far = row["train/agreement_max"] > 1e-3
        assert far == bool(row["rollout/staleness"]), row["step"]
        assert row["train/importance_max"] >= row["train/importance_mean"] > 0.5


def test_the_rollout_runs_beside_training(whole):
    for row in rows(whole)[1:]:
        if row["rollout/staleness"]:
            assert row["time/wait"] + row["time/update"] <= row["time/step"] + 0.05
        else:
            assert row["time/wait"] >= row["time/rollout"]


def test_a_resumed_run_is_as_if_undisturbed(whole, tmp_path, environment):
    """Killed between two checkpoints, with a rollout under way."""
    process = start(tmp_path, environment, *AHEAD)
    wait_for_rows(tmp_path, 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run(tmp_path, environment, *AHEAD)
    assert timeless(tmp_path) == timeless(whole)
    ours, theirs = params(tmp_path, STEPS), params(whole, STEPS)
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_asked_to_stop_it_saves_the_last_whole_step(tmp_path, environment):
    process = start(tmp_path, environment, *AHEAD)
    for line in process.stdout:
        if line.split()[:1] == ["2"]:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (said,) = [line for line in out.splitlines() if line.startswith("stopped after step")]
    done = int(said.split()[3].strip(","))
    assert 2 <= done < STEPS and [row["step"] for row in rows(tmp_path)] == [*range(done + 1)]
