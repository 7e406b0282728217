"""What a run trains on and is evaluated on, from the config's words to two lists."""

import json
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from torl_jax import config, problems
from torl_jax.errors import UserError
from torl_jax.rewards import toolrl as toolrl_reward

ROWS = [
    "What is 1 plus 1?",
    "what is 1  plus 1?",
    "A long question of fifteen words which is asked of nobody but the one who reads",
    "A long question of fifteen words, which is asked of nobody but the one who writes!",
    "How much is 7 times 8?",
    "How much is 9 times 9?",
]


def save(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(*numbers: int) -> list[dict[str, str]]:
    return [{"id": str(n), "question": ROWS[n], "answer": str(n)} for n in numbers]


def parse(**data: Any) -> config.Config:
    return config.parse({"data": data, "eval": data.pop("eval", {})})


def read(cfg: config.Config):
    found = problems.read(cfg)
    return found.training, found.held_out, found.notes


def ids(problems) -> list[str]:
    return [problem.id for problem in problems]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return save(tmp_path / "a.jsonl", *rows(0, 1, 2, 4))


def test_duplicates_are_counted_and_dropped_by_choice(path: str) -> None:
    training, held_out, lines = read(parse(path=path, eval_problems=0))
    assert ids(training) == ["a/0", "a/1", "a/2", "a/4"] and held_out == []
    assert len(lines) == 1 and "1 of 4 training problems ask a question again" in lines[0]
    training, _, lines = read(parse(path=path, eval_problems=0, dedup=True))
    assert ids(training) == ["a/2", "a/4"] and "(2 problems) have different answers" in lines[0]


def test_training_is_unlike_all_of_the_evaluation_file(path: str, tmp_path: Path) -> None:
    other = save(tmp_path / "b.jsonl", *rows(5, 3))
    training, held_out, lines = read(parse(path=path, eval_path=other, eval_problems=1))
    assert ids(training) == ["a/0", "a/1", "a/4"] and ids(held_out) == ["b/5"]
    assert "(b 1; a/2)" in lines[-1]
    training, _, _ = read(parse(path=path, eval_path=other, decontaminate=0))
    assert len(training) == 4


def test_training_is_unlike_a_benchmark(path: str, tmp_path: Path) -> None:
    other = save(tmp_path / "b.jsonl", *rows(3))
    cfg = parse(path=path, eval_problems=0, eval={"benchmarks": (f"mine={other}",)})
    training, held_out, lines = read(cfg)
    assert "a/2" not in ids(training) and held_out == [] and "(mine 1; a/2)" in lines[-1]


def test_what_the_split_drops_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", *rows(0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 5))
    training, held_out, lines = read(parse(path=path, eval_problems=1, decontaminate=0))
    assert held_out[0].question == ROWS[0] and len(training) == 2
    assert lines[-1] == "8 training problems dropped: they ask a held-out question"


def test_columns_are_those_of_the_training_file(path: str, tmp_path: Path) -> None:
    mine = save(tmp_path / "mine.jsonl", {"q": "1+1?", "a": 2})
    columns = {"question": "q", "answer": "a"}
    training, held_out, _ = read(parse(path=mine, eval_path=path, columns=columns))
    assert [(p.question, p.answer) for p in training] == [("1+1?", "2")] and len(held_out) == 4


def test_arithmetic_is_never_cleaned() -> None:
    cfg = parse(source="arithmetic", eval_problems=5, dedup=True)
    training, held_out, lines = read(cfg)
    assert len(training) == problems.TRAIN_PROBLEMS and len(held_out) == 5 and lines == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "no data: set --config.data.path"),
        ({"path": "none.jsonl"}, "config.data.path: data file none.jsonl does not exist"),
        (
            {"path": "O/N", "eval_path": "none.csv"},
            "config.data.eval_path: data file none.csv does not exist",
        ),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_read(data: dict[str, str], words: str):
    with pytest.raises(UserError, match=words):
        problems.check_paths(parse(**data).data)
        problems.read(parse(**data))


BAD = {"id": "bad", "question": "What time is it?", "answer": "05\\!:\\!00"}


def test_bad_golds_are_looked_for_once_and_dropped_or_kept(tmp_path: Path) -> None:
    path, workdir = save(tmp_path / "a.jsonl", *rows(0, 4), BAD), epath.Path(tmp_path)
    cfg = parse(path=path, eval_problems=0)
    found = problems.gradable(cfg, problems.read(cfg), workdir, again=False)
    assert ids(found.training) == ["a/0", "a/4"]
    assert "1 training problems dropped" in found.notes[-1] and "a/bad" in found.notes[-1]
    written = json.loads((tmp_path / problems.RECORD).read_text())
    ((line,), ()) = written["bad_answers"]
    assert line["id"] == "a/bad" and line["reason"] == "unequal to itself"
    # A run that goes on believes its record: a time-out may not repeat itself.
    written["bad_answers"] = [[line | {"id": "a/4", "gold": "56"}], []]
    (tmp_path / problems.RECORD).write_text(json.dumps(written))
    found = problems.gradable(cfg, problems.read(cfg), workdir, again=True)
    assert ids(found.training) == ["a/0", "a/bad"]
    kept = parse(path=path, eval_problems=0, bad_answers="keep")
    found = problems.gradable(kept, problems.read(kept), workdir, again=False)
    assert len(found.training) == 3 and "1 training problems kept" in found.notes[-1]
    refused = parse(path=path, eval_problems=0, bad_answers="error")
    with pytest.raises(UserError, match="1 of 3 gold answers cannot be graded"):
        problems.gradable(refused, problems.read(refused), workdir, again=False)


