"""tpu_scripts/: setup, launch, logs and stop end to end on two local workers."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tpu_cluster import (
    PYTHON,
    REMOTE,
    SCRIPTS,
    SHOW,
    alive,
    eventually,
    executable,
    make,
    text_of,
)

WEIRD = [
    "",
    " ",
    "a  b",
    "it's",
    '"$HOME"',
    "`id`",
    "$(id)",
    "a\nb\n",
    "\\n\\",
    "--x=y z",
    "*",
    "~",
]
WEIRD += ["é✓🙂", "!!", "&& exit 9 #", "{a,b}", "\t|", "%s", "\x01\x7f"]

# It notes what is asked of venv and pip, and answers questions as the real one.
SLIM_PYTHON = """#!/bin/sh
[ "$1" = -c ] && exec {python} "$@"
shift
echo "$@" >>"$HOME/calls"
[ "$1" = venv ] && rm -rf "$3" && mkdir -p "$3/bin" && ln -s "$HOME/py" "$3/bin/python"
[ ! -e "$HOME/fail" ] || [ "$1" = venv ] || {{ echo no such package >&2; exit 1; }}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def cluster(made):
    """The cluster with nothing alive, before and after, and setup's commit in the checkout."""
    yield made
    made.ok("stop", "--save=0", "--term=0") if alive(made) else None
    assert not alive(made)
    assert not list((made.root / "tmp").iterdir())
    shutil.rmtree(made.home(0) / "torl_runs", ignore_errors=True)
    shutil.rmtree(made.home(1) / "torl_runs", ignore_errors=True)
    for file in [*made.root.glob("worker?/seen.json"), *made.root.glob("worker?/got")]:
        file.unlink()


# ---- launch ----


def test_a_launch_runs_the_same_words_on_both_workers(cluster):
    # As from a script in the background: a run that ignored SIGINT could not be asked to save.
    deaf = cluster.root / "bin/deaf"
    executable(deaf, f"#!/bin/sh\ntrap '' HUP INT QUIT\nexec {cluster.root}/bin/remote \"$@\"\n")
    run = cluster.launch(cluster.env(f"TORL_REMOTE={deaf}\n"), "--", "python", "show.py", *WEIRD)
    for worker in (0, 1):
        eventually(cluster.record(run, "exit", worker).exists)
        home = cluster.home(worker)
        seen = json.loads((home / "seen.json").read_text())
        assert seen["argv"] == WEIRD
        assert seen["ignored"] == []
        assert seen["cwd"] == f"{home}/torl_worker/src"
        assert seen["prefix"] == f"{home}/torl_worker/venv"
        env = seen["env"]
        assert (env["TORL_RUN_ID"], env["TORL_COMMIT"]) == (run, cluster.git("rev-parse", "HEAD"))
        assert not {"LOCAL_ONLY", "TORL_ZONE", "TORL_COORDINATOR"} & set(env)
        assert cluster.record(run, "exit", worker).read_text() == "0\n"
        record = cluster.record(run, "record", worker).read_text()
        assert f"run_id {run}\ncommit {env['TORL_COMMIT']}\nworker {worker} of 2\n" in record
        assert f"log {cluster.record(run, 'log', worker)}\ncommand 'python' 'show.py'" in record


def test_plain_machines_get_their_places_in_the_cluster(cluster):
    run = cluster.launch(cluster.env("TORL_COORDINATOR=host0:8476\n"), "--", "python", "show.py")
    for worker in (0, 1):
        eventually(cluster.record(run, "exit", worker).exists)
        env = json.loads((cluster.home(worker) / "seen.json").read_text())["env"]
        names = ("TORL_COORDINATOR", "TORL_PROCESS_COUNT", "TORL_PROCESS_ID")
        assert [env[name] for name in names] == ["host0:8476", "2", str(worker)]


def test_what_a_dry_run_prints_does_the_same_when_pasted(cluster):
    before = sorted(cluster.root.rglob("*"))
    words = ("--run-id=pasted", "--", "python", "show.py", *WEIRD)
    lines = cluster.ok("launch", "--dry-run", *words).stdout
    assert sorted(cluster.root.rglob("*")) == before
    subprocess.run(["bash", "-c", lines], check=True, capture_output=True, cwd="/")
    for worker in (0, 1):
        eventually(cluster.record("pasted", "exit", worker).exists)
        assert json.loads((cluster.home(worker) / "seen.json").read_text())["argv"] == WEIRD


