"""Entry points seen from a shell: exit codes and the one line.

One process imports what the entry points need and forks for each command line,
so that a command costs milliseconds; the last test starts a process of its own.
"""

import dataclasses
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from torl_jax import config

ROOT = Path(__file__).resolve().parent.parent

# Each request: [module, arguments]; each answer: [exit code, stdout, stderr].
SERVER = """
import json, os, runpy, sys, tempfile
from torl_jax import export, report, solve, train
for line in sys.stdin:
    module, arguments = json.loads(line)
    files = [tempfile.TemporaryFile() for _ in range(2)]
    child = os.fork()
    if child == 0:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        sys.argv = [module, *arguments]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without the second that it takes to put the interpreter away
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read().decode())
    print(json.dumps([code, *texts]), flush=True)
"""


@pytest.fixture(scope="module")
def command():
    """command("train", "--flag=...") -> (exit code, stdout, stderr)."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout
    with process, process.stdin as requests:

        def ask(module, *arguments):
            request = [f"torl_jax.{module}", [str(a) for a in arguments]]
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            return tuple(json.loads(process.stdout.readline()))

        yield ask


@pytest.fixture
def refused(command):
    """The one line on stderr of a command that must fail as the user's error."""

    def run(module, *arguments) -> str:
        code, out, error = command(module, *arguments)
        assert code == 2, (code, out, error)
        assert "Traceback" not in error and out == ""
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    return run


QUICK = "--config=configs/quickstart.py"


def test_help_names_every_config_key(command):
    code, out, error = command("train", "--help")
    assert (code, error) == (0, "")
    assert "--workdir" in out and "--config" in out
    lines = [line.split() for line in out.splitlines()]
    for section in dataclasses.fields(config.Config):
        assert any(words[:1] == [f"config.{section.name}:"] for words in lines)
        kind = typing.get_type_hints(config.Config)[section.name]
        for field in dataclasses.fields(kind):
            assert any(words[:2] == [field.name, ":"] for words in lines), field.name


@pytest.mark.parametrize("module", ["export", "solve", "pretrain", "report"])
def test_every_entry_point_has_help(command, module):
    code, out, error = command(module, "--help")
    assert (code, error) == (0, "") and len(out) > 100
    assert f"torl_jax.{module}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([QUICK, "--config.rl.group_sze=8"], ["config.rl.group_sze", "config.rl.group_size?"]),
        ([QUICK, "--config.rl.group_sze", "8"], ["config.rl.group_sze", "config.rl.group_size?"]),
        ([QUICK, "--config.lr.group_size=8"], ["config.lr", "legal keys"]),
        ([QUICK, "--noconfig.run.wandd"], ["config.run.wandd", "config.run.wandb?"]),
        ([QUICK, "--config.rl.group_size=many"], ["config.rl.group_size", "many"]),
        ([QUICK, "--config.rl.group_size=1"], ["group_size is 1", "at least 2"]),
        ([QUICK, "--wrkdir=x"], ["--wrkdir", "--workdir?"]),
        ([QUICK, "surplus"], ["surplus"]),
        (["--config=configs/nowhere.py"], ["nowhere.py"]),
        (["--config=configs/torl_1p5b.py:smok"], ["'smok'", "smoke"]),
        ([], ["--config="]),
    ],
)
def test_train_refuses(refused, tmp_path, arguments, words):
    workdir = tmp_path / "run"
    message = refused("train", f"--workdir={workdir}", *arguments)
    assert all(word in message for word in words), message
    assert not workdir.exists()


def test_train_needs_a_workdir(refused):
    assert "--workdir=DIR" in refused("train", QUICK)


@pytest.mark.parametrize(
    "program",
    [
        "def get_config(:",
        "import no_such_module",
        "def get_config():\n    return undefined",
        "def get_config():\n    return 1 / 0",
        "def get_config():\n    raise RuntimeError('two\\nlines')",
        "from configs import base\ndef get_config():\n    c = base.get_config()\n    c.rl.x = 1\n",
        "x = 3",
    ],
)
def test_a_broken_config_file(refused, tmp_path, program):
    path = tmp_path / "broken.py"
    path.write_text(program)
    refused("train", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        "--config.model.path=nowhere/at/all",
        "--config.model.tokenizer=nowhere/at/all",
        "--config.data.eval_path=nowhere/at/all",
    ],
)
def test_missing_files_are_named_before_anything_is_written(refused, tmp_path, change):
    message = refused("train", QUICK, change, f"--workdir={tmp_path / 'run'}")
    assert "nowhere/at/all" in message and change[2:].split("=")[0] in message
    assert not (tmp_path / "run").exists()


def test_export_refuses(refused, tmp_path):
    assert "--out=DIR" in refused("export", "--checkpoint=x")
    out = tmp_path / "out"
    assert "nowhere" in refused("export", "--checkpoint=nowhere", f"--out={out}")
    assert "neither" in refused("export", f"--checkpoint={tmp_path}", f"--out={out}")
    assert "float16" in refused("export", "--checkpoint=x", "--out=y", "--dtype=float16")
    assert not out.exists()


@pytest.mark.parametrize("module", ["solve", "report"])
def test_the_others_refuse_what_is_not_there(refused, module, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    argument = f"--checkpoint={nowhere}" if module == "solve" else nowhere
    assert nowhere in refused(module, argument)


def test_from_a_real_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torl_jax.train", QUICK, "--config.rl.group_sze=8", "--workdir=x"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "config.rl.group_size" in done.stderr
