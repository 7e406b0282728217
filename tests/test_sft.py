"""Supervised fine-tuning: what an example is, and the whole program through its entry point."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from configs import quickstart
from tests.test_train import ROOT, environment, rows, timeless
from torl_jax import config, policy, sft
from torl_jax.data import arithmetic, stream
from torl_jax.episode import Author, Problem
from torl_jax.errors import UserError
from torl_jax.model import hf
from torl_jax.problems import Problems
from torl_jax.protocols.text import Tokenizer
from torl_jax.protocols.torl import ToRL
from torl_jax.rl.batch import from_episodes

__all__ = ["environment"]

BASE = ROOT / "assets" / "tiny-base"
SHAPE = hf.read_config(BASE)
PLAIN = ToRL("User: {question}\nAssistant:\n")
EXAMPLES, HELD_OUT, SIZE = 21, 5, 8


@pytest.fixture(scope="module")
def text():
    return Tokenizer(BASE)


def test_an_example_is_a_prompt_and_what_the_policy_should_have_written(text):
    problem = Problem("p", "What is 2+3?", "It is 5.<|endoftext|>")
    made = sft.example(problem, PLAIN, text)
    prompt, answer = made.segments
    assert prompt.author is Author.PROMPT and answer.author is Author.POLICY
    assert text.decode(prompt.tokens) == PLAIN.prompt(problem)
    assert answer.text == "It is 5.<|endoftext|>" + text.decode([text.eos_ids[0]])
    # The one that ends the text is a token, the one that is written in the answer is not.
    assert [t for t in answer.tokens if t in text.eos_ids] == [answer.tokens[-1]]
    batch = from_episodes([made], np.ones(1, bool), row_tokens=64, microbatch_rows=1)
    trained = batch.targets[batch.mask > 0]
    assert tuple(trained.tolist()) == answer.tokens


def test_long_examples_are_dropped_whole_and_named(text):
    found = [Problem(f"p{i}", "What is 2+3?", "5 " * i) for i in range(1, 40)]
    cfg = config.Config(
        sampler=config.Sampler(max_prompt=8, max_response=8),
        learner=config.Learner(row_tokens=40),
    )
    lengths = {p.id: len(sft.example(p, PLAIN, text).tokens) for p in found}
    listed = Problems(found, found[-1:], ["a note"])
    kept, dropped = sft.fitting(cfg, SHAPE, listed, PLAIN, text)
    assert dropped["training"] == {id: n for id, n in lengths.items() if n > 40}
    assert [p.id for p in kept.training] == [id for id, n in lengths.items() if n <= 40]
    assert 5 < len(kept.training) < 39 and kept.held_out == []
    first = next(iter(dropped["training"]))
    note, training, held_out = kept.notes
    assert note == "a note" and "dropped.json" in training and "dropped.json" not in held_out
    count = len(dropped["training"])
    assert training.startswith(f"{count} of 39 training examples dropped") and first in training
    assert "1 of 1 held-out" in held_out and f"p39 ({lengths['p39']})" in held_out
    with pytest.raises(UserError, match=r"none of 1 examples fits .*row_tokens=40.*raise it"):
        sft.fitting(cfg, SHAPE, Problems(found[-1:], []), PLAIN, text)


def test_the_steps_follow_from_the_epochs():
    cfg = config.Sft(epochs=3, examples_per_step=16, warmup=0.1)
    assert sft.steps_of(cfg, 400) == 75 and sft.steps_of(cfg, 401) == 78
    rates = sft.scheduled(config.Config(sft=cfg), 75)
    assert (rates.warmup, rates.decay) == (8, 67)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A file of examples and a run of two epochs over it, eight a step."""
    path = tmp_path_factory.mktemp("data") / "examples.jsonl"
    asked = arithmetic.problems(3, 0, EXAMPLES + HELD_OUT, ("sum",))
    lines = [
        json.dumps({"question": f"{p.question} ({i})", "answer": p.answer + " and so on" * (i % 5)})
        for i, p in enumerate(asked)
    ]
    path.write_text("\n".join(lines) + "\n")
    return [
        "--config=configs/quickstart.py",
        "--config.data.source=file",
        f"--config.data.path={path}",
        f"--config.data.eval_problems={HELD_OUT}",
        "--config.data.decontaminate=0",
        "--config.sft.epochs=2",
        f"--config.sft.examples_per_step={SIZE}",
        "--config.optimizer.lr=1e-3",
        "--config.learner.microbatch_rows=2",
        "--config.eval.every=4",
        "--config.checkpoint.every=2",
    ]


