"""Two local workers for the scripts in tpu_scripts/.

A worker is a folder that serves as HOME. The remote shell is a program that does as sshd does: it
hands the command to /bin/sh, with an environment of its own, and its stdin. All else is real: git,
tar, the virtual environments, pip, signals.
"""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "tpu_scripts"
PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
REMOTE = """#!/bin/bash
[[ ! -e {root}/away$1 ]] || exit 255
home={root}/worker$1
cd "$home"
exec env -i HOME="$home" PATH=/usr/bin:/bin LANG=C.UTF-8 PIP_NO_INDEX=1 /bin/sh -c "$2"
"""
BACKEND = '''"""A build backend of nothing but zipfile, so that pip needs no network."""
import pathlib, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name, info = "tiny-0-py3-none-any.whl", "tiny-0.dist-info/"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("tiny.pth", str(pathlib.Path.cwd()))
        about = "Metadata-Version: 2.1\\nName: tiny\\nVersion: 0\\nProvides-Extra: tpu\\n"
        wheel.writestr(info + "METADATA", about)
        tag = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(info + "WHEEL", tag)
        wheel.writestr(info + "RECORD", "")
    return name
'''
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
SHOW = """import json, os, pathlib, signal, sys
seen = {"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd(), "prefix": sys.prefix}
seen["ignored"] = [n for n in (1, 2, 3, 15) if signal.getsignal(n) == signal.SIG_IGN]
pathlib.Path(os.environ["HOME"], "seen.json").write_text(json.dumps(seen))
"""
# A child in a group of its own that will not end when asked, as a trainer's may be.
TRAINER = """import os, pathlib, signal, subprocess, sys, time
home, got = pathlib.Path(os.environ["HOME"]), []
stubborn = "import signal as s, time; [s.signal(n, s.SIG_IGN) for n in (2, 15)]; time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", stubborn], process_group=0)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: got.append(number))
(home / "processes").write_text(f"{os.getpid()} {child.pid}")
while signal.SIGINT not in got or "--deaf" in sys.argv:
    time.sleep(0.05)
time.sleep(1)
(home / "got").write_text(str(got))
sys.exit(5)
"""


@dataclass
class Cluster:
    """A checkout and its two workers."""

    root: Path

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    def home(self, worker: int) -> Path:
        return self.root / f"worker{worker}"

    def run(self, name: str, *args: str, **more) -> subprocess.CompletedProcess:
        """A script of the checkout, with variables around that must reach no worker."""
        env = {"PATH": f"{self.root}/bin:/usr/bin:/bin", "HOME": str(self.root), "LANG": "C.UTF-8"}
        env |= {"GIT_CONFIG_GLOBAL": "/dev/null", "TMPDIR": f"{self.root}/tmp"}
        env |= {"LOCAL_ONLY": "1", "TORL_ZONE": "of-my-shell"}
        command = [str(self.repo / "tpu_scripts" / f"{name}.sh"), *args]
        given = {"input": "", "timeout": 240, "cwd": self.root, "env": env} | more
        return subprocess.run(command, capture_output=True, text=True, check=False, **given)

    def ok(self, name: str, *args: str, **more) -> subprocess.CompletedProcess:
        done = self.run(name, *args, **more)
        assert done.returncode == 0, done.stderr
        return done

    def launch(self, *args: str) -> str:
        """Starts a command; returns the run's id."""
        return self.ok("launch", *args).stdout.strip()

    def git(self, *args: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-C", str(self.repo))
        return subprocess.check_output(["git", *who, *args], text=True).strip()

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=x")
        return self.git("rev-parse", "HEAD")

    def record(self, run: str, name: str, worker: int = 0) -> Path:
        return self.home(worker) / "torl_runs" / run / name

    def env(self, text: str) -> str:
        """An option that adds lines to the env file."""
        file = self.root / "other_env"
        file.write_text((self.repo / "tpu_scripts/env").read_text() + text)
        return f"--env={file}"


def make(root: Path) -> Cluster:
    """A cluster below `root` on which setup.sh has run."""
    c = Cluster(root)
    for name in ("bin", "tmp", "worker0", "worker1", "repo"):
        (c.root / name).mkdir()
    shutil.copytree(SCRIPTS, c.repo / "tpu_scripts", ignore=shutil.ignore_patterns("env"))
    executable(c.root / "bin/remote", REMOTE.format(root=c.root))
    executable(c.root / "bin/gcloud", "#!/bin/sh\necho no cloud here >&2\nexit 9\n")
    files = {"setup.cfg": "[metadata]\nname = tiny\n", "constraints.txt": "", "backend.py": BACKEND}
    files |= {"pyproject.toml": PROJECT, ".gitignore": "__pycache__\n", "show.py": SHOW}
    for name, text in (files | {"trainer.py": TRAINER, "old/only.py": ""}).items():
        (c.repo / name).parent.mkdir(exist_ok=True)
        (c.repo / name).write_text(text)
    (c.repo / "tpu_scripts/env").write_text(
        f"TORL_REMOTE={c.root}/bin/remote\nTORL_WORKERS=2\nTORL_PYTHON={PYTHON}\n"
    )
    c.git("init", "--quiet")
    c.commit()
    done = c.ok("setup")
    assert done.stderr.count("packages installed") == 2
    return c


def executable(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def alive(c: Cluster) -> list[str]:
    """Command lines of processes with one of the workers as HOME."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            here = f"HOME={c.root}/worker".encode() in (folder / "environ").read_bytes()
            if here and "Z" not in (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]:
                found.append((folder / "cmdline").read_text())
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            continue
    return found


def eventually(true, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def text_of(folder: Path) -> str:
    files = [f for f in folder.rglob("*") if f.is_file() and "venv" not in f.parts]
    return "\n".join(f.read_text(errors="replace") for f in files)