@settings(max_examples=30)
@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4)
)
def test_quoted_words_come_back(words):
    script = f'source {SCRIPTS}/common.sh; eval "set -- $(quoted "$@")"; printf "%s\\0" "$@"'
    for locale in ("C.UTF-8", "C"):
        command = ["bash", "-c", script, "bash", *words]
        back = subprocess.check_output(command, env={"PATH": "/usr/bin:/bin", "LC_ALL": locale})
        assert back.decode().split("\0")[:-1] == (words or [""])


def test_the_runs_exit_status_is_kept_and_followed(cluster):
    slow = "echo é begins; until [ -e {go} ]; do sleep 0.1; done; echo ends; exit 7"
    go = cluster.root / "tmp/go"
    run = cluster.launch("--", "sh", "-c", slow.format(go=go))
    later = threading.Timer(1, go.touch)
    later.start()
    done = cluster.run("logs", "--follow", "--all")
    later.join()
    go.unlink()
    assert done.returncode == 7
    for worker in (0, 1):
        assert f"worker {worker}: é begins\n" in done.stdout
        assert f"worker {worker}: ends\n" in done.stdout
        assert f"worker {worker}: run {run} ended with exit status 7\n" in done.stdout
    done = cluster.ok("logs", "--lines=1", "--worker=1", run)
    assert (done.stdout, done.stderr) == ("ends\n", f"run {run} ended with exit status 7\n")


def test_where_one_worker_fails_at_once_none_is_left_running(cluster):
    slip = "case $HOME in *worker1) echo slip; exit 1 ;; *) sleep 60 ;; esac"
    done = cluster.run("launch", "--", "sh", "-c", slip)
    assert (done.returncode, done.stdout) == (1, "")
    assert "worker 1: error: the command ended at once with exit status 1: slip\n" in done.stderr
    assert not alive(cluster)


def test_where_one_worker_is_away_nothing_starts(cluster):
    (cluster.root / "away1").touch()
    done = cluster.run("launch", "--", "python", "show.py")
    (cluster.root / "away1").unlink()
    assert done.returncode == 1 and "worker 1: failed with exit status 255" in done.stderr
    assert not list(cluster.root.glob("worker0/torl_runs/*/record"))


def test_a_remote_shell_that_does_nothing_is_not_believed(cluster):
    executable(cluster.root / "bin/idle", "#!/bin/sh\nexit 0\n")
    other = cluster.env(f"TORL_REMOTE={cluster.root}/bin/idle\n")
    assert cluster.run("launch", other, "--", "true").returncode == 1
    assert cluster.run("stop", other).returncode == 1


def test_a_call_that_arrives_in_part_is_not_run(cluster, tmp_path):
    executable(cluster.root / "bin/keep", f"#!/bin/sh\ncat >{cluster.root}/sent$1\nexit 1\n")
    cluster.run("launch", cluster.env(f"TORL_REMOTE={cluster.root}/bin/keep\n"), "--", "true")
    sent = (cluster.root / "sent0").read_bytes()
    assert sent.startswith((SCRIPTS / "worker.sh").read_bytes()) and sent.endswith(b"; exit; }\n")
    bash = {"args": ["bash", "-s"], "env": {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}}
    for cut in range(sent.rindex(b"\n", 0, -1), len(sent) - 1):
        subprocess.run(**bash, input=sent[:cut], capture_output=True, check=False)
        assert not list(tmp_path.iterdir()), sent[-100:cut]
    subprocess.run(**bash, input=sent, capture_output=True, check=False)
    assert (tmp_path / "torl_runs").exists()


def test_a_second_launch_or_setup_is_refused_while_a_run_is_alive(cluster):
    run = cluster.launch("--", "sleep", "60")
    for script in (("launch", "--", "python", "show.py"), ("setup",)):
        done = cluster.run(*script)
        assert done.returncode == 1
        for worker in (0, 1):
            assert f"worker {worker}: error: run {run} is alive here; stop.sh" in done.stderr
    assert not (cluster.home(0) / "seen.json").exists()
    cluster.ok("stop")
    assert "there has been a run" in cluster.run("launch", f"--run-id={run}", "--", "true").stderr
    assert cluster.launch("--", "true") != run


# ---- stop ----


@pytest.mark.parametrize("deaf", [False, True])
def test_stop_ends_every_process_of_the_run(cluster, deaf):
    run = cluster.launch("--", "python", "trainer.py", *(["--deaf"] if deaf else []))
    eventually(lambda: all((cluster.home(w) / "processes").exists() for w in (0, 1)))
    pids = [int(p) for w in (0, 1) for p in (cluster.home(w) / "processes").read_text().split()]
    assert len(pids) == 4 and all(Path(f"/proc/{pid}").exists() for pid in pids)
    done = cluster.ok("stop", *(["--save=1", "--term=1"] if deaf else []))
    assert not alive(cluster)
    for worker in (0, 1):
        status = 128 + signal.SIGKILL if deaf else 5
        assert f"worker {worker}: run {run} ended with exit status {status}\n" in done.stderr
        if not deaf:  # exactly one: a second would mean "at once"
            assert (cluster.home(worker) / "got").read_text() == f"[{signal.SIGINT.value}]"
    done = cluster.ok("stop", run)
    assert f"worker 0: run {run}" in done.stderr
    assert cluster.run("stop", "other").returncode == 1


