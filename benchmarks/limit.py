"""What the system itself allows: a program in a process of its own, with no walls around it.

forked    a warm interpreter forks; the child runs the program and prints into a pipe
spawned   fork and exec of a bare interpreter (`python -I -S`, as posix_spawn has them)

The warm interpreter has imported and warmed up what the sandbox's zygote for the same
program has. Nothing is limited, watched or swept up: no sandbox can do less.

    python -m benchmarks.limit DESCRIPTOR [MODULE ...]      that interpreter; not for the shell
"""

import contextlib
import gc
import os
import queue
import site
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import NoReturn

from benchmarks.contenders import ENVIRONMENT, Contender, Failed
from sandbox import messages, program, tiers

PRELOAD = ("numpy", "sympy")  # the sandbox's own default


@contextlib.contextmanager
def forked(places: int) -> Iterator[Contender]:
    """A warm interpreter of each tier for each of `places` callers."""
    with contextlib.ExitStack() as stack:
        free: queue.SimpleQueue[list[socket.socket]] = queue.SimpleQueue()
        for _ in range(places):
            tops = range(len(PRELOAD) + 1)
            free.put([stack.enter_context(_interpreter(PRELOAD[:top])) for top in tops])

        def run(code: str) -> str:
            place = free.get()
            try:
                return _run(place[tiers.tier(code, PRELOAD)], code)
            finally:
                free.put(place)

        yield Contender("limit: fork", run)


def spawned() -> Contender:
    """fork, exec of a bare interpreter, a pipe and waitpid."""
    start = f"import sys; sys.path += {site.getsitepackages()!r}; exec(sys.argv[1])"
    command = [sys.executable, "-I", "-S", "-c", start]

    def run(code: str) -> str:
        output, into = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, into, 1)]
        child = os.posix_spawn(sys.executable, [*command, code], ENVIRONMENT, file_actions=actions)
        os.close(into)
        text = _all(output)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return _checked("spawned", text, status)

    return Contender("limit: fork and exec", run)


def _run(interpreter: socket.socket, code: str) -> str:
    output, into = os.pipe()
    messages.send(interpreter, {"code": code}, [into])
    os.close(into)
    text = _all(output)
    reply, _ = messages.receive(interpreter)
    return _checked("forked", text, -1 if reply is None else reply["status"])


def _all(output: int) -> str:
    with open(output, encoding="utf-8") as file:
        return file.read()


def _checked(name: str, text: str, status: int) -> str:
    if status != 0:
        raise Failed(f"{name}: exit status {status}, expected 0")
    return text


@contextlib.contextmanager
def _interpreter(modules: tuple[str, ...]) -> Iterator[socket.socket]:
    ours, its = socket.socketpair()
    number = str(its.fileno())
    command = [sys.executable, "-m", "benchmarks.limit", number, *modules]
    with ours, subprocess.Popen(command, pass_fds=[its.fileno()], env=os.environ | ENVIRONMENT):
        its.close()
        if messages.receive(ours)[0] is None:
            raise Failed(f"an interpreter with {', '.join(modules) or 'no modules'} did not start")
        yield ours
        ours.close()  # it ends, and Popen's exit waits for that


def _serve(calls: socket.socket) -> None:
    # Objects that are never looked at again stay shared between parent and child.
    gc.collect()
    gc.freeze()
    gc.disable()
    messages.send(calls, {"ready": True})
    while True:
        message, fds = messages.receive(calls)
        if message is None:
            return
        child = os.fork()
        if child == 0:
            _become(message["code"], fds[0])
        os.close(fds[0])
        _, status = os.waitpid(child, 0)
        messages.send(calls, {"status": os.waitstatus_to_exitcode(status)})


def _become(code: str, output: int) -> NoReturn:
    """The program, and nothing after it."""
    status = 1
    try:
        os.dup2(output, 1)
        exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
        status = 0
    finally:
        os._exit(status)


def main(number: int, modules: list[str]) -> None:
    """Imports, then forks a child for each program."""
    program.warm()
    for module in modules:
        program.load(module)
    with socket.socket(fileno=number) as calls:
        _serve(calls)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
