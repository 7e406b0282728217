"""The paper's recipe, shrunk: real tokenizer, real prompt, real MATH rows, two steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_two_steps_end_to_end(shared, tmp_path):
    command = [
        sys.executable, "-m", "torl_jax.train",
        "--config=configs/torl_1p5b.py:smoke", f"--workdir={tmp_path}",
        f"--config.model.tokenizer={shared / 'tokenizers' / 'qwen2.5'}",
        f"--config.data.path={shared / 'data' / 'math' / 'math_level3to5_train.parquet'}",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    # Two rows of the file have no answer; none is dropped in silence.
    assert "2 of 8523 rows are unusable" in done.stderr
    assert "prompt longer than" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[2]["train/agreement_max"] < 1e-4
    assert rows[2]["time/compilations"] == 0
    assert rows[0].keys() >= {"eval/greedy_accuracy"}
    (dump,) = (tmp_path / "episodes").glob("train-000001.jsonl")
    episode = json.loads(dump.read_text().splitlines()[0])
    prompt = episode["segments"][0]
    assert prompt["text"].startswith("A conversation between User and Assistant. The user asks")
    assert prompt["text"].endswith("\nAssistant:\n")
    assert max(t for s in episode["segments"] for t in s["tokens"]) < 151_665