def start(workdir, environment, flags, *more, module="sft") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"torl_jax.{module}", f"--workdir={workdir}", *flags, *more],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(*args, **kwargs) -> str:
    process = start(*args, **kwargs)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment, flags) -> tuple[Path, str]:
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir, environment, flags)


STEPS = 2 * math.ceil(EXAMPLES / SIZE)


def test_it_learns_and_says_so(whole, text):
    workdir, out = whole
    found = rows(workdir)
    assert [row["step"] for row in found] == [*range(STEPS + 1)]
    assert [row["step"] for row in found if "eval/loss" in row] == [0, 4, STEPS]
    assert found[-1]["eval/loss"] < found[0]["eval/loss"] - 0.1
    assert found[-1]["train/loss"] < found[1]["train/loss"]
    assert found[-1]["train/epoch"] == 2
    assert f"{STEPS:>5} eval: held-out loss {found[-1]['eval/loss']:.3f}" in out
    assert " step    loss entropy" in out and f"{found[1]['train/loss']:.4f}" in out
    assert f"examples: {EXAMPLES}, held out {HELD_OUT}; {STEPS} steps" in out
    # The last step of an epoch has fewer examples; each epoch sees all tokens once.
    tokens = [row["train/trained_tokens"] for row in found[1:]]
    assert sum(tokens[:3]) == sum(tokens[3:]) and tokens[2] < min(tokens[:2])
    assert tokens[:3] != tokens[3:], "each epoch has an order of its own"
    # round(0.1 * 6) = 1 step of warm-up, then half a cosine.
    rates = [row["train/lr"] for row in found[1:]]
    wanted = [0.0, *(0.5e-3 * (1 + np.cos(np.pi * i / (STEPS - 1))) for i in range(STEPS - 1))]
    np.testing.assert_allclose(rates, wanted, atol=1e-9)


def test_nothing_compiles_after_the_first_step(whole):
    first, *later = [row["time/compilations"] for row in rows(whole[0])[1:]]
    assert first > 0 and later == [0] * (STEPS - 1)


def test_the_model_folder_is_the_last_checkpoint_and_starts_rl(whole, environment, flags, tmp_path):
    workdir, _ = whole
    made, saved = policy.load(str(workdir / "model")), policy.load(str(workdir))
    jax.tree.map(np.testing.assert_array_equal, made.params, saved.params)
    assert made.cfg.sft.epochs == 2 and not (workdir / "model.part").exists()
    smaller = [
        "--config=configs/quickstart.py",
        f"--config.model.path={workdir / 'model'}",
        "--config.data.eval_problems=0",
        "--config.rl.problems_per_step=4",
        "--config.rl.group_size=4",
        "--config.sampler.slots=16",
        "--config.run.steps=1",
    ]
    run(tmp_path, environment, smaller, module="train")
    assert [row["step"] for row in rows(tmp_path)] == [0, 1]


