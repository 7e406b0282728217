"""The comparison with peers: its arithmetic, and what it says where they are not installed."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import side_by_side
from benchmarks.peers import spec, torl_model, torl_step, torl_tools
from benchmarks.peers.paced import Paced
from torl_jax.compilation import Counter
from torl_jax.episode import Author
from torl_jax.sampler.sampling import Settings


def made(*rates: float) -> list[side_by_side.Call]:
    """Calls of a second each."""
    return [side_by_side.Call(int(rate), 1.0) for rate in rates]


def test_ratios_are_of_neighbours_and_the_first_call_stays_apart():
    calls = {"sample": {"torl": made(1, 300, 400, 500), "hf": made(1, 100, 100, 250)}}
    ours, theirs = side_by_side.rows(calls)
    assert ours[:3] == [side_by_side.TASKS["sample"], "torl_jax", "400 (300-500)"]
    assert ours[3:6] == ["1.00 (1.00-1.00)", "1.0", "1"]
    assert theirs[2] == "100 (100-250)"
    assert theirs[5:] == ["3.00 (2.00-4.00)", "at least 1.5: met"]


def test_work_of_other_sizes_is_compared_by_its_rate():
    calls = {
        "uneven": {
            "torl": [side_by_side.Call(800, 1.0)] * 2, "tunix": [side_by_side.Call(100, 2.0)] * 2
        }
    }  # fmt: skip
    rate, seconds, _, ratio, _ = side_by_side.rows(calls)[1][2:]
    assert (rate, seconds, ratio) == ("50 (50-50)", "2.00 (2.00-2.00)", "16.00 (16.00-16.00)")


class Fake:
    """A side that notes what it is asked for."""

    def __init__(self, *tasks: str) -> None:
        self.tasks, self.asked = tasks, []

    def ask(self, task: str) -> side_by_side.Call:
        self.asked.append(task)
        return side_by_side.Call(10, 2.0)


def test_a_side_is_asked_for_what_it_has():
    sides = {"torl": Fake("sample", "step"), "trl": Fake("step")}
    calls = side_by_side.measure(sides, ["sample", "step"], rounds=2)
    assert sides["torl"].asked == ["sample"] * 3 + ["step"] * 3
    assert sides["trl"].asked == ["step"] * 3
    assert list(calls["sample"]) == ["torl"] and list(calls["step"]) == ["torl", "trl"]
    assert calls["step"]["trl"][0].rate == 5.0


def test_every_target_is_of_a_task_and_a_side():
    for task, side in side_by_side.TARGETS:
        assert task in side_by_side.TASKS and side in side_by_side.SIDES


@pytest.mark.parametrize("count", [1, 4])
def test_there_is_a_picture_of_any_tasks(tmp_path, count):
    calls = {task: {"torl": made(1, 2, 3), "trl": made(1, 2)} for task in side_by_side.TASKS}
    path = tmp_path / "picture.png"
    side_by_side.picture(dict(list(calls.items())[:count]), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_every_side_gets_the_same_work():
    assert spec.prompts(3) == spec.prompts(3) != spec.prompts(4)
    assert {len(prompt) for prompt in spec.prompts(0)} == {spec.PROMPT}
    assert {len(text) for text in spec.texts(0)} == {spec.LENGTH}


@pytest.mark.parametrize("uneven", [False, True])
def test_turns_are_of_all_that_a_sample_writes(uneven):
    turns = spec.turns(5, uneven)
    assert turns == spec.turns(5, uneven) and len(turns) == spec.BATCH
    assert {(len(turn), sum(turn)) for turn in turns} == {(spec.CALLS + 1, spec.NEW)}
    assert min(map(min, turns)) >= spec.LEAST
    assert len(set(turns)) == (len(turns) if uneven else 1)
    assert spec.ends(turns[0])[-1] == spec.NEW + spec.CALLS * spec.ANSWER


def test_a_task_is_made_once_and_counts_its_own_rounds():
    program = """
from benchmarks.peers import spec
def make(name):
    print(name)  # not among the answers
    return lambda round_: round_
