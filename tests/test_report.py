"""The report through its real entry point: files, escaping, one-line errors, no jax."""

import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from torl_jax.episode import Author, End, Episode, Problem, Score, Segment
from torl_jax.logs import Writer
from torl_jax.report import main
from torl_jax.reporting.page import headlines
from torl_jax.reporting.panels import number, series, smooth, spread

ROOT = Path(__file__).resolve().parent.parent
EVIL = "<script>alert('x')</script> & \"y\" \x1b[2J"


def episode(text: str) -> Episode:
    segments = (
        Segment(Author.PROMPT, (1,), "\n\nWhat is 1+1?\n"),
        Segment(Author.POLICY, (2,), text, (-1.0,)),
        Segment(Author.TOOL, (3,), "\n2 < 3\n```\n"),
    )
    return Episode(Problem("p<1>", "1+1", "<b>2</b>"), 0, segments, (), End.EOS)


def make_run(workdir: Path, steps: int = 12) -> None:
    console = Console(file=io.StringIO())
    with Writer(workdir, total_steps=steps, start_step=0, config={}, console=console) as log:
        log.write(0, {"eval/accuracy": 0.25, "eval/greedy_accuracy": 0.3})
        for step in range(steps):
            row = {"rollout/reward": step / steps, "rollout/accuracy": 0.5, "time/decode": 1.0}
            log.write(step, row | {"rollout/pass_ratio": None, "time/update": 2.0})
            log.episodes(step, "train", [episode(f"step {step} {EVIL}")], [Score(1.0, True)])
        log.write(steps, {"eval/accuracy": 0.75, "eval/greedy_accuracy": 0.8})
    (workdir / "config.json").write_text(json.dumps({"name": EVIL, "rl": {"group_size": 8}}))


class Page(HTMLParser):
    """Collects the elements of a page, what they link to, and the text of <pre>."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.blocks: list[tuple[str, str]] = []
        self._class: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "pre":
            self._class = dict(attrs).get("class") or ""
            self.blocks.append((self._class, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._class = None

    def handle_data(self, data: str) -> None:
        if self._class is not None:
            name, text = self.blocks[-1]
            self.blocks[-1] = (name, text + data)


def test_report_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_run(tmp_path)
    assert main([str(tmp_path)]) == 0
    out = tmp_path / "report"
    assert capsys.readouterr().out.split() == [str(out / "curves.png"), str(out / "index.html")]
    assert sorted(p.name for p in out.iterdir()) == ["curves.png", "index.html"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    html = (out / "index.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags and "link" not in page.tags
    assert len(page.links) == 1 and page.links[0].startswith("data:image/png;base64,")
    assert "://" not in html.replace(page.links[0], "")
    segments = [(name.split()[-1], text) for name, text in page.blocks if "segment" in name]
    # The first newline is the template's own, which a browser drops. The tool's first one
    # only ended the model's line; the prompt's two are blank lines and stay.
    shown = EVIL.replace("\x1b", "␛")
    assert segments == [
        pair
        for step in (0, 11)
        for pair in (
            ("prompt", "\n\n\nWhat is 1+1?\n"),
            ("model", f"\nstep {step} {shown}"),
            ("tool", "\n2 < 3\n```\n"),
        )
    ]
    assert '"group_size": 8' in page.blocks[-1][1]


def test_out_chooses_the_folder(tmp_path: Path):
    make_run(tmp_path / "run", steps=1)
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "a" / "b")]) == 0
    assert (tmp_path / "a" / "b" / "index.html").is_file()
    assert not (tmp_path / "run" / "report").exists()


def test_a_run_with_metrics_alone_says_what_is_missing(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval/accuracy": 0.5}\n{"step": 1, "r')
    assert main([str(tmp_path)]) == 0
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "no config.json" in html and "dumped no episodes" in html


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torl_jax.report", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_missing_or_empty_workdir_is_one_line_and_exit_code_2(tmp_path: Path):
    result = run_module(str(tmp_path / "nowhere"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no folder") and result.stderr.count("\n") == 1
    result = run_module(str(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no metrics.jsonl") and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"metrics.jsonl": ""}, "no complete row"),
        ({"metrics.jsonl": "oops\n"}, "line 1"),
        ({"metrics.jsonl": '{"step": 0}\n', "config.json": "{"}, "config.json is not JSON"),
        ({"metrics.jsonl": '{"step": 0}\n', "config.json": "[]"}, "not a JSON object"),
        ({"metrics.jsonl": '{"step": 0}\n', "episodes/a-000001.jsonl": "{"}, "a-000001.jsonl"),
        ({"metrics.jsonl": '{"step": 0}\n', "report": "a file"}, "give another --out"),
    ],
)
def test_what_the_user_can_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], says: str
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert main([str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1


def test_help_is_complete_and_nothing_imports_jax():
    shown = run_module("--help")
    assert shown.returncode == 0
    for word in ("WORKDIR/report", "--out DIR", "--names", "--published", "seeds"):
        assert word in shown.stdout
    code = "import sys, torl_jax.report; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_headlines_go_from_start_to_end():
    rows = [{"step": step, "rollout/code_ratio": step / 100} for step in range(101)]
    rows += [{"step": 0, "eval/accuracy": 0.3}, {"step": 101, "eval/accuracy": 0.9}]
    cards = {card["note"]: (card["start"], card["end"]) for card in headlines(rows)}
    assert cards == {"T = 1": ("0.300", "0.900"), "responses with code": ("0.0200", "0.980")}


def test_series_skips_what_was_not_measured():
    steps, values = series([{"step": 0, "x": None}, {"step": 1}, {"step": 2, "x": 5}], "x")
    assert steps.tolist() == [2.0] and values.tolist() == [5.0]


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=100))
def test_smoothing_stays_within_the_data(values: list[float]):
    data = np.asarray(values)
    strong = smooth(data)
    assert strong.shape == data.shape
    assert data.min() - 1e-9 <= strong.min() and strong.max() <= data.max() + 1e-9


def test_smoothing_keeps_a_constant_and_calms_noise():
    assert smooth(np.full(80, 3.0)) == pytest.approx(np.full(80, 3.0))
    noise = np.random.default_rng(0).normal(size=400)
    assert smooth(noise).std() < 0.5 * noise.std()


def test_smoothing_does_not_spread_the_beginning_over_what_follows():
    slow_start = np.ones(1000)
    slow_start[0] = 100.0
    assert smooth(slow_start)[20:] == pytest.approx(np.ones(980), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.floats(0.1, 3), st.floats(-10, 10))
def test_labels_never_overlap_and_keep_their_order(heights: list[float], gap: float, floor: float):
    placed = spread(heights, gap, floor)
    order = np.argsort(heights, kind="stable")
    assert all(np.diff(np.asarray(placed)[order]) >= gap - 1e-9)
    assert min(placed) >= floor


def test_labels_at_the_foot_are_pushed_up():
    assert spread([0.0, 0.0, 9.0], gap=1.0, floor=0.0) == pytest.approx([0.0, 1.0, 9.0])


def test_labels_far_apart_stay_put():
    assert spread([5.0, 1.0, 3.0], gap=1.0) == pytest.approx([5.0, 1.0, 3.0])


@pytest.mark.parametrize(
    ("value", "shown"), [(0.8234, "0.823"), (-0.5, "-0.500"), (3072.4, "3,072"), (12.345, "12.3")]
)
def test_numbers_for_people(value: float, shown: str):
    assert number(value) == shown