class After:
    """A StopSignal that has caught one once it was looked at so many times."""

    def __init__(self, looks: float = math.inf) -> None:
        self.looks = looks

    @property
    def caught(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_a_run_that_is_stopped_and_goes_on_is_as_if_undisturbed(flags, tmp_path, capsys):
    """On all eight devices, weights and rows split; stopped within an epoch and between two."""
    chosen = quickstart.get_config()
    for flag in [*flags[1:], "--config.learner.microbatch_rows=4", "--config.mesh.data=2",
                 "--config.mesh.fsdp=2", "--config.mesh.tp=2",
                 "--config.checkpoint.every=100"]:  # fmt: skip
        path, value = flag.removeprefix("--config.").split("=", 1)
        section, key = path.split(".")
        chosen[section][key] = type(chosen[section][key])(value)
    cfg = config.parse(chosen)
    sft.tune(cfg, epath.Path(tmp_path / "whole"), After())
    assert "the model is in" in capsys.readouterr().out
    broken = epath.Path(tmp_path / "broken")
    # One look before the first step and one after each.
    for looks, step in ((2, 2), (1, 3)):
        sft.tune(cfg, broken, After(looks))
        assert f"stopped after step {step}, saved" in capsys.readouterr().out
        assert not (broken / "model").exists()
    # What a death while the model was written would leave is no obstacle.
    (tmp_path / "broken" / "model.part").mkdir()
    sft.tune(cfg, broken, After())
    assert timeless(tmp_path / "broken") == timeless(tmp_path / "whole")
    for file in ("model.safetensors", "tokenizer.json"):
        mine, theirs = (tmp_path / name / "model" / file for name in ("broken", "whole"))
        assert mine.read_bytes() == theirs.read_bytes()


def test_stopped_before_the_first_step_there_is_nothing_to_save(flags, tmp_path, capsys):
    cfg = config.parse(quickstart.get_config())
    data = dataclasses.replace(cfg.data, source="file", path=flags[2].split("=", 1)[1],
                               eval_problems=0, decontaminate=0, families=())  # fmt: skip
    cfg = dataclasses.replace(cfg, data=data)
    sft.tune(cfg, epath.Path(tmp_path), After(0))
    assert "nothing to save" in capsys.readouterr().out
    assert not any((tmp_path / "checkpoints").glob("[0-9]*"))


def refused(workdir, environment, flags, module) -> str:
    process = start(workdir, environment, flags, module=module)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2 and "Traceback" not in err, err
    (line,) = [x for x in err.splitlines() if x.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--config.optimizer.warmup=10", "set config.sft.warmup, a share of the run"),
        ("--config.optimizer.decay=10", "set config.sft.warmup, a share of the run"),
        ("--config.tools.files=('mine.py',)", "calls no tool and lists none"),
    ],
)
def test_what_would_do_nothing_is_refused(tmp_path, environment, flags, option, words):
    more = ["--config.protocol.markup=toolrl", "--config.protocol.prompt="] * ("tools" in option)
    assert words in refused(tmp_path, environment, [*flags, option, *more], "sft")
    assert not any(tmp_path.iterdir())


def test_an_earlier_runs_model_is_not_taken_for_this_ones(tmp_path, environment, flags):
    (tmp_path / "model").mkdir()
    line = refused(tmp_path, environment, flags, "sft")
    assert "is another run's, whose checkpoints are gone" in line


def test_a_finished_run_says_so_and_is_nobody_elses(whole, environment, flags):
    workdir, _ = whole
    before = (workdir / "metrics.jsonl").read_bytes()
    assert f"all {STEPS} steps are done" in run(workdir, environment, flags)
    line = refused(workdir, environment, flags, "train")
    assert "was made by torl_jax.sft, this is torl_jax.train" in line
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_other_held_out_examples_are_refused(whole, environment, flags, tmp_path):
    """Training rows are the same: only what the curve is measured on has changed."""
    workdir, _ = whole
    path = Path(flags[2].split("=", 1)[1])
    other = tmp_path / "other.jsonl"
    lines = path.read_text().splitlines()
    asked = [json.loads(line) for line in lines]
    problems = [Problem(str(i), row["question"], "") for i, row in enumerate(asked)]
    _, held_out = stream.split(problems, HELD_OUT, 0)
    asked[int(held_out[0].id)]["answer"] += " or more"
    other.write_text("\n".join(map(json.dumps, asked)) + "\n")
    before = (workdir / "metrics.jsonl").read_bytes()
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    path.rename(kept := path.with_suffix(".kept"))
    try:
        shutil.copyfile(other, path)
        line = refused(copy, environment, flags, "sft")
    finally:
        kept.rename(path)
    assert "the held-out examples have changed since the checkpoint" in line
    assert "or choose another --workdir" in line
    assert (copy / "metrics.jsonl").read_bytes() == before
