"""The comparison with peers: its arithmetic, and what it says where they are not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import side_by_side
from benchmarks.peers import spec


def test_ratios_are_of_neighbours_and_the_first_call_stays_apart():
    rates = {"sample": {"torl": [1.0, 300.0, 400.0, 500.0], "hf": [1.0, 100.0, 100.0, 250.0]}}
    ours, theirs = side_by_side.rows(rates)
    assert ours[:5] == [side_by_side.TASKS["sample"], "torl_jax", "400 (300-500)", "1", "1"]
    assert theirs[2:] == ["100 (100-250)", "1", "3.00 (2.00-4.00)", "at least 1.5: met"]


def test_every_side_gets_the_same_work():
    assert spec.prompts(3) == spec.prompts(3) != spec.prompts(4)
    assert {len(prompt) for prompt in spec.prompts(0)} == {spec.PROMPT}
    assert {len(text) for text in spec.texts(0)} == {spec.LENGTH}


def test_a_peer_that_is_not_installed_is_one_line(tmp_path):
    if (Path(side_by_side.ROOT) / side_by_side.SIDES["hf"]).exists():
        pytest.skip("the peers are installed here")
    done = subprocess.run(
        [sys.executable, "-m", side_by_side.MODULE, "--sides", "hf"],
        cwd=side_by_side.ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == "error: .venv-torch is not there: make bench installs it"
