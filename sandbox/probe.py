"""Finds the level of isolation by attacking it with a real child.

A protection counts only when an attempt to break it has failed in a process set up
exactly as a program's. The attempts harm nothing: connections to our own listeners on
loopback, a route look-up that sends no packet, a file, a directory and a process that
we made as bait, and system calls with arguments that would do nothing.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sandbox import kernel, messages, wire
from sandbox.plan import Plan
from sandbox.scratch import Scratch

SECONDS = 30.0
SHARE = 60 << 20  # bytes: three of them are more than the probe's slot may have
PIECE = 40 << 20  # bytes: four of them are more than any quota that we give

# Runs as a program in the sandbox; its stdin says what to attack.
ATTACK = """
import ctypes, importlib.util, json, os, select, signal, socket, sys

asked = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)

def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror or error}"
    return ""

def connect(family, kind, address):
    def go():
        with socket.socket(family, kind) as s:
            s.settimeout(2)
            s.connect(address)
    return attempt(go)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def fill(pieces):
    try:
        for n in range(pieces):
            with open(f"piece-{n}", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, asked["piece"])
    finally:
        for n in range(pieces):
            if os.path.exists(f"piece-{n}"):
                os.unlink(f"piece-{n}")

def children_fill_memory():
    told, tell = os.pipe()
    pids = set()
    for n in range(3):
        pid = os.fork()
        if pid == 0:
            block = bytearray(asked["share"])
            block[::4096] = bytes([1]) * len(block[::4096])
            os.write(tell, b"x")
            signal.pause()
        pids.add(pid)
    filled = 0
    while filled < len(pids):
        filled += len(os.read(told, 1)) if select.select([told], [], [], 0.01)[0] else 0
        for pid in pids:
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise OSError(12, "a child was killed")

def write_here():
    with open("written", "w") as file:
        file.write("x")
    os.unlink("written")

def load(name):
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        return f"{name} was not found"
    files = [spec.origin] if spec.origin not in ("built-in", "frozen") else []
    for folder in spec.submodule_search_locations or []:
        files += [os.path.join(folder, entry) for entry in sorted(os.listdir(folder))
                  if entry.endswith((".py", ".so"))][:5]
    for path in files:
        failure = attempt(lambda: open(path, "rb").close())
        if failure:
            return f"{path} cannot be read ({failure})"
    return ""

def broken():
    try:
        return [p for p in [attempt(write_here), *map(load, asked["modules"])] if p]
    except OSError as error:
        return [str(error)]

try:
    lines = dict(line.split(":", 1) for line in open("/proc/thread-self/status"))
    privileges = int(lines["CapEff"], 16) | int(lines["CapPrm"], 16) or int(lines["NoNewPrivs"]) - 1
except OSError:
    privileges = 0 if libc.prctl(39, 0, 0, 0, 0) == 1 else 1