def test_a_number_that_another_process_has_by_now_is_left_alone(cluster):
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        stat = Path(f"/proc/{stranger.pid}/stat").read_text().rsplit(")", 1)[1].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        for name, start, its_boot in (
            ("reused", int(stat[19]) - 1, boot),
            ("reboot", stat[19], "x\n"),
        ):
            folder = cluster.home(0) / "torl_runs" / name
            folder.mkdir(parents=True)
            (folder / "record").write_text("")
            (folder / "pid").write_text(f"{stranger.pid} {start} {its_boot}")
            done = cluster.ok("stop", name)
            assert f"worker 0: run {name} is gone without an exit status" in done.stderr
        cluster.launch("--", "true")
        assert stranger.poll() is None
        stranger.kill()


def test_what_outlives_a_killed_leader_is_still_the_run(cluster):
    run = cluster.launch("--", "sleep", "60")
    os.kill(int(cluster.record(run, "pid").read_text().split()[0]), signal.SIGKILL)
    assert f"run {run} is alive" in cluster.run("launch", "--", "true").stderr
    cluster.ok("stop", "--save=1")
    assert not alive(cluster)
    cluster.launch("--", "true")


# ---- setup, and which code runs ----


@pytest.fixture
def checkout(cluster):
    """The cluster, whose checkout may be changed."""
    start = cluster.git("rev-parse", "HEAD")
    yield cluster
    cluster.git("reset", "--quiet", "--hard", start)
    cluster.git("clean", "--quiet", "--force", "-d")
    cluster.ok("setup")


def test_setup_again_brings_the_new_code_and_leaves_what_a_run_wrote(checkout):
    src = checkout.home(1) / "torl_worker/src"
    (src / "runs").mkdir()
    (src / "runs/mine").write_text("kept")
    assert (src / "old/only.py").exists()
    shutil.rmtree(checkout.repo / "old")
    (checkout.repo / "new").symlink_to("show.py")
    commit = checkout.commit()
    (checkout.repo / "show.py").write_text("not committed")
    done = checkout.ok("setup")
    assert "uncommitted changes stay here" in done.stderr
    for worker in (0, 1):
        line = rf"worker {worker}: commit {commit[:12]}, Python [\d.]+, packages unchanged\n"
        assert re.search(line, done.stderr)
    assert not (src / "old").exists() and (src / "new").readlink() == Path("show.py")
    assert (src / "show.py").read_text() == SHOW
    assert (src / "runs/mine").read_text() == "kept"


def test_setup_makes_the_environment_anew_when_its_inputs_change(checkout):
    remote = REMOTE.replace("/worker$1", "/slim")
    executable(checkout.root / "bin/slim", remote.format(root=checkout.root))
    home = checkout.root / "slim"
    executable(home / "py", SLIM_PYTHON.format(python=PYTHON))
    lines = f"TORL_REMOTE={checkout.root}/bin/slim\nTORL_WORKERS=1\nTORL_PYTHON=$HOME/slim/py\n"
    option = checkout.env(lines)
    pip = "pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable"
    assert "packages installed" in checkout.ok("setup", option).stderr
    assert (home / "calls").read_text() == f"venv --clear {home}/torl_worker/venv\n{pip} .[tpu]\n"
    assert "packages unchanged" in checkout.ok("setup", option).stderr
    (checkout.repo / "constraints.txt").write_text("# new\n")
    checkout.commit()
    assert "packages installed" in checkout.ok("setup", option).stderr
    option = checkout.env(lines + "TORL_EXTRA=cuda\n")
    assert "packages installed" in checkout.ok("setup", option).stderr
    assert (home / "calls").read_text().splitlines()[-1] == f"{pip} .[cuda]"
    (home / "fail").touch()
    option = checkout.env(lines)
    done = checkout.run("setup", option)
    assert done.returncode == 1 and "worker 0:   no such package" in done.stderr
    assert not (home / "torl_worker/commit").exists()
    (home / "fail").unlink()
    assert "packages installed" in checkout.ok("setup", option).stderr


