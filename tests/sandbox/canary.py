"""Something worth attacking: a process, ports and files of the trainer, and what became of them."""

import os
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Its own text, so that a search for "canary" in command lines finds it.
PROGRAM = """
import os, select, socket, sys
tcp = socket.create_server(("127.0.0.1", 0))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(tcp.getsockname())
unix = socket.socket(socket.AF_UNIX)
unix.bind(chr(0) + "canary")
unix.listen()
print(tcp.getsockname()[1], flush=True)
while True:
    for ready in select.select([tcp, udp, unix], [], [])[0]:
        peer = ready.accept()[0].close() if ready is not udp else ready.recv(100)
        print({tcp: "tcp", udp: "udp", unix: "unix"}[ready], flush=True)
"""
LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)


class Canary:
    """Lives until `close`. `token` stands in its file and in its environment."""

    def __init__(self) -> None:
        self.token = f"SECRET-{secrets.token_hex(8)}"
        self.directory = tempfile.mkdtemp(prefix="trainer-")
        os.chmod(self.directory, 0o777)
        self.file = os.path.join(self.directory, "SECRET-ckpt.txt")
        Path(self.file).write_text(self.token)
        os.chmod(self.file, 0o666)
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "canary"],
            stdout=subprocess.PIPE,
            env={"CANARY": self.token},
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        self.pid = self._process.pid
        line = self._stdout.readline()
        if not line:
            raise OSError("the canary did not start: is another one in this network namespace?")
        self.port = int(line)
        os.set_blocking(self._stdout.fileno(), False)
        self._before = self._state()
        self._touched = ""

    def fill(self, code: str) -> str:
        """The program with its placeholders replaced."""
        for name, value in (
            ("CANARY_PID", self.pid),
            ("CANARY_PORT", self.port),
            ("SECRET_FILE", self.file),
            ("SECRET_DIR", self.directory),
        ):
            code = code.replace("{{" + name + "}}", str(value))
        return code

    def changes(self) -> list[str]:
        """What was done to it since it was made."""
        found = [f"the canary was reached over {name}" for name in self._contacts()]
        state = self._state()
        for name, before in self._before.items():
            if state.get(name) != before:
                found.append(f"{name} was {before}, is {state.get(name)}")
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _state(self) -> dict[str, object]:
        state: dict[str, object] = {"the checkpoint": contents(self.directory)}
        letter = "Z"
        if self._process.poll() is None:
            letter = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if letter not in "SR":
            return state
        return state | {
            "the canary's life": "goes on",
            "the canary's nice value": os.getpriority(os.PRIO_PROCESS, self.pid),
            "the canary's affinity": os.sched_getaffinity(self.pid),
            "the canary's limits": [resource.prlimit(self.pid, which) for which in LIMITS],
        }

    def _contacts(self) -> list[str]:
        time.sleep(0.01)  # what was sent to it over the loopback has arrived by then
        try:
            return os.read(self._stdout.fileno(), 4096).decode().split()
        except BlockingIOError:
            return []


def contents(directory: str) -> dict[str, tuple[object, ...]]:
    """The attributes of a directory and of the files in it, and their texts."""
    found: dict[str, tuple[object, ...]] = {}
    if os.path.isdir(directory):
        for path in (Path(directory), *sorted(Path(directory).iterdir())):
            state = path.lstat()
            text = path.read_text() if path.is_file() else ""
            found[path.name] = (state.st_mode, state.st_uid, state.st_gid, state.st_mtime_ns, text)
    return found
