"""The run's record: strict JSON, exact resume, readable events, plain lines off a terminal."""

import importlib
import io
import itertools
import json
import math
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from torl_jax import columns, report
from torl_jax.columns import COLUMNS, fit, step_line
from torl_jax.episode import (
    Author,
    Call,
    End,
    Episode,
    Observation,
    Problem,
    Score,
    Segment,
    Turn,
)
from torl_jax.errors import UserError
from torl_jax.logs import METRICS, Writer, read_metrics

EVENTS = importlib.import_module("tensorboardX.proto.event_pb2")  # made by protoc: no types

ROW = {key: 0.5 for _, key, _, _ in COLUMNS}


def writer(workdir: epath.PathLike, start_step: int = 0, **options: Any) -> Writer:
    options.setdefault("console", Console(file=io.StringIO()))
    return Writer(workdir, total_steps=4, start_step=start_step, config={}, **options)


def strict(line: str) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


def scalars(workdir: epath.PathLike) -> list[tuple[int, str, float]]:
    """(step, name, value) of all TensorBoard events."""
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(workdir)
        for value in event.summary.value
    ]


def events(workdir: epath.PathLike) -> list[Any]:
    """TensorBoard events of all files: records of length, checksum, bytes, checksum."""
    found = []
    for path in sorted((epath.Path(workdir) / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(EVENTS.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_rows_are_strict_json_with_step_first(tmp_path: Path):
    with writer(tmp_path) as log:
        log.write(0, {"a/nan": math.nan, "a/inf": -math.inf, "a/none": None, "a/whole": 3})
        log.write(1, {"b": np.float32(0.5), "c": np.int64(7), "d": True})
        flushed = (tmp_path / METRICS).read_text()
    first, second = flushed.splitlines()
    assert first == '{"step": 0, "a/nan": null, "a/inf": null, "a/none": null, "a/whole": 3}'
    assert strict(second) == {"step": 1, "b": 0.5, "c": 7, "d": 1}
    assert read_metrics(tmp_path) == [strict(first), strict(second)]


def test_resume_keeps_earlier_rows_byte_for_byte(tmp_path: Path):
    kept = b'{"step": 0, "x":   1.50}\n{"x": 2, "step": 1}\n{"step":1,"eval/accuracy":0.1}\n'
    path = tmp_path / METRICS
    path.write_bytes(kept + b'{"step": 2, "x": 9}\n{"step": 3, "x": 9}\n{"step": 4, "x')
    with writer(tmp_path, start_step=2) as log:
        assert path.read_bytes() == kept
        log.write(2, {"x": 5})
    assert path.read_bytes() == kept + b'{"step": 2, "x": 5}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == [METRICS, "tensorboard"]


@settings(deadline=None)
@given(cut=st.integers(0, 200), start=st.integers(0, 6))
def test_resume_after_a_kill_at_any_byte(
    tmp_path_factory: pytest.TempPathFactory, cut: int, start: int
):
    workdir = tmp_path_factory.mktemp("run")
    lines = [json.dumps({"step": step, "x": step * 1.5}) + "\n" for step in range(6)]
    (workdir / METRICS).write_text("".join(lines)[:cut])
    ends = itertools.accumulate(map(len, lines))
    whole = [line for end, line in zip(ends, lines, strict=True) if end <= cut]
    assert [row["step"] for row in read_metrics(workdir)] == list(range(len(whole)))
    with writer(workdir, start_step=start):
        assert (workdir / METRICS).read_text() == "".join(whole[:start])


@pytest.mark.parametrize("damage", ["{", "[1]", '{"x": 1}', '{"step": "0"}', "", "\x00\x00"])
def test_damage_before_the_last_line_is_an_error_and_nothing_is_changed(
    tmp_path: Path, damage: str
):
    text = f'{{"step": 0}}\n{damage}\n{{"step": 2}}\n'
    (tmp_path / METRICS).write_text(text)
    with pytest.raises(UserError, match="line 2"):
        read_metrics(tmp_path)
    with pytest.raises(UserError, match="line 2"), writer(tmp_path, start_step=1):
        pass
    assert (tmp_path / METRICS).read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == [METRICS]


def test_no_metrics_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        read_metrics(tmp_path)


class FakeBucket(MemoryFileSystem):
    """Object storage in memory: files appear whole, and are never appended to or renamed.

    It is reached through epath and fsspec as a real bucket is.
    """

    protocol = ("gcs", "gs")
    writes: ClassVar[list[str]] = []

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.store, self.pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("gs://"))

    def _open(self, path: str, mode: str = "rb", *arguments: Any, **options: Any) -> Any:
        assert mode in ("rb", "wb"), f"a bucket knows no {mode}"
        if mode == "wb":
            self.writes.append(path)
        return super()._open(path, mode, *arguments, **options)

    def mv(self, *arguments: Any, **options: Any) -> None:
        raise AssertionError("a bucket does not rename")


@pytest.fixture
def bucket():
    """The folder of a run in an empty bucket."""
    fsspec.register_implementation("gcs", FakeBucket, clobber=True)
    root = epath.Path("gs://bucket")
    if root.exists():
        root.rmtree()
    FakeBucket.writes.clear()
    return root / "runs" / "one"


def test_a_bucket_holds_what_a_folder_holds(bucket: epath.Path, tmp_path: Path):
    for workdir in (bucket, tmp_path):
        with Writer(
            str(workdir), total_steps=2, start_step=0, config={},
            console=Console(file=io.StringIO()),
        ) as log:  # fmt: skip
            log.write(0, {"eval/accuracy": 0.5})
            log.write(1, {"rollout/reward": 0.25})
            assert [row["step"] for row in read_metrics(workdir)] == [0, 1]
            log.episodes(1, "train", [sample()], [Score(1.0, True)])
    for name in (METRICS, "episodes/train-000001.txt", "episodes/train-000001.jsonl"):
        assert (bucket / name).read_bytes() == (tmp_path / name).read_bytes()
    assert sorted(p.name for p in bucket.iterdir()) == sorted(p.name for p in tmp_path.iterdir())
    assert scalars(bucket) == scalars(tmp_path) == [
        (0, "eval/accuracy", 0.5),
        (1, "rollout/reward", 0.25),
    ]  # fmt: skip


def test_events_reach_a_bucket_with_each_evaluation_and_at_the_end(bucket: epath.Path):
    with writer(bucket) as log:
        log.write(0, ROW)
        assert not (bucket / "tensorboard").exists()
        log.write(1, ROW | {"eval/accuracy": 0.5})
        assert {step for step, _, _ in scalars(bucket)} == {0, 1}
        log.write(2, ROW)
        assert {step for step, _, _ in scalars(bucket)} == {0, 1}
    assert {step for step, _, _ in scalars(bucket)} == {0, 1, 2}


def test_nothing_of_a_bucket_stays_on_the_machine(
    bucket: epath.Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match="the run died"), writer(bucket) as log:
        log.write(0, ROW)
        assert any(tmp_path.iterdir())
        raise RuntimeError("the run died")
    assert not any(tmp_path.iterdir())
    assert {step for step, _, _ in scalars(bucket)} == {0}


def test_a_bucket_resumes_byte_for_byte(bucket: epath.Path):
    kept = b'{"step": 0, "x":   1.50}\n{"x": 2, "step": 1}\n'
    path = bucket / METRICS
    path.write_bytes(kept + b'{"step": 2, "x": 9}\n{"step": 3, "x')
    with writer(bucket, start_step=2) as log:
        assert path.read_bytes() == kept
        log.write(2, {"x": 5})
        assert path.read_bytes() == kept + b'{"step": 2, "x": 5}\n'
    with writer(bucket, start_step=3) as log:
        log.write(3, {"x": 6})
    assert [row["step"] for row in read_metrics(bucket)] == [0, 1, 2, 3]
    # Each process adds events of its own and leaves those before it alone.
    assert [(step, value) for step, _, value in scalars(bucket)] == [(2, 5.0), (3, 6.0)]


def test_a_damaged_bucket_is_not_changed(bucket: epath.Path):
    (bucket / METRICS).write_bytes(b"{\n")
    FakeBucket.writes.clear()
    with pytest.raises(UserError, match="line 1"), writer(bucket):
        pass
    assert not FakeBucket.writes


def test_a_report_of_a_bucket(bucket: epath.Path, capsys: pytest.CaptureFixture[str]):
    with writer(bucket) as log:
        log.write(0, ROW | {"eval/accuracy": 0.5})
        log.episodes(0, "eval", [sample()], [Score(1.0, True)])
    (bucket / "config.json").write_text('{"seed": 7}')
    assert report.main([str(bucket)]) == 0
    assert "gs://bucket/runs/one/report/index.html" in capsys.readouterr().out
    html = (bucket / "report" / "index.html").read_text()
    assert "&#34;seed&#34;: 7" in html and "p-1" in html and "<title>" in html
    assert report.main(["gs://bucket/runs/two"]) == 2
    assert "no folder gs://bucket/runs/two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("workdir", "words"), [("ftp://b/run", "ftp:// is not supported"), ("az://b/run", "package")]
)
def test_an_address_that_nothing_here_can_reach(workdir: str, words: str):
    with pytest.raises(UserError, match=words) as error:
        Writer(workdir, total_steps=1, start_step=0, config={})
    assert "\n" not in str(error.value) and workdir in str(error.value)


def test_tensorboard_events_read_back_and_purge_on_resume(tmp_path: Path):
    with writer(tmp_path) as log:
        log.write(0, {"rollout/reward": -0.5, "train/loss": math.nan})
        log.write(1, {"rollout/reward": 0.25})
    with writer(tmp_path, start_step=1) as log:
        log.write(1, {"rollout/reward": 0.75})
    found = events(tmp_path)
    assert scalars(tmp_path) == [
        (0, "rollout/reward", -0.5),
        (1, "rollout/reward", 0.25),
        (1, "rollout/reward", 0.75),
    ]
    starts = [event.step for event in found if event.session_log.status == EVENTS.SessionLog.START]
    assert starts == [0, 1]


def test_lines_fit_80_columns_without_control_codes(tmp_path: Path):
    out = io.StringIO()
    with writer(tmp_path, console=Console(file=out, width=80)) as log:
        log.write(0, {"eval/accuracy": 0.4, "eval/greedy_accuracy": 0.5})
        for step in range(30):
            log.write(step, ROW)
        log.line("saved [1/2]")
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()
    assert lines[0] == "    0 eval: accuracy 0.400, greedy accuracy 0.500"
    assert all(len(line) < 80 for line in lines)
    assert sum("reward" in line for line in lines) == 2  # the header comes again
    assert lines[-1] == "saved [1/2]"
    assert len([line for line in lines if " 0.50 " in line]) == 30


def test_a_terminal_gets_a_bar_with_time_left(tmp_path: Path):
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with writer(tmp_path, start_step=1, console=console) as log:
        for step in (1, 2, 3):
            log.write(step, ROW)
    assert "3/4" in out.getvalue() and "left" in out.getvalue()


@settings(deadline=None)
@given(st.floats(allow_nan=False, min_value=-1e12, max_value=1e12), st.integers(0, 4))
def test_a_figure_never_leaves_its_column(value: float, decimals: int):
    assert len(fit(value, 6, decimals)) == 6


def test_columns_stay_aligned_whatever_the_figures():
    wild = {key: value for (_, key, _, _), value in zip(COLUMNS, [1e9, 0.0, 1.0] * 4, strict=True)}
    assert len(step_line(3, wild)) == len(step_line(99999, {})) == len(step_line(0, ROW))


def sample() -> Episode:
    turn = Turn(Call("print(2)"), Observation("2", True, "ok", 0.25))
    segments = (
        Segment(Author.PROMPT, (1, 2), "1+1\n"),
        Segment(Author.POLICY, (3,), "```output", (-0.1,)),
        Segment(Author.TOOL, (4, 5), "\n\ud800\n```\n"),
    )
    turns = (turn, Turn(None, None))
    return Episode(Problem("p-1", "1+1", "2", "sums"), 3, segments, turns, End.EOS)


def test_episodes_are_dumped_as_text_and_as_jsonl(tmp_path: Path):
    score = Score(1.0, True, {"answer": 1.0, "odd": math.nan})
    lost = Score(-1.0, False, failure="timeout: took too long")
    with writer(tmp_path) as log:
        log.episodes(7, "eval", [sample(), sample()], [score, lost])
    folder = tmp_path / "episodes"
    assert sorted(p.name for p in folder.iterdir()) == ["eval-000007.jsonl", "eval-000007.txt"]
    first, second = map(strict, (folder / "eval-000007.jsonl").read_text().splitlines())
    assert first["segments"] == [
        {"author": "prompt", "text": "1+1\n", "tokens": [1, 2]},
        {"author": "model", "text": "```output", "tokens": [3]},
        {"author": "tool", "text": "\n\ud800\n```\n", "tokens": [4, 5]},
    ]
    assert first["turns"][0]["code"] == "print(2)" and first["turns"][0]["seconds"] == 0.25
    assert first["turns"][1]["code"] is None
    assert (first["end"], first["sample"]) == ("eos", 3)
    assert first["score"] == {
        "total": 1.0,
        "correct": True,
        "parts": {"answer": 1.0, "odd": None},
        "failure": "",
    }
    assert second["score"]["failure"] == "timeout: took too long"
    assert second["score"]["correct"] is False
    text = (folder / "eval-000007.txt").read_text()
    assert text.count("── p-1 · sample 3 · gold answer: 2 ──\n") == 2
    assert "  tool │ \\ud800\n" in text and "wrong, reward -1" in text


def test_wandb_without_its_package_names_it_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # import then fails as if not installed
    with pytest.raises(UserError, match=r"pip install wandb"):
        writer(tmp_path, wandb=True)
    assert not list(tmp_path.iterdir())


def test_wandb_keeps_its_run_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="needs the wandb extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for start in (0, 2):
        with writer(tmp_path, start_step=start, wandb=True) as log:
            for step in range(start, 4):
                log.write(step, {"rollout/reward": float(step), "train/loss": math.nan})
    name = (tmp_path / "wandb_id.txt").read_text()
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(runs) == 2 and all(run.endswith(name) for run in runs)


def test_tool_calls_have_columns_of_their_own():
    row = {"rollout/reward": 2.5, "rollout/reward_format": 0.5, "rollout/reward_correctness": 2.0}
    titles = columns.header(row).splitlines()[1].split()
    shown = dict(zip(titles, step_line(7, row).split(), strict=True))
    assert (shown["form"], shown["call"], shown["reward"]) == ("0.50", "2.0", "2.500")
    assert (
        "code" not in titles and "code" in columns.header(ROW) and "form" not in columns.header(ROW)
    )
    assert len(columns.header(row).splitlines()[1]) <= 78
    line = columns.eval_line(7, {"eval/greedy_reward_format": 1.0, "eval/reward": 2.0})
    assert line.split() == ["7", "eval:", "reward", "2.000"]
