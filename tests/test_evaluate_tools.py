"""Evaluation of tool calls through its real entry point, by a tiny random model.

The model says nothing that means anything, so where a verdict is wanted its replies are taken
for gold, or its words are looked for.
"""

import contextlib
import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from configs import quickstart
from tests import running
from torl_jax import config, toolexam
from torl_jax.errors import Interrupted, UserError
from torl_jax.evaluate_tools import Options, evaluate
from torl_jax.interrupt import StopSignal
from torl_jax.protocols import dialogue
from torl_jax.protocols.text import Tokenizer
from torl_jax.toolbench import api_bank, bamboogle, judge, search, suite
from torl_jax.toolbench.suite import Servers

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
GOLD = {"name": "pay", "parameters": {"amount": "12"}}
ITEMS = {1: 5, 2: 3, 3: 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny base with a chat template, and positions for Bamboogle's growing prompts."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(ROOT / "assets" / "tiny-base", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(shape | {"max_position_embeddings": 1024}))
    return folder


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Ten items, of which one does not fit."""
    folder = tmp_path_factory.mktemp("bank")
    for level, count in ITEMS.items():
        rows = [
            {"system": "s", "user": f"What is {level}{i}+{i}?", "answer": [GOLD], "other": {}}
            for i in range(count)
        ]
        if level == 3:
            rows[1]["user"] = "7+" * 400
        (folder / f"level-{level}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One compilation cache for all runs: what is tested is not the compiler."""
    return running.environment(tmp_path_factory.mktemp("compiled"))


def options(model, out, benchmarks, **more) -> Options:
    fields: dict[str, Any] = {"max_prompt": 96, "max_response": 24} | more
    return Options(str(model), benchmarks, epath.Path(out), **fields)


def run(asked: Options, stop: StopSignal | None = None) -> str:
    """What it said; in this process, which has eight devices."""
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.chdir(ROOT):
        evaluate(asked, config.parse(quickstart.get_config()), stop or StopSignal())
    return said.getvalue()


def generations(out) -> list[dict]:
    lines = [line for p in sorted(Path(out).glob("*.jsonl")) for line in p.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda row: row["problem"])


def command(model, bank, out, *more) -> list[str]:
    return [
        sys.executable, "-m", "torl_jax.evaluate_tools", f"--checkpoint={model}",
        "--config=configs/quickstart.py", f"--benchmarks=api_bank={bank}", f"--out={out}",
        "--max_prompt=96", "--max_response=24", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, bank):
    """API-Bank that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    return out, run(options(model, out, benchmarks={"api_bank": str(bank)}))


def test_every_item_counts_and_what_does_not_fit_is_said(whole):
    out, said = whole
    rows = generations(out)
    assert len(rows) == 9 and all(row["correct"] is False for row in rows)
    assert len({row["problem"] for row in rows}) == 9
    for row in rows:
        prompt, *replies = row["segments"]
        assert prompt["text"].startswith("[system]\ns\n[user]\nWhat is ")
        assert prompt["text"].endswith("[assistant]\n") and row["turns"] == []
        # Nothing of the token that ends a reply.
        assert row["reply"] == replies[0]["text"].removesuffix("<|endoftext|>")
    found = json.loads((out / "results.json").read_text())["api_bank"]
    assert found["overall"]["problems"] == 10 and found["overall"]["too_long"] == 1
    assert [found[f"level-{k}"]["problems"] for k in ITEMS] == [5, 3, 2]
    assert "1 items count as wrong, a prompt of theirs is longer than --max_prompt=96" in said
    assert "overall is over 10 items, not over the paper's 597" in said
    assert "| **this policy** | **10** | **0.0** |" in (out / "results.md").read_text()


def test_a_reply_that_matches_is_right(whole, model, bank, tmp_path, monkeypatch):
    """Parsed as another would read it: with the gold call for every second item."""
    before = {row["problem"]: row["reply"] for row in generations(whole[0])}
    right = set(list(before.values())[::2])
    monkeypatch.setattr(api_bank, "parse", lambda said: [GOLD] if said in right else [])
    run(options(model, tmp_path, benchmarks={"api_bank": str(bank)}))
    rows = generations(tmp_path)
    # The same replies, whatever is made of them.
    assert {row["problem"]: row["reply"] for row in rows} == before
    share = sum(row["correct"] for row in rows)
    assert share == sum(said in right for said in before.values()) > 0
    found = json.loads((tmp_path / "results.json").read_text())["api_bank"]
    assert found["overall"]["accuracy"] == pytest.approx(share / 10)


def test_a_finished_one_is_only_read_and_another_one_is_refused(whole, model, bank):
    out, _ = whole
    before = {p: p.read_bytes() for p in out.glob("*.jsonl")}
    asked = options(model, out, benchmarks={"api_bank": str(bank)})
    said = run(asked)
    assert "9 of 9 items were done before" in said
    assert {p: p.read_bytes() for p in out.glob("*.jsonl")} == before
    with pytest.raises(UserError, match=r"config\.sampler\.max_response=24, this one says"):
        run(dataclasses.replace(asked, max_response=25))


def test_stopped_and_torn_it_goes_on_to_the_same_results(whole, model, bank, environment, tmp_path):
    python, _, *rest = command(model, bank, tmp_path, "--slots=1", "--config.sampler.segment=1")
    process = subprocess.Popen(
        [python, "-c", running.SLOWLY, *rest],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not any(b"\n" in p.read_bytes() for p in tmp_path.glob("*.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err
    assert "finished items are in" in err
    (file,) = tmp_path.glob("*.jsonl")
    kept = file.read_bytes()
    assert 1 <= kept.count(b"\n") < 9 and not (tmp_path / "results.json").exists()
    # As a killed process leaves it: half a line at the end.
    file.write_bytes(kept + kept.splitlines()[0][:40])
    said = run(options(model, tmp_path, benchmarks={"api_bank": str(bank)}))
    assert "items were done before" in said and file.read_bytes().startswith(kept)
    found = [[(r["problem"], r["reply"]) for r in generations(out)] for out in (tmp_path, whole[0])]
    assert found[0] == found[1]
    results = [json.loads((out / "results.json").read_text()) for out in (tmp_path, whole[0])]
    assert results[0]["api_bank"] == results[1]["api_bank"]


def test_bad_input_is_one_line_and_two(model, bank, environment, tmp_path):
    done = subprocess.run(
        command(model, bank, tmp_path, "--checkpoint=assets/tiny-base"),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "has no chat template" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("benchmarks", "message"),
    [
        (["bfcl=x"], "give NAME=PATH, the name of api_bank, bamboogle"),
        (["api_bank"], "give NAME=PATH"),
        (["api_bank=x", "api_bank=y"], "given twice"),
    ],
)
def test_bad_names_are_refused(benchmarks, message):
    with pytest.raises(UserError, match=message):
        suite.chosen(benchmarks)


def test_bad_system_messages_are_refused(tmp_path, shared):
    with pytest.raises(UserError, match="cannot be read"):
        suite.trained(str(tmp_path / "nowhere"))
    (tmp_path / "some.txt").write_text("no tools here")
    with pytest.raises(UserError, match="no list of tools"):
        suite.trained(str(tmp_path / "some.txt"))
    # A row that the policy was trained on: its own words, with the search tool alone.
    found = suite.trained(str(shared / "data" / "toolrl" / "rlla_test.parquet"))
    taken = bamboogle.system(found)
    assert "1. Name: Search" in taken and "2. Name: " not in taken


ASKS = '<tool_call>{"parameters": {"query": "%s"}}'
# What the policy says to each question, round by round.
SAID = {
    "one hop": [ASKS % "known", "<response> right </response>"],
    "no search": ["<response> right </response>"],
    "wrong": ["<response> other </response>"],
    "nothing": ["<think> t </think>"],
    "lost": ["<tool_call>"] * 4,
    "for ever": [ASKS % "known"] * 4,
    "search fails": [ASKS % "later", "<response> right </response>"],
    "judge fails": ["<response> later </response>"],
    "grows": [ASKS % "long"],
}
WRONG = {"wrong", "nothing", "lost", "for ever", "grows"}


@pytest.fixture
def scripted(monkeypatch):
    """A policy that says what SAID has."""

    def reply(episode, text):
        question = episode.problem.question.partition("<user> ")[2].partition(" </user>")[0]
        number = int(episode.problem.id.partition("/")[2] or 1)
        return SAID[question][number - 1]

    monkeypatch.setattr(toolexam, "reply", reply)


@pytest.fixture
def asked(model, tmp_path, monkeypatch):
    """Bamboogle with records that lack an answer and a judgment.

    Its words are few here: the tiny base spells nearly all of them letter by letter.
    """
    monkeypatch.setattr(bamboogle, "SEARCH", dialogue.Tool("S", "", {}))
    monkeypatch.setattr(bamboogle, "GO_ON", "Go on.")
    monkeypatch.setattr(bamboogle, "ANSWER_NOW", "Answer.")
    questions = [{"Question": question, "Answer": "gold"} for question in SAID]
    (tmp_path / "data.json").write_text(json.dumps(questions))
    record(tmp_path)
    trained = "1. Name: f\nDescription: d\nParameters: {}"
    return options(
        model,
        tmp_path / "out",
        benchmarks={"bamboogle": str(tmp_path / "data.json")},
        servers=Servers(
            str(tmp_path / "search.json"), str(tmp_path / "judge.json"), trained=trained
        ),
        max_prompt=600,
        max_response=8,
        slots=8,
    )


def record(folder, *, later=False):
    """The records; `later`: with what they lacked."""
    page = {"organic": [{"title": "t", "snippet": "<|endoftext|>"}]}
    found = {"known": page, "long": {"organic": [{"snippet": "7+" * 400}]}}
    found |= {"later": page} if later else {}
    (folder / "search.json").write_text(json.dumps(found))
    said = [("no search", "right", "Yes"), ("one hop", "right", "Yes"), ("wrong", "other", "No")]
    said += [("search fails", "right", "Yes"), ("judge fails", "later", "Yes")] if later else []
    rows = [dict(zip(("question", "answer", "judgment"), row, strict=True)) for row in said]
    (folder / "judge.json").write_text(json.dumps(rows))


def figures(asked):
    return json.loads((asked.out / "results.json").read_text())["bamboogle"]


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("a<|endoftext|>b<|endoftext|>", "a< |endoftext|>b< |endoftext|>"),
        ("<<|endoftext|>|endoftext|>", "<< |endoftext|>|endoftext|>"),
        ("<|endof text|> print(6*7) The", None),
        ("", None),
    ],
)
def test_what_the_web_says_spells_no_special_token(entry, wanted):
    text = Tokenizer(ROOT / "assets/tiny-base")
    made = toolexam.plain(entry, text)
    assert made == (entry if wanted is None else wanted)
    assert not {*text.encode(made)} & {*text.eos_ids}


@pytest.mark.parametrize("name", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_the_marks_of_a_chat_are_broken_and_the_text_around_them_is_kept(shared, name):
    text = Tokenizer(shared / "tokenizers/qwen2.5")
    assert toolexam.plain(f"foobar{name}foobar {name} bar", text) == (
        f"foobar< {name[1:]}foobar < {name[1:]} bar"
    )


def test_what_could_not_be_searched_or_judged_is_left_out_and_asked_again(
    asked, scripted, tmp_path
):
    said = run(asked)
    found = figures(asked)
    assert (found["problems"], found["left_out"]) == (7, 2)
    assert found["accuracy"] == pytest.approx(2 / 7)
    # One search of one hop, four of who goes on for ever, one of who grows.
    assert found["searches"] == pytest.approx(6 / 7)
    assert "2 questions are left out" in said and "holds no answer to the query 'later'" in said
    assert "bamboogle: 1 items count as wrong, a prompt of theirs is longer" in said
    rows = generations(asked.out)
    assert len(rows) == 7
    named = {f"bamboogle:{i}": question for i, question in enumerate(SAID)}
    by_question = {named[row["problem"]]: row for row in rows}
    assert {q for q, row in by_question.items() if not row["correct"]} == WRONG
    one, two = by_question["one hop"]["rounds"]
    assert one["query"] == "known" and one["entries"] == ["t: < |endoftext|>"]
    assert two["query"] is None
    assert [len(by_question[q]["rounds"]) for q in ("lost", "for ever", "grows")] == [4, 4, 1]
    # Nothing was searched for in the last round.
    assert by_question["for ever"]["rounds"][-1]["entries"] is None
    before = (asked.out / "generations-bamboogle-c0.jsonl").read_bytes()
    record(tmp_path, later=True)
    said = run(asked)
    assert "7 of 9 items were done before" in said and "are left out" not in said
    found = figures(asked)
    assert (found["problems"], found["left_out"]) == (9, 0)
    assert found["accuracy"] == pytest.approx(4 / 9)
    assert (asked.out / "generations-bamboogle-c0.jsonl").read_bytes().startswith(before)


def test_stopped_between_rounds_nothing_judged_is_lost(asked, scripted, tmp_path, monkeypatch):
    record(tmp_path, later=True)
    stop = StopSignal()
    first, says = toolexam.Bamboogle._round, judge.Record.__call__

    def slowly(self, question, gold, answer):
        time.sleep(0.3)  # so that judgments are still under way when it stops
        return says(self, question, gold, answer)

    monkeypatch.setattr(judge.Record, "__call__", slowly)

    def once(self):
        first(self)
        stop.caught = True

    monkeypatch.setattr(toolexam.Bamboogle, "_round", once)
    with pytest.raises(Interrupted):
        run(asked, stop)
    # Those that needed no search.
    kept = {"right", "other", "", "later", None}  # None: what has grown too long
    assert {row["answer"] for row in generations(asked.out)} == kept
    monkeypatch.setattr(toolexam.Bamboogle, "_round", first)
    assert "5 of 9 items were done before" in run(asked)
    assert figures(asked)["accuracy"] == pytest.approx(4 / 9)


def test_a_server_that_refuses_ends_it_and_keeps_the_rest(asked, scripted, monkeypatch):
    def refuse(self, query):
        raise UserError("refused")

    monkeypatch.setattr(search.Record, "__call__", refuse)
    with pytest.raises(UserError, match="refused"):
        run(asked)
    assert {row["answer"] for row in generations(asked.out)} == {"right", "other", ""}


def test_a_first_prompt_that_does_not_fit_is_wrong(asked, tmp_path):
    """By the real words of the tiny policy, which calls nothing."""
    questions = [
        {"Question": "What is 2+3?", "Answer": "gold"},
        {"Question": "7+" * 400, "Answer": "gold"},
    ]
    (tmp_path / "data.json").write_text(json.dumps(questions))
    servers = dataclasses.replace(asked.servers, judge="exact")
    asked = dataclasses.replace(asked, servers=servers)
    said = run(asked)
    found = figures(asked)
    assert (found["problems"], found["too_long"], found["accuracy"]) == (2, 1, 0.0)
    assert "judged by the gold answer's words, not as the paper does" in said
    assert "bamboogle: 2 questions here, the published set has 125" in said
    assert "1 of 1 items were done before" in run(asked)
