"""Training with live tools, through the real entry point."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_train import ROOT, environment, rows, timeless
from torl_jax.episode import Problem
from torl_jax.protocols import dialogue
from torl_jax.protocols.text import Tokenizer
from torl_jax.workshop import Idle, Workshop

__all__ = ["environment"]

TOOLS = '''
"""Two of the quickstart's invented tools, for real."""


def call_person(person: str) -> str:
    """Calls somebody."""
    return f"{person} says <|endoftext|> hello"


def get_weather(city: str) -> dict:
    """Weather of a city."""
    raise LookupError(f"no station in {city}")
'''
LIVE = [
    "--config=configs/quickstart.py:toolrl",
    "--config.protocol.calls=1",
    "--config.sampler.max_response=160",
    "--config.learner.row_tokens=328",
    "--config.tools.limit=60",
    "--config.eval.every=10",
    "--config.data.eval_problems=0",
    "--config.rl.problems_per_step=8",
    "--config.rl.group_size=4",
    "--config.sampler.slots=16",
    "--config.run.dump_episodes=32",
    "--config.run.steps=2",
]


def run(workdir, environment, tools: Path) -> None:
    command = [sys.executable, "-m", "torl_jax.train", f"--workdir={workdir}", *LIVE]
    command.append(f"--config.tools.files=('{tools}',)")
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "tools: call_person, get_weather" in done.stdout and "sandbox" not in done.stdout
    # Those invented are dealt out by chance, and nearly every row shows some that are not live.
    assert re.search(
        r"files, of 20000 problems: not shown: call_person in \d+, get_weather in \d+; shown, ",
        done.stdout,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("live")
    tools = folder / "mine.py"
    tools.write_text(TOOLS)
    run(folder / "run", environment, tools)
    return folder


def episodes(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in open(workdir / "episodes" / "train-000001.jsonl")]


def test_calls_are_carried_out_between_segments(whole):
    found = rows(whole / "run")[1:]
    assert found[1]["time/compilations"] == 0
    assert found[0]["rollout/calls"] > 0 and found[0]["rollout/tool_tokens"] > 0
    assert found[0]["train/agreement_max"] < 1e-4
    called = [e for e in episodes(whole / "run") if e["turns"] and e["turns"][0]["observation"]]
    assert called, "no episode called a tool"
    for episode in called:
        if len(episode["segments"]) == 2:  # no room for what came back
            assert episode["end"] == "length"
            continue
        authors = [segment["author"] for segment in episode["segments"]]
        assert authors[:3] == ["prompt", "model", "tool"]
        policy, tool = (segment["text"] for segment in episode["segments"][1:3])
        assert policy.rstrip().endswith("</tool_call>")
        assert tool.strip().startswith("<obs> [") and tool.endswith("</obs>\n\n")


def test_what_a_tool_writes_never_ends_the_text(whole):
    """Its words are spelled in ordinary tokens, the name of the end-of-text token too."""
    ends = set(Tokenizer(ROOT / "assets" / "tiny-tools").eos_ids)
    segments = [s for e in episodes(whole / "run") for s in e["segments"] if s["author"] == "tool"]
    assert segments and not any(ends & set(segment["tokens"]) for segment in segments)


def test_the_same_again(whole, environment, tmp_path):
    """Processes answer when they like; what is learnt does not depend on it."""
    run(tmp_path, environment, whole / "mine.py")
    assert timeless(tmp_path) == timeless(whole / "run")


def test_rows_that_show_other_tools_are_told():
    add, sub, act = (dialogue.Tool(name, "", {}) for name in ("add", "sub", "act.now"))
    shop = Workshop(Idle(), "", lambda: None, tools=(add, act))

    def rows(*listed, system=""):
        return [Problem("p", "add?", "", system=system or dialogue.system(each)) for each in listed]

    whole = rows((act, add), (add, act))
    assert shop.unseen(whole) == []
    # A list in words of its own shows what it names.
    assert shop.unseen(rows((), system="You have add and act.now.")) == []
    assert shop.unseen([*whole, *rows((add, sub)), *rows((), system="adder")]) == [
        "config.tools.files, of 4 problems: not shown: add in 1, act.now in 2; shown, but in no "
        "call's reach: sub and such in 1 (a row is to show the tools that are live: docs/tools.md)"
    ]
    assert "of 1 problems: shown, but" in shop.unseen(rows((add, act, sub)))[0]
    assert Workshop(Idle(), "", lambda: None).unseen(whole) == []