print(json.dumps({
    "tcp": connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", asked["port"])),
    "unix": connect(socket.AF_UNIX, socket.SOCK_STREAM, asked["abstract"]),
    "route": connect(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 9)),
    "read": attempt(lambda: open(asked["file"]).close()),
    "list": attempt(lambda: os.listdir(asked["directory"])),
    "write": attempt(lambda: open(os.path.join(asked["directory"], "x"), "w").close()),
    "truncate": attempt(os.truncate, asked["file"], 0),
    "cut": attempt(os.open, asked["file"], os.O_ACCMODE | os.O_TRUNC),  # neither read nor write
    "signal": attempt(os.kill, asked["pid"], 15),
    "privileges": privileges,
    "namespace": attempt(call, "unshare", 0x10000000),
    "keyring": attempt(call, "syscall", ctypes.c_long(asked["keyctl"]), 0, -3, 0),
    "quota": attempt(fill, 4) if asked["jail"] else "",
    "memory": attempt(children_fill_memory) if asked["cgroup"] else "",
    "broken": broken(),
}))
"""

KEYCTL = {"x86_64": 250, "aarch64": 219}
LAZY_STDLIB = ("plistlib", "netrc", "mailbox", "wave")  # imported by nothing of ours


@dataclass(frozen=True)
class Verdict:
    """The level ("" where programs do not work), what keeps it from being higher, the proofs."""

    level: str
    why: str
    plan: Plan
    protections: dict[str, str] = field(default_factory=dict)


class Bait:
    """What programs must not reach: listeners, a file, a directory, a process of their own uid."""

    def __init__(self, parent: str, plan: Plan) -> None:
        with contextlib.ExitStack() as undo:
            self._tcp = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
            self._unix = undo.enter_context(socket.socket(socket.AF_UNIX))
            self.abstract = f"\0sandbox-{secrets.token_hex(8)}" if kernel.LINUX else f"{parent}/s"
            self._unix.bind(self.abstract)
            self._unix.listen()
            place = Scratch(parent, 0o777)
            undo.callback(place.remove)
            self.directory = place.path
            self.file = os.path.join(place.path, "bait")
            with open(self.file, "x"):
                os.chmod(self.file, 0o666)
            self.pid = _sleeper(plan)
            undo.callback(_end, self.pid)
            self._undo = undo.pop_all()

    @property
    def port(self) -> int:
        return self._tcp.getsockname()[1]

    @property
    def process_lives(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG) == (0, 0)

    def close(self) -> None:
        self._undo.close()


def attack(plan: Plan, sock: int, bait: Bait, preload: Sequence[str], grouped: bool) -> Verdict:
    """Runs the attack in the slot behind `sock`. `grouped`: its memory is summed by a cgroup."""
    asked = {
        "port": bait.port,
        "abstract": bait.abstract,
        "file": bait.file,
        "directory": bait.directory,
        "pid": bait.pid,
        "keyctl": KEYCTL.get(os.uname().machine, 0),
        "jail": plan.jail,
        "piece": PIECE,
        "cgroup": grouped,
        "share": SHARE,
        "modules": [*LAZY_STDLIB, *preload],
    }
    job = {
        "code": ATTACK,
        "stdin": json.dumps(asked),
        "seed": 0,
        "timeout": SECONDS,
        "files": {},
        "fetch": [],
    }
    deadline = time.monotonic() + 2 * SECONDS
    try:
        ready = messages.read(sock, deadline)
        if ready is None or "ready" not in ready:
            return Verdict("", (ready or {}).get("failed", "the slot did not start"), plan)
        result = wire.ask(sock, job, deadline)
    except (OSError, messages.FrameError, TimeoutError) as error:
        return Verdict("", f"the slot ended: {error}", plan)
    if result is None:
        return Verdict("", "the slot ended under the attack", plan)
    # The kernel's kills of its children count as the program's own want of memory.
    if result["status"] != "ok" and not (grouped and result["exit_code"] == 0):
        last = result["stderr"].strip().rpartition("\n")[2]
        return Verdict("", f"{result['status']}: {last}", plan)
    return _judge(json.loads(result["stdout"]), plan, bait, grouped)


def _judge(answers: dict, plan: Plan, bait: Bait, grouped: bool) -> Verdict:
    if answers["broken"]:
        return Verdict("", f"programs break: {answers['broken'][0]}", plan)
    survived = bait.process_lives
    files = [answers[name] for name in ("read", "list", "write", "truncate", "cut")]
    network = [answers[name] for name in ("tcp", "unix", "route")]
    calls = [answers[name] for name in ("namespace", "keyring")]
    proofs = {
        "network": f"three ways out failed: {answers['tcp']}" if all(network) else "",
        "files": f"a file outside was out of reach: {answers['read']}" if all(files) else "",
        "processes": f"a signal to one outside failed: {answers['signal']}"
        if answers["signal"] and survived
        else "",
        "privileges": "no capability is held, none can be gained (no_new_privs)"
        if answers["privileges"] == 0
        else "",
        "system calls": f"a new namespace and the keyring: {answers['namespace']}"
        if all(calls)
        else "",
    }
    level = "restricted" if all(proofs.values()) and plan.walls else "rlimits"
    open_ways = [name for name, proof in proofs.items() if not proof]
    proofs["own processes"] = "the first of its own process ids is ours" if plan.jail else ""
    proofs["disk"] = f"writing beyond the quota failed: {answers['quota']}" if plan.jail else ""
    proofs["memory in sum"] = (
        f"three children over the limit together: {answers['memory']}" if grouped else ""
    )
    if level == "restricted" and plan.jail:
        level = "full" if answers["quota"] else level
        level = "full+cgroup" if level == "full" and answers["memory"] else level
    return Verdict(
        level, ", ".join(f"{name}: an attack succeeded" for name in open_ways), plan, proofs
    )


def _sleeper(plan: Plan) -> int:
    """A process of the uid that programs have on the host; it only waits."""
    pid = os.fork()
    if pid == 0:
        try:
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if plan.uid is not None:
                os.setresuid(plan.uid, plan.uid, plan.uid)
            kernel.die_with_parent()
            while True:
                signal.pause()
        finally:
            os._exit(1)
    return pid


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
