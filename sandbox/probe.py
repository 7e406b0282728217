"""Finds the level of isolation by attacking it with a real child.

A protection counts only when an attempt to break it has failed in a process set up
exactly as a program's. The attempts harm nothing: a connection to our own listener
on loopback, a route look-up that sends no packet, a read of our own canary file.
"""

import contextlib
import json
import os
import pkgutil
import secrets
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sandbox.scratch import Scratch
from sandbox.supervise import Infrastructure, Settings, execute

SECONDS = 30.0
MODULES_PER_PACKAGE = 3
LAZY_STDLIB = ("plistlib", "netrc", "mailbox", "wave")

TRIED = {
    "nobody": "uid 65534 (where Python lies below a directory that only its owner may enter)",
    "capless": "giving up capabilities",
    "same": "running as we are",
}

# Runs as a program in the sandbox; its stdin says what to attack.
ATTACK = """
import importlib.util, json, os, socket, sys

asked = json.load(sys.stdin)

def attempt(function):
    try:
        function()
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror or error}"
    return ""

def connect(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(2)
        return attempt(lambda: s.connect(address))

def read_canary():
    open(asked["canary"]).close()

def become_root():
    os.setresuid(0, 0, 0)

def write_here():
    path = os.path.join(os.environ["HOME"], "written")
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)

def load(name):
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        return f"{name} was not found"
    if not os.path.exists(spec.origin) and spec.origin not in ("built-in", "frozen"):
        return f"{spec.origin} is hidden"
    return attempt(lambda: spec.loader.get_code(name)) and f"{spec.origin} cannot be read"

lines = dict(line.split(":", 1) for line in open("/proc/thread-self/status"))
print(json.dumps({
    "tcp": connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", asked["port"])),
    "unix": connect(socket.AF_UNIX, socket.SOCK_STREAM, asked["abstract"]),
    "route": connect(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 9)),
    "canary": attempt(read_canary),
    "root": attempt(become_root),
    "privileges": int(lines["NoNewPrivs"]),
    "capabilities": int(lines["CapEff"], 16) | int(lines["CapPrm"], 16),
    "broken": [p for p in [attempt(write_here), *map(load, asked["modules"])] if p],
}))
"""


@dataclass(frozen=True)
class Verdict:
    """The level, one line on what keeps it from being higher, and each protection's proof."""

    level: str
    why: str
    identity: str
    protections: dict[str, str] = field(default_factory=dict)


class Bait:
    """Listeners in the network that programs must not reach, and a file only root may read."""

    def __init__(self) -> None:
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._unix = socket.socket(socket.AF_UNIX)
        self.abstract = f"\0sandbox-{secrets.token_hex(8)}"
        self._unix.bind(self.abstract)
        self._unix.listen()

    @property
    def port(self) -> int:
        return self._tcp.getsockname()[1]

    def close(self) -> None:
        self._tcp.close()
        self._unix.close()


def find(settings: Settings, bait: Bait, preload: Sequence[str], missing: str) -> Verdict:
    """The best identity with which programs still work, and the level it gives.

    `missing` says which namespaces the kernel refused. Raises Infrastructure where
    programs do not even work without any isolation.
    """
    privileged = os.geteuid() == 0
    reasons = [missing] if missing else []
    answers = {}
    for identity in ("nobody", "capless", "same") if privileged else ("capless", "same"):
        with contextlib.closing(_Canary(settings.scratch.path)) as canary:
            answers = _attack(replace(settings, identity=identity), bait, canary.path, preload)
        if not answers["broken"]:
            return _judge(answers, identity, privileged, reasons)
        reasons.append(f"{TRIED[identity]} breaks programs: {answers['broken'][0]}")
    raise Infrastructure(f"programs do not work here: {answers['broken']}")


class _Canary:
    """A file of mode 0600, readable by this user only."""

    def __init__(self, parent: str) -> None:
        self._place = Scratch(parent, mode=0o711)
        self.path = os.path.join(self._place.path, "canary")
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def close(self) -> None:
        self._place.remove()


def _attack(settings: Settings, bait: Bait, canary: str, preload: Sequence[str]) -> dict:
    modules = [name for name in LAZY_STDLIB if name not in sys.modules][:2]
    for name in preload:
        modules += _unloaded(name)[:MODULES_PER_PACKAGE]
    asked = {
        "port": bait.port,
        "abstract": bait.abstract,
        "canary": canary,
        "modules": modules,
    }
    result = execute(ATTACK, json.dumps(asked), SECONDS, settings)
    if result["status"] != "ok":
        last = result["stderr"].strip().rpartition("\n")[2]
        return {"broken": [f"{result['status']}: {last}"]}
    return json.loads(result["stdout"])


def _unloaded(package: str) -> list[str]:
    """Modules of a package that nothing has imported yet: what a program may still load."""
    path = getattr(sys.modules[package], "__path__", None)
    names = (f"{package}.{module.name}" for module in pkgutil.iter_modules(path or []))
    return [name for name in names if name not in sys.modules]


def _judge(answers: dict, identity: str, privileged: bool, reasons: list[str]) -> Verdict:
    network = [answers[name] for name in ("tcp", "unix", "route")]
    proofs = {
        "network": f"connecting out failed: {answers['tcp']}" if all(network) else "",
        "privileges": "no_new_privs is set, no capability is held"
        if answers["privileges"] == 1 and answers["capabilities"] == 0
        else "",
        "root's files": f"reading a 0600 file failed: {answers['canary']}"
        if answers["canary"] and answers["root"]
        else "",
    }
    needed = [name for name in proofs if privileged or name != "root's files"]
    reasons += [f"{name}: an attack succeeded" for name in needed if not proofs[name]]
    level = "restricted" if all(proofs[name] for name in needed) else "rlimits"
    return Verdict(level, "; ".join(reasons), identity, proofs)