spec.serve({"side": "one"}, {"a": lambda: make("a"), "b": lambda: make("b")})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=side_by_side.ROOT, capture_output=True, text=True,
        input="a\na\nb\n", timeout=60, check=True,
    )  # fmt: skip
    settings, *answers = map(json.loads, done.stdout.splitlines())
    assert settings == {"side": "one", "tasks": ["a", "b"]}
    assert [answer["tokens"] for answer in answers] == [0, 1, 0]
    assert done.stderr.split() == ["a", "b"]


def test_a_paced_loop_goes_one_step_on():
    done = []

    def loop(paced):
        for i in range(3):
            paced.pause()
            done.append(i)
            if i == 2:
                raise ValueError("no more")

    paced = Paced(loop)
    assert done == []
    paced.step()
    assert done == [0]
    paced.step()
    assert done == [0, 1]
    with pytest.raises(ValueError, match="no more"):
        paced.step()


def test_a_paced_loop_that_ends_says_so():
    paced = Paced(lambda paced: paced.pause())
    with pytest.raises(RuntimeError, match="ended"):
        paced.step()
    with pytest.raises(RuntimeError, match="ended"):
        Paced(lambda paced: None)


TINY = dataclasses.replace(
    torl_model.SHAPE, d_model=16, layers=1, heads=2, kv_heads=1, head_dim=8, d_mlp=16
)


def test_our_samples_call_where_they_are_to_and_compile_once(monkeypatch):
    for name, value in {"BATCH": 4, "PROMPT": 12, "NEW": 60, "LEAST": 4}.items():
        monkeypatch.setattr(spec, name, value)
    tools = torl_tools.Tools(TINY)
    tools.engine.load(tools.params, jax.random.key(0), Settings.of())
    tools.engine.warm_up()
    counter = Counter()
    for round_, uneven in ((0, False), (0, True), (1, True)):
        assert tools.run(round_, uneven) == 4 * 60
        for i, (episode, turns) in enumerate(
            zip(tools.episodes, spec.turns(round_, uneven), strict=True)
        ):
            wrote = [s.tokens for s in episode.segments if s.author is Author.POLICY]
            told = [list(s.tokens) for s in episode.segments if s.author is Author.TOOL]
            assert [len(tokens) for tokens in wrote] == list(turns)
            assert [torl_tools.CALL in tokens for tokens in wrote] == [True, True, False]
            assert told == [spec.answer(round_, i, call) for call in range(spec.CALLS)]
    assert counter.count == 0
    # A prompt and what tools say are read once, but for the last token, which decoding feeds.
    assert tools.engine.tally.read_tokens == 3 * 4 * (11 + 2 * 10)
    assert tools.engine.tally.rewound_tokens == 0


def test_our_step_is_one_update_on_all_that_was_sampled():
    cfg = dataclasses.replace(
        torl_step.CONFIG,
        sampler=dataclasses.replace(torl_step.CONFIG.sampler, slots=4, max_response=16),
        rl=dataclasses.replace(torl_step.CONFIG.rl, problems_per_step=2, group_size=2),
        learner=dataclasses.replace(torl_step.CONFIG.learner, row_tokens=80, microbatch_rows=2),
    )
    grpo = torl_step.Grpo(cfg, TINY)
    assert not grpo.trainer.learner.needs_old and not cfg.needs_reference
    assert grpo.step(0) == 2 * 2 * 16
    counter, before = Counter(), jax.device_get(grpo.state.params)
    assert grpo.step(1) == 2 * 2 * 16
    assert counter.count == 0 and int(grpo.state.step) == 2
    moved = jax.tree.map(lambda a, b: np.any(a != b), before, jax.device_get(grpo.state.params))
    assert all(jax.tree.leaves(moved))
    assert 0 < grpo.row["rollout/reward"] < 1 and grpo.row["train/agreement_max"] < 1e-3


def test_a_peer_that_is_not_installed_is_one_line(tmp_path):
    if (Path(side_by_side.ROOT) / side_by_side.SIDES["hf"]).exists():
        pytest.skip("the peers are installed here")
    done = subprocess.run(
        [sys.executable, "-m", side_by_side.MODULE, "--sides", "hf"],
        cwd=side_by_side.ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == "error: .venv-torch is not there: make bench installs it"
