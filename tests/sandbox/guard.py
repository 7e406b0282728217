"""Runs a command where it cannot touch the machine: the outer wall of the sandbox's tests.

    python -m tests.sandbox.guard [OPTIONS] COMMAND...

The command gets its own mount, pid, network, ipc and uts namespaces. All file systems of
the host are read-only; /tmp, /run and /dev are fresh, /proc is its own, the network
is a loopback. It is for hostile programs that a broken sandbox lets through and for
bugs of the tests, not for an attacker who knows that he is root in here: root may mount.
Runs as root, or as any user to whom the kernel grants user namespaces.
"""

import argparse
import os
import re
import select
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tests.sandbox import guard_walls as walls
from tests.sandbox.guard_walls import GuardError, Options

REFUSED = 125  # our exit status where the command was not run
MARKER = "SANDBOX_GUARD"  # in the command's environment: its mode, then what it may write
ELSEWHERE = ("192.0.2.1", 9)  # an address kept for documentation: no packet leaves


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit status (128 + n for signal n), or REFUSED and one line on stderr."""
    options = _parse(argv)
    try:
        return run(options)
    except (GuardError, OSError) as error:
        _refuse(options, error)
        return REFUSED


def run(options: Options) -> int:
    """Runs the command; blocks until it and all it started have ended."""
    root = os.geteuid() == 0
    if options.plain_container and not root:
        raise GuardError("--plain-container means a container's root: start it as root")
    caller = os.getppid()
    walls.prctl(walls.PDEATHSIG, signal.SIGKILL)
    if os.getppid() != caller:
        raise GuardError("the caller has ended")
    for number in (signal.SIGINT, signal.SIGQUIT):  # the command's to handle
        signal.signal(number, signal.SIG_IGN)
    with walls.cgroups(wanted=root) as groups:
        uid, gid = os.geteuid(), os.getegid()
        walls.call("unshare", walls.NEWPID if root else walls.NEWPID | walls.NEWUSER)
        if not root:
            walls.map_identity(uid, gid)
        ours, theirs = os.pipe()
        first = os.fork()
        if first == 0:
            os.close(theirs)
            _first_process(options, groups, ours)
        os.close(ours)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: os.kill(first, signal.SIGKILL))
        _, status = os.waitpid(first, 0)
        os.close(theirs)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _first_process(options: Options, groups: list[str], alive: int) -> NoReturn:
    """Pid 1: closes everything off, starts the command, reaps. With it all the rest ends."""
    status = REFUSED
    try:
        walls.prctl(walls.PDEATHSIG, signal.SIGKILL)
        poller = select.poll()
        poller.register(alive, 0)
        if poller.poll(0):
            raise GuardError("the guard was killed while it started")
        os.close(alive)
        for group in groups:
            Path(group, "cgroup.procs").write_text("0")
        walls.close_off(options, groups if options.mode == "root" else [])
        command = os.fork()
        if command == 0:
            _command(options)
        pid = 0
        while pid != command:
            pid, code = os.wait()
            status = os.waitstatus_to_exitcode(code)
        status = status if status >= 0 else 128 - status
    except Exception as error:
        _refuse(options, error)
    finally:
        os._exit(status)


def _command(options: Options) -> NoReturn:
    """Gives up what it must not have, looks around once more and becomes the command."""
    try:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        walls.give_up(options)
        environment = _environment(options)
        if problem := verify(environment):
            raise GuardError(problem)
        os.execvpe(options.command[0], options.command, environment)
    except Exception as error:
        _refuse(options, error)
    finally:
        os._exit(REFUSED)


def _refuse(options: Options, error: Exception) -> None:
    text = str(error) if isinstance(error, GuardError | OSError) else repr(error)
    if isinstance(error, PermissionError):
        text += " (a guard needs CAP_SYS_ADMIN, or a kernel that grants users their namespaces)"
    print(f"guard: {text}; {options.command[0]} was not run", file=sys.stderr, flush=True)


def _environment(options: Options) -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "TMPDIR" and not name.startswith("XDG_")
    }
    return environment | {
        MARKER: ":".join([options.mode, *options.writable]),
        "HOME": "/tmp/home",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
    }


def verify(environment: Mapping[str, str] = os.environ) -> str:
    """Whether this process runs inside a guard: "" or what is missing, in one line."""
    mode, *writable = environment.get(MARKER, "").split(":")
    if not mode:
        return f"{MARKER} is not in the environment"
    if b"guard" not in Path("/proc/1/cmdline").read_bytes():
        return "process 1 is not a guard"
    for mount in walls.mounts():
        known = mount.source == walls.OURS or mount.kind == "proc" or mount.path in writable
        ours = mount.kind.startswith("cgroup") and re.search(r"/guard-\d+$", mount.root)
        if not (mount.read_only or known or ours):
            return f"{mount.path} is mounted writable"
    outside = ["/", "/etc", "/usr", "/var/tmp", str(walls.ROOT)]
    for directory in (path for path in outside if path not in writable and os.path.isdir(path)):
        path = os.path.join(directory, f"guard-{os.getpid()}")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except OSError:
            continue
        os.unlink(path)
        return f"a file could be made in {directory}"
    names = [name for _, name in socket.if_nameindex()]
    if names != ["lo"]:
        return f"network interfaces are {', '.join(names)}, expected lo alone"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        if s.connect_ex(ELSEWHERE) == 0:
            return f"there is a route to {ELSEWHERE[0]}"
    return _verify_mode(mode)


def _verify_mode(mode: str) -> str:
    status = Path("/proc/self/status").read_text()
    held = {name: int(value, 16) for name, value in re.findall(r"Cap(\w+):\s*(\w+)", status)}
    if "unprivileged" in mode and (os.geteuid() == 0 or held["Eff"] != 0):
        return "the uid is still 0, or a capability is held"
    if "plain-container" in mode and held["Bnd"] >> walls.SYS_ADMIN & 1:
        return "CAP_SYS_ADMIN is still within reach"
    if "plain-container" in mode or "no-userns" in mode:
        pid = os.fork()
        if pid == 0:
            os._exit(walls.libc.unshare(walls.NEWUSER) == 0)
        if os.waitpid(pid, 0)[1] != 0:
            return "a user namespace could be made"
    return ""


def _parse(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="guard", description="Runs COMMAND closed off.")
    parser.add_argument("--unprivileged", action="store_true", help="as uid 1000, no capability")
    parser.add_argument("--no-userns", action="store_true", help="namespaces are refused inside")
    parser.add_argument(
        "--plain-container", action="store_true", help="root as in a default container"
    )
    parser.add_argument(
        "--writable", action="append", default=[], metavar="DIR", help="stays writable inside"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    found = parser.parse_args(argv)
    if not found.command:
        parser.error("a command is needed")
    if missing := [path for path in found.writable if not os.path.isdir(path)]:
        parser.error(f"--writable {missing[0]} is no directory")
    if shutil.which(found.command[0]) is None:
        parser.error(f"{found.command[0]} was not found")
    found.writable = [os.path.realpath(path) for path in found.writable]
    return Options(**vars(found))


if __name__ == "__main__":
    sys.exit(main())
