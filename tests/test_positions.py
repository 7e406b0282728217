"""What is longer than the model's positions is refused by every command, before any work; and a
served context that holds no question.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from configs import quickstart
from torl_jax import config, evaluate, evaluate_tools, sft, sitting, train
from torl_jax.errors import UserError
from torl_jax.evaluation import Mode
from torl_jax.interrupt import StopSignal
from torl_jax.model.config import ModelConfig
from torl_jax.protocols import dialogue as messages
from torl_jax.protocols.chat import ChatTemplate
from torl_jax.protocols.text import Tokenizer
from torl_jax.protocols.torl import ToRL
from torl_jax.serve import room
from torl_jax.serving import dialogue

ROOT = Path(__file__).resolve().parent.parent
TINY = str(ROOT / "assets" / "tiny-base")  # 512 positions
GOLD = {"name": "pay", "parameters": {}}
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"


def recipe(**changes: object) -> config.Config:
    """The quickstart with some keys changed, SECTION__KEY=VALUE."""
    raw = quickstart.get_config()
    for name, value in changes.items():
        section, key = name.split("__")
        raw[section][key] = value
    return config.parse(raw)


def test_as_many_tokens_as_positions_fit():
    shape = ModelConfig(8, 8, 1, 2, 1, 4, 8, max_positions=512)
    shape.check_positions(512)
    with pytest.raises(UserError, match=r"512 positions \(max_position_embeddings .*: lower them"):
        shape.check_positions(513)


def test_training(tmp_path):
    cfg = recipe(sampler__max_response=500, learner__row_tokens=640)
    with pytest.raises(UserError, match=r"max_prompt \+ max_response: 548 tokens, but the model"):
        train.train(cfg, epath.Path(tmp_path / "run"), StopSignal())
    assert not (tmp_path / "run").exists()


def test_fine_tuning(tmp_path):
    rows = [{"question": f"What is {i}+{i}?", "answer": "7+" * (i * 100)} for i in range(1, 8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    same = {
        "data__source": "file", "data__path": str(tmp_path / "rows.jsonl"), "data__families": (),
        "data__eval_problems": 0, "data__decontaminate": 0,
    }  # fmt: skip
    with pytest.raises(
        UserError, match=r"longest training example: \d+ tokens, .*row_tokens=512 drops"
    ):
        sft.tune(
            recipe(**same, learner__row_tokens=1024), epath.Path(tmp_path / "run"), StopSignal()
        )
    assert not (tmp_path / "run").exists()


def test_evaluation(tmp_path):
    row = {"question": "7+" * 100, "answer": "7"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    options = evaluate.Options(
        TINY, (f"mine={tmp_path / 'mine.jsonl'}",), epath.Path(tmp_path / "out"), Mode(1), (),
        changes=("sampler.max_response=400",),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"max_response=400: \d+ tokens, .*--max_prompt=112 counts"):
        evaluate.evaluate(options, recipe(), StopSignal())
    assert not (tmp_path / "out").exists()


def test_evaluation_of_tools(tmp_path):
    row = {"system": "s", "user": "u", "answer": [GOLD], "other": {}}
    (tmp_path / "level-1.json").write_text(json.dumps([row]))
    for file in Path(TINY).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    options = evaluate_tools.Options(
        str(tmp_path), {"api_bank": str(tmp_path)}, epath.Path(tmp_path / "out")
    )
    with pytest.raises(UserError, match=r"max_response=1024: .*give a --max_response below 512"):
        evaluate_tools.evaluate(options, recipe(), StopSignal())
    assert not (tmp_path / "out").exists()


def test_what_to_change_is_possible():
    shape = ModelConfig(8, 8, 1, 2, 1, 4, 8, max_positions=512)
    sitting.check_room(shape, 412, 100)
    for prompt, response, mend in ((413, 100, "--max_prompt=412"), (1, 512, "below 512")):
        with pytest.raises(UserError, match=mend):
            sitting.check_room(shape, prompt, response)


def test_a_question():
    """A bare folder: the recipe that nobody chose is too long for it, and the line says so."""
    asked = subprocess.run(
        [sys.executable, "-m", "torl_jax.solve", f"--checkpoint={TINY}", "1+1"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert asked.returncode == 2 and asked.stderr.count("\n") == 2, asked.stderr
    assert "carries no recipe: ToRL's" in asked.stderr
    assert "max_prompt + max_response: 3472 tokens, but the model has 512" in asked.stderr
    assert "--config" in asked.stderr.splitlines()[-1]


def test_a_context_that_holds_no_question_and_answer_is_refused():
    text = Tokenizer(TINY)
    plain = dialogue.torl(ToRL("User: {question}\nAssistant:\n"))
    need = text.lengths(["User: ?\nAssistant:\n"])[0] + 16
    room(plain, text, need, 512, tools=False)
    with pytest.raises(
        UserError, match=f"expected at least {need}: a short prompt has {need - 16}"
    ):
        room(plain, text, need - 1, 512, tools=False)
    # The server's own tools are a part of the prompt, where it carries them out.
    with_tools = dialogue.toolrl(
        ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", {}, ""),
        [messages.Tool("add", "Adds.", {})],
    )
    room(with_tools, text, 100, 512, tools=False)
    for positions, words in ((512, "take a model with more than 512"), (9000, "give --context=")):
        with pytest.raises(
            UserError, match=rf"--context is 100 .* {words}.* or leave --tools away"
        ):
            room(with_tools, text, 100, positions, tools=True)
