"""The papers' recipes, shrunk: real tokenizer, real prompts, real rows, two steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from configs import toolrl_1p5b
from torl_jax import config
from torl_jax.planning import programs

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return done


def rows_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def first_episode(workdir: Path) -> dict:
    (dump,) = (workdir / "episodes").glob("train-000001.jsonl")
    return json.loads(dump.read_text().splitlines()[0])


def test_torl_two_steps_end_to_end(shared, tmp_path):
    done = run(
        "torl_jax.train",
        "--config=configs/torl_1p5b.py:smoke", f"--workdir={tmp_path}",
        f"--config.model.tokenizer={shared / 'tokenizers' / 'qwen2.5'}",
        f"--config.data.path={shared / 'data' / 'math' / 'math_level3to5_train.parquet'}",
    )  # fmt: skip
    # Two rows of the file have no answer; none is dropped in silence.
    assert "2 of 8523 rows are unusable" in done.stderr
    assert "prompt longer than" in done.stdout
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[2]["train/agreement_max"] < 1e-4
    assert rows[2]["time/compilations"] == 0
    assert rows[0].keys() >= {"eval/greedy_accuracy"}
    episode = first_episode(tmp_path)
    prompt = episode["segments"][0]
    assert prompt["text"].startswith("A conversation between User and Assistant. The user asks")
    assert prompt["text"].endswith("\nAssistant:\n")
    assert max(t for s in episode["segments"] for t in s["tokens"]) < 151_665


def test_zerotir_two_steps_end_to_end(shared, tmp_path):
    """PPO, whose critic waits for nothing here; the prompt opens a thought."""
    done = run(
        "torl_jax.train",
        "--config=configs/zerotir_7b.py:ppo,smoke", f"--workdir={tmp_path}",
        f"--config.model.tokenizer={shared / 'tokenizers' / 'qwen2.5'}",
        f"--config.data.path={shared / 'data' / 'math' / 'math_level3to5_train.parquet'}",
        "--config.critic.warmup=0",
    )  # fmt: skip
    assert "sandbox level" in done.stdout
    rows = rows_of(tmp_path)
    assert rows[2]["train/importance_max"] == pytest.approx(1, abs=1e-3)
    assert rows[2]["train/vf_loss"] >= 0 and rows[2]["time/compilations"] == 0
    assert rows[1]["rollout/reward"] == 0 and rows[1]["rollout/end_length"] > 0
    prompt = first_episode(tmp_path)["segments"][0]["text"]
    assert prompt.endswith("\nAssistant: <think>") and "Python" in prompt


def test_toolrl_two_steps_end_to_end(shared, tmp_path):
    data = shared / "data" / "toolrl"
    done = run(
        "torl_jax.train",
        "--config=configs/toolrl_1p5b.py:smoke", f"--workdir={tmp_path}",
        f"--config.model.tokenizer={shared / 'tokenizers' / 'qwen2.5'}",
        f"--config.data.path={data / 'rlla_sft.json'}",
        f"--config.data.eval_path={data / 'rlla_test.parquet'}",
    )  # fmt: skip
    assert "17 training problems dropped: their gold answers cannot be graded" in done.stdout
    assert "prompt longer than config.sampler.max_prompt=480 tokens" in done.stdout
    assert "tools: none is called" in done.stdout and "sandbox" not in done.stdout
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[2]["train/agreement_max"] < 1e-4 and rows[2]["time/compilations"] == 0
    # Random weights write no tags: nothing for tool rows, and for rows without tools nothing less.
    assert rows[1]["rollout/reward"] == rows[1]["rollout/reward_correctness"]
    assert -3 <= rows[0]["eval/greedy_reward_correctness"] <= 0
    assert rows[1]["rollout/reward_format_max"] == 0
    prompt = first_episode(tmp_path)["segments"][0]["text"]
    assert prompt.startswith("<|im_start|>system\n") and "**Available Tools**" in prompt
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n") and "<user>" in prompt


def test_fine_tuning_one_step_end_to_end(shared, tmp_path):
    """`:sft,smoke` on the shortest of the published answers."""
    rows = json.loads((shared / "data" / "toolrl" / "rlla_sft.json").read_text())
    rows.sort(key=lambda row: sum(map(len, row.values())))
    (tmp_path / "rows.json").write_text(json.dumps(rows[:2]))
    done = run(
        "torl_jax.sft",
        "--config=configs/toolrl_1p5b.py:sft,smoke", f"--workdir={tmp_path / 'run'}",
        f"--config.model.tokenizer={shared / 'tokenizers' / 'qwen2.5'}",
        f"--config.data.path={tmp_path / 'rows.json'}",
        "--config.data.eval_problems=0",
    )  # fmt: skip
    assert "examples: 2, held out 0; 1 steps of 4 in 1 epochs" in done.stdout
    assert "dropped" not in done.stdout
    (row,) = rows_of(tmp_path / "run")[-1:]
    # Random weights: about as likely as chance among 151,936.
    assert row["step"] == 1 and 11.5 < row["train/loss"] < 12.5 and row["train/grad_norm"] > 0
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_the_recipe_for_ppo_is_traced():
    """Every program of `:ppo,smoke` in its shapes, the critic's too; test_ppo.py runs PPO whole."""
    cfg = config.parse(toolrl_1p5b.get_config("ppo,smoke"))
    shape, vocab = programs.architecture(cfg.model)
    shape.check_positions(cfg.sampler.longest)
    one = jax.devices()[:1]
    made = programs.Run(cfg, shape, vocab, one, one)
    traced = {name: made.lower(name).out_info for name in programs.NAMES}
    state, stats = traced[programs.UPDATE]
    assert stats["entropy"].shape == () and state.critic is None
    # Four episodes, each of its own problem, in as many minibatches of one microbatch.
    rows = (1, cfg.learner.microbatch_rows, cfg.learner.row_tokens)
    critic = made.learner.critic
    assert critic is not None and cfg.rl.group_size == 1
    batch = made._batch(annotated=True)
    assert batch.values.shape == rows
    how = {"loss": critic.loss, "optimizer": critic.optimizer}
    after, figures = critic.update_program.lower(critic.abstract(), batch, **how).out_info
    assert jax.tree.map(lambda x: x.shape, after.params) == jax.tree.map(
        lambda x: x.shape, critic.abstract().params
    )
    assert "value_mean" in figures
