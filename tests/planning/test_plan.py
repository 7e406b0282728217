"""`python -m torl_jax.plan` as a person and a script meet it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def plan(*words: str, code: int) -> subprocess.CompletedProcess:
    # The command sets up its own devices.
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-m", "torl_jax.plan", *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == code, result.stderr
    return result


SMALL = (
    "--config=configs/quickstart.py",
    "--config.sampler.slots=8",
    "--config.sampler.ladder=(16,)",
    "--config.learner.microbatch_rows=2",
)


def test_json_for_scripts():
    result = plan(*SMALL, "--topology=cpu:2", "--json", code=0)
    found = json.loads(result.stdout)
    assert found["fits"] is True
    names = [program["name"] for program in found["programs"]]
    assert names == ["handoff", "extend", "decode", "annotate", "update"]
    for program in found["programs"]:
        assert program["needed_bytes"] > 0 and program["compile_seconds"] > 0
    assert found["step_seconds"] is None  # a CPU's peaks are not known
    assert found["programs"][4]["flops"] > 0 and found["programs"][4]["collectives"]
    assert any("not known" in line for line in found["assumptions"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--topology=v5p:2x"], ["unknown topology 'v5p:2x'", "v5p:2x2x4", "cpu:8"]),
        ([], ["no topology", "v6e:8x8"]),
        (["--topology=cpu:2", "--config.learner.microbatch_rows=3"], ["multiple of 2"]),
    ],
)
def test_bad_input_is_one_line(words, said):
    result = plan(*SMALL, *words, code=2)
    assert result.stdout == ""
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and all(word in line for word in said)


@pytest.mark.libtpu
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_tpu_is_planned_for_without_one():
    """The real compiler: memory, time and the layout of the recipe's own kernels."""
    result = plan(
        "--config=configs/torl_1p5b.py:smoke",
        "--config.sampler.max_response=256",
        "--config.learner.row_tokens=512",
        "--config.learner.microbatch_rows=16",
        "--topology=v5e:4x4",
        "--json",
        code=0,
    )
    found = json.loads(result.stdout)
    assert found["fits"] and found["step_seconds"] > 0
    assert found["hbm_bytes"] == 15.75 * 2**30
    assert all(program["roofline_seconds"] > 0 for program in found["programs"])
