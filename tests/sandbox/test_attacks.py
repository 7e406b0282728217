"""Every attack, ours and the shared ones, at the level that this machine gives."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import Result
from tests.sandbox import corpus, verdicts
from tests.sandbox.attacks import attack as attacks
from tests.sandbox.attacks import clumsy, crashes, denial, escape, leaks, leftovers, tampering
from tests.sandbox.attacks.attack import PHRASES, Attack, FormatError
from tests.sandbox.corpus import Runner

MODULES = (clumsy, crashes, denial, escape, leaks, leftovers, tampering)
SHARED = Path(__file__).resolve().parents[3] / "shared/vectors/sandbox_attacks.json"
ALL = [attack for module in MODULES for attack in module.ATTACKS]
ALL += attacks.load(SHARED) if SHARED.exists() else []

# A fast machine fills the memory before the deadline; at exit that is one line on stderr.
ALSO = {"atexit_loop": ("ok",)}
# What a level does not promise, see docs/sandbox.md.
OPEN = {
    "restricted": {
        "host_name": "the host's name needs a namespace to hide",
    },
    "full": {},
    "full+cgroup": {},
}


# --- the runner itself


RESULT = Result("ok", "", "", 0, 0.1, 0.1, 0, "full")
PLAIN = verdicts.Observed(
    Attack("a", "", must_not=PHRASES), "full", RESULT, 0.1, ("SECRET-1", "OLD-1")
)
BAD = {
    attacks.ESCAPED: {"result": replace(RESULT, stdout="ESCAPED\n")},
    attacks.SECRET: {"result": replace(RESULT, stderr="x SECRET-1 x")},
    attacks.EARLIER: {"result": replace(RESULT, stdout="OLD-1")},
    attacks.CAPPED: {"result": replace(RESULT, stdout="x" * 65537)},
    attacks.SEEN: {"next_output": "True", "attack": Attack("a", "", then="print(True)")},
    attacks.AGREE: {
        "next_output": "1",
        "result": replace(RESULT, stdout="1"),
        "attack": Attack("a", "", then="@seed2"),
    },
    attacks.RESIDENT: {"resident": 600 << 10},
    attacks.ALIVE: {"left_alive": [7]},
    attacks.DEAD: {"damage": ["the canary's life was goes on, is None"]},
    attacks.CHECKPOINT: {"damage": ["the checkpoint was a, is b"]},
    attacks.FILES: {"left": ["/tmp/x was left"]},
    attacks.GROWTH: {"growth": 1 << 20},
    attacks.WAITS: {"wall": 100.0, "attack": Attack("a", "", max_wall_s=1.0)},
}


@pytest.mark.parametrize("phrase", PHRASES)
def test_every_phrase_is_checked(phrase: str) -> None:
    assert verdicts.CHECKS[phrase](PLAIN) == "" and verdicts.judge(PLAIN) == []
    attack = replace(BAD[phrase].get("attack", PLAIN.attack), must_not=(phrase,))
    seen = replace(PLAIN, **{**BAD[phrase], "attack": attack})
    assert [line for line in verdicts.judge(seen) if line.startswith(phrase)]


@pytest.mark.parametrize(
    ("attack", "result", "words"),
    [
        (Attack("a", ""), replace(RESULT, status="error", stderr="a\nboom"), "status is error"),
        (Attack("a", ""), replace(RESULT, level="rlimits"), "level is rlimits"),
        (Attack("a", "", stdout_equals="x"), RESULT, "stdout is ''"),
        (Attack("a", "", stdout_contains=("x",)), RESULT, "stdout lacks 'x'"),
        (Attack("a", "", stderr_contains=("x",)), RESULT, "stderr lacks 'x'"),
        (Attack("a", "", then="@same"), replace(RESULT, stdout="1"), "with the same seed"),
        (Attack("a", "", max_wall_s=0.01), RESULT, "at most 0.01 s"),
    ],
)
def test_every_expectation_is_checked(attack: Attack, result: Result, words: str) -> None:
    (problem,) = verdicts.judge(replace(PLAIN, attack=attack, result=result))
    assert words in problem


def test_what_is_refused_without_namespaces_passes_there_only() -> None:
    attack = Attack("a", "", stdout_equals="x", status_without_namespaces=("error",))
    seen = replace(PLAIN, attack=attack, result=replace(RESULT, status="error"))
    assert verdicts.judge(seen)
    weak = replace(seen, level="restricted", result=replace(seen.result, level="restricted"))
    assert verdicts.judge(weak) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mustnot": []}, "key 'mustnot' is unknown"),
        ({"limits": {"time": 1}}, "limit 'time' is unknown"),
        ({"expect": {"status": ["fine"]}}, "status 'fine' is unknown"),
        ({"expect": {"status": ["ok"], "stdout": "x"}}, "expectation 'stdout' is unknown"),
        ({"expect": {"status": ["ok"], "must_not": ["be bad"]}}, "'be bad' is unknown"),
        ({"expect": {}}, "no status is expected"),
        ({"needs": ["luck"]}, "need 'luck' is unknown"),
        ({"code_expr": "'x'"}, "one of code and code_expr"),
    ],
)
def test_a_file_that_is_not_understood_is_an_error(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    entry = {"name": "a", "category": "b", "code": "", "limits": {}, "expect": {"status": ["ok"]}}
    path = tmp_path / "attacks.json"
    path.write_text(json.dumps({"attacks": [entry | change]}))
    with pytest.raises(FormatError, match=words):
        attacks.load(path)


class Bare:
    """Runs programs with no sandbox at all, to see that damage is noticed."""

    level = "full"

    def __init__(self, place: Path) -> None:
        self._place = place

    def run(self, code: str, **_: object) -> Result:
        done = subprocess.run(
            [sys.executable, "-c", f"import random; random.seed(0)\n{code}"],
            cwd=self._place,
            env={**os.environ, "HOME": str(self._place), "TMPDIR": str(self._place)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        status = "error" if done.returncode else "ok"
        return replace(RESULT, status=status, stdout=done.stdout, stderr=done.stderr)

    def close(self) -> None:
        """Nothing runs between programs."""


@pytest.mark.parametrize(
    ("code", "phrase"),
    [
        ("print(1)", ""),
        ("print(open('{{SECRET_FILE}}').read())", attacks.SECRET),
        ("open('{{SECRET_FILE}}', 'w')", attacks.CHECKPOINT),
        ("import shutil; shutil.rmtree('{{SECRET_DIR}}')", attacks.CHECKPOINT),
        ("import os; os.kill({{CANARY_PID}}, 9)", attacks.DEAD),
        ("import os; os.kill({{CANARY_PID}}, 19)", attacks.DEAD),
        ("import os; os.setpriority(os.PRIO_PROCESS, {{CANARY_PID}}, 19)", attacks.DEAD),
        ("import resource as r; r.prlimit({{CANARY_PID}}, r.RLIMIT_NOFILE, (9, 9))", attacks.DEAD),
        ("import socket; socket.create_connection(('127.0.0.1', {{CANARY_PORT}}))", attacks.DEAD),
        ("import socket; socket.socket(socket.AF_UNIX).connect('\\0canary')", attacks.DEAD),
        ("open('left', 'w')", attacks.FILES),
        ("open('/dev/shm/left', 'w')", attacks.FILES),
        (
            "import subprocess as s; "
            "s.Popen(['sleep', '99'], stdout=s.DEVNULL, stderr=s.DEVNULL, start_new_session=True)",
            attacks.ALIVE,
        ),
    ],
)
def test_damage_without_a_sandbox_is_noticed(
    code: str, phrase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "Sandbox", lambda **_: Bare(tmp_path))
    monkeypatch.setattr(corpus, "TIERS", ())
    monkeypatch.setattr(corpus, "SETTLE", 1.0)
    monkeypatch.setenv("SECRET_KEY", "")
    with Runner() as runner:
        problems = runner.try_out(Attack("a", code))
        for left in tmp_path.iterdir():
            left.unlink()
    assert [problem.partition(":")[0] for problem in problems] == ([phrase] if phrase else [])


# --- the attacks. Last: their canary holds a name that the tests above need.


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_attack(runner: Runner, attack: Attack) -> None:
    if runner.level == "rlimits":
        pytest.skip("level rlimits stops accidents, not attacks")
    if lacking := attack.lacks(runner.level) or OPEN[runner.level].get(attack.name):
        pytest.skip(f"level {runner.level}: {lacking}")
    also = ALSO.get(attack.name, ())
    assert runner.try_out(replace(attack, status=attack.status + also)) == []


def test_names_are_unique() -> None:
    assert len({attack.name for attack in ALL}) == len(ALL)