def test_setup_says_which_worker_has_no_python(checkout):
    executable(checkout.home(1) / "py", "#!/bin/sh\necho Python 3.10.2\nexit 1\n")
    (checkout.home(0) / "py").symlink_to(PYTHON)
    done = checkout.run("setup", checkout.env("TORL_PYTHON=./py\n"))
    assert done.returncode == 1
    assert "worker 0: commit" in done.stderr
    assert "worker 1: error: no Python 3.11 or newer with venv is called ./py" in done.stderr
    assert "(Python 3.10.2)" in done.stderr
    assert (
        "worker 1: error: no code here, or half of it"
        in checkout.run("launch", "--", "true").stderr
    )
    prepare = f"TORL_PYTHON=./py\nTORL_PREPARE='rm py && ln -s \"{PYTHON}\" py # $HOME'\n"
    checkout.ok("setup", checkout.env(prepare))


def test_a_launch_names_the_commit_and_refuses_what_is_not_committed(checkout):
    head = checkout.git("rev-parse", "HEAD")
    (checkout.repo / "show.py").write_text("print('changed')\n")
    done = checkout.run("launch", "--", "python", "show.py")
    assert done.returncode == 2 and "uncommitted changes" in done.stderr
    run = checkout.launch("--allow-dirty", "--", "python", "show.py")
    eventually((checkout.home(0) / "seen.json").exists)  # what setup sent, not what stands here
    assert f"commit {head}-dirty\n" in checkout.record(run, "record").read_text()
    checkout.ok("setup", "--working-tree")
    run = checkout.launch("--allow-dirty", "--", "python", "show.py")
    assert checkout.record(run, "log").read_text() == "changed\n"
    checkout.git("reset", "--quiet", "--hard")
    done = checkout.run("launch", "--", "true")
    assert done.returncode == 2 and "the workers have uncommitted changes" in done.stderr
    new = checkout.commit()
    done = checkout.run("launch", "--", "true")
    assert f"the workers have commit {head[:12]}, this checkout is at {new[:12]}" in done.stderr


def test_workers_with_different_code_are_refused(checkout):
    (checkout.repo / "show.py").write_text("")
    (checkout.root / "away1").touch()
    assert checkout.run("setup", "--working-tree").returncode == 1
    (checkout.root / "away1").unlink()
    done = checkout.run("launch", "--allow-dirty", "--", "true")
    assert done.returncode == 1 and "worker 1 has other code than worker 0" in done.stderr


# ---- secrets ----


def test_secrets_reach_the_process_and_stand_nowhere(cluster):
    file = cluster.root / "secrets"
    file.write_text("# mine\nHF_TOKEN=hf_sécret $x 'y'\n\nWANDB_API_KEY=0123456789abcdef")
    file.chmod(0o600)
    option = cluster.env(f"TORL_SECRETS={file}\n")
    keep = "import runpy, time; runpy.run_path('show.py'); time.sleep(60)"
    run = cluster.launch(option, "--", "python", "-c", keep)
    eventually((cluster.home(1) / "seen.json").exists)
    env = json.loads((cluster.home(1) / "seen.json").read_text())["env"]
    assert (env["HF_TOKEN"], env["WANDB_API_KEY"]) == ("hf_sécret $x 'y'", "0123456789abcdef")
    (cluster.home(0) / "seen.json").unlink()
    (cluster.home(1) / "seen.json").unlink()
    assert cluster.record(run, "log").stat().st_mode & 0o077 == 0
    dry = cluster.ok("launch", option, "--dry-run", "--", "true").stdout
    for text in (text_of(cluster.home(0)), text_of(cluster.home(1)), dry, *alive(cluster)):
        assert "hf_s" not in text and "0123456789abcdef" not in text
    assert str(file) in dry


@pytest.mark.parametrize(
    ("text", "mode", "word", "why"),
    [
        ("A=b", 0o644, "true", "others may read"),
        ("A=b\nnonsense hidden", 0o600, "true", "line 2: NAME=VALUE expected"),
        ("A=0123456789abcdef", 0o600, "x=0123456789abcdef", "the command holds the value of A"),
        ("A=b", 0o600, "HF_TOKEN=hf_hidden", "HF_TOKEN stands in the command"),
    ],
)
def test_secrets_that_would_show_are_refused(cluster, text, mode, word, why):
    file = cluster.root / "secrets"
    file.write_text(text)
    file.chmod(mode)
    done = cluster.run("launch", cluster.env(f"TORL_SECRETS={file}\n"), "--", "env", word)
    assert done.returncode == 2 and why in done.stderr
    assert "hidden" not in done.stderr and "0123" not in done.stderr