def test_a_held_out_problem_stays_whatever_its_gold(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    good = {"id": "bad", "question": "How much is 3 times 3?", "answer": "9"}
    # One name for two files, and for a row of each: golds are not told apart by ids.
    path, other = save(tmp_path / "a.jsonl", good), save(tmp_path / "b" / "a.jsonl", BAD)
    cfg = parse(path=path, eval_path=other, eval_problems=1, bad_answers="error")
    found = problems.gradable(cfg, problems.read(cfg), epath.Path(tmp_path), again=False)
    assert ids(found.held_out) == ids(found.training) == ["a/bad"]
    assert "1 held-out problems kept" in found.notes[-1]


RIGHT = '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>'
GOLDS = {
    "right": RIGHT,
    "torn": RIGHT.replace("}}", "}"),
    "bare": "<response> no thought </response>",
    "two": f"{RIGHT}\n<think> t </think>\n<response> r </response>",
}


def toolrl(tmp_path: Path, calls: int = 0, **data: Any) -> config.Config:
    """A config of two files with these golds; held out are all of the second."""
    for name in ("a", "b"):
        golds = [{"id": key, "question": f"{name} {key}", "answer": GOLDS[key]} for key in GOLDS]
        save(tmp_path / f"{name}.jsonl", *golds)
    paths = {"path": str(tmp_path / "a.jsonl"), "eval_path": str(tmp_path / "b.jsonl")}
    return config.parse(
        {
            "data": {"eval_problems": 4, "decontaminate": 0} | paths | data,
            "protocol": {"markup": "toolrl", "calls": calls},
            "reward": {"kind": "toolrl"},
        }
    )


def names(found: list[Any]) -> list[str]:
    return [problem.id.partition("/")[2] for problem in found]


@pytest.mark.parametrize(
    ("choice", "calls", "training"),
    [
        ("exclude", 0, ["right"]),
        ("keep", 0, ["right", "bare", "two"]),
        ("exclude", 3, ["right", "two"]),
    ],
)
def test_golds_that_no_call_can_be_scored_against_never_reach_a_run(
    tmp_path: Path, choice: str, calls: int, training: list[str]
) -> None:
    cfg = toolrl(tmp_path, calls, bad_answers=choice)
    found = problems.gradable(cfg, problems.read(cfg), epath.Path(tmp_path), again=False)
    assert names(found.training) == training
    assert names(found.held_out) == ["right", "bare", "two"]
    for held in (found.training, found.held_out):
        assert not any(toolrl_reward.check_gold(problem.answer) for problem in held)
    (line,) = [line for line in found.notes if "held-out problems dropped" in line]
    assert line.startswith("1 held-out") and "b/torn" in line and "gold calls: line 1" in line
    assert sum("training problems dropped" in line for line in found.notes) == 1


def test_gold_calls_are_looked_at_again_whenever_a_run_goes_on(tmp_path: Path) -> None:
    cfg, workdir = toolrl(tmp_path), epath.Path(tmp_path)
    problems.gradable(cfg, problems.read(cfg), workdir, again=False)
    torn = {"id": "late", "question": "a late one", "answer": GOLDS["torn"]}
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps(torn) + "\n")
    found = problems.gradable(cfg, problems.read(cfg), workdir, again=True)
    assert names(found.training) == ["right"]
    (training, _) = json.loads((tmp_path / problems.RECORD).read_text())["bad_answers"]
    assert [gold["id"] for gold in training][-1] == "a/late"


def test_no_unreadable_gold_is_held_out_where_they_are_an_error(tmp_path: Path) -> None:
    cfg = toolrl(tmp_path, bad_answers="error")
    save(tmp_path / "a.jsonl", {"question": "one", "answer": RIGHT})
    with pytest.raises(UserError, match=r"1 of 4 gold answers .*b/torn"):
        problems.gradable(cfg, problems.read(cfg), epath.Path(tmp_path), again=False)


def test_other_held_out_problems_are_another_run(tmp_path: Path) -> None:
    path, other = save(tmp_path / "a.jsonl", *rows(0)), save(tmp_path / "b.jsonl", *rows(4, 5))
    cfg, workdir = parse(path=path, eval_path=other, eval_problems=2), epath.Path(tmp_path)
    problems.gradable(cfg, problems.read(cfg), workdir, again=False)
    problems.gradable(cfg, problems.read(cfg), workdir, again=True)
    save(tmp_path / "b.jsonl", *rows(4))
    with pytest.raises(UserError, match="held-out problems have changed"):
        problems.gradable(cfg, problems.read(cfg), workdir, again=True)


def test_a_held_out_set_out_of_reach_has_a_way_out(tmp_path: Path, monkeypatch) -> None:
    """No network: one's own rows are held out instead, which the error says."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    mine, hub = save(tmp_path / "b.jsonl", *rows(0, 1, 2)), "nobody/at-all:data/test-*.parquet"
    with pytest.raises(UserError, match=r"^config\.data\.eval_path: nobody/at-all.*eval_path= "):
        problems.read(parse(path=mine, eval_path=hub, eval_problems=1))
    assert len(problems.read(parse(path=mine, eval_path="", eval_problems=1)).held_out) == 1


def test_a_file_for_a_source_that_reads_none_is_refused(path: str) -> None:
    with pytest.raises(UserError, match=r"data\.source=file"):
        problems.read(parse(source="arithmetic", path=path))
