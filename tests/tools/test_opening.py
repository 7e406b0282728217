"""What a person names becomes tools, and `python -m torl_jax.tools` shows and calls them."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.tools import sample
from tests.tools.test_web import DOCUMENT, Handler, serving
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.tools.opening import header, opened


def test_files_documents_and_servers_are_one_toolbox(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "abc")
    (tmp_path / "api.json").write_text(json.dumps(DOCUMENT))
    with serving(Handler) as server:
        base = f"{tmp_path / 'api.json'}#http://127.0.0.1:{server.server_port}"
        headers = ["X-Token: Bearer $KEY"]
        with opened([sample.__file__, base], environment=["KEY"], headers=headers) as toolbox:
            assert {"add", "act", "echo"} <= {*toolbox.functions}
            seen = toolbox.submit("echo", {"id": "1"}, 20.0).result()
            assert seen.results["token"] == "Bearer abc"
            found = toolbox.submit("act", {"how": "environment"}, 20.0).result().results
            assert found["KEY"] == "abc"


@pytest.mark.parametrize(
    ("sources", "options", "words"),
    [
        ([], {}, "no tools: name a Python file"),
        (["tools.txt"], {}, "'tools.txt' is none of FILE.py"),
        (["none.py"], {}, "there is no file none.py"),
        (["none.json"], {}, "the tools of none.json cannot be read"),
        (
            ["mcp: "],
            {},
            "tools: 'mcp: ' names no server: write mcp:COMMAND ARGUMENTS or mcp:https://",
        ),
        (["x.py"], {"environment": ["NOT_SET_AT_ALL"]}, "NOT_SET_AT_ALL is not set"),
        (["x.py"], {"headers": ["X-Token"]}, "not of the form 'Name: value'"),
        (["x.py"], {"headers": ["X: $HOME"]}, r"a \$NAME that is not among the variables"),
        ([sample.__file__, sample.__file__], {}, "two tools are named 'add'"),
    ],
)
def test_what_cannot_be_opened_is_said(sources, options, words):
    with pytest.raises(UserError, match=words):
        opened(sources, **options)


def test_an_extra_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"MCP servers need the extra `mcp`: pip install"):
        opened(["mcp:server"])


def test_a_header_may_have_a_dollar():
    assert header("A: 1$$2: $X", {"X": "y"}) == ("A", "1$2: y")


def show(*arguments):
    command = [sys.executable, "-m", "torl_jax.tools", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_person_sees_what_the_policy_will_see():
    ran = show(sample.__file__)
    assert ran.returncode == 0, ran.stderr
    shown = dialogue.tools_of(ran.stdout)
    assert [tool.name for tool in shown] == ["add", "weather", "act"]
    assert dialogue.tools_of(show(sample.__file__, "--system").stdout) == shown


def test_a_person_can_call_a_tool():
    ran = show(
        sample.__file__, "--call", '{"name": "add", "parameters": {"a": 41}}\n{"name": "sub"}'
    )
    assert json.loads(ran.stdout)[0] == {"name": "add", "results": 42}
    assert ran.returncode == 1 and ran.stderr.startswith("[error; ")
    ran = show(sample.__file__, "--call", '{"name": "add", "parameters": {"a": 41}}')
    assert json.loads(ran.stdout) == [{"name": "add", "results": 42}]
    assert ran.returncode == 0 and ran.stderr.startswith("[ok; ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "error: give FILE.py"),
        (("none.py",), "error: tools: there is no file none.py"),
        (("--cal=x",), "did you mean --call?"),
    ],
)
def test_a_mistake_is_one_line(arguments, words):
    ran = show(*arguments)
    assert ran.returncode == 2 and words in ran.stderr and ran.stderr.count("\n") == 1
