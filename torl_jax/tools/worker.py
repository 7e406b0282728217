"""A process that has a file of Python functions, and calls them, each in a fork.

    request {"describe": true}                  ->  reply {"functions": [...]}
    request {"name", "parameters", "seconds"}   ->  reply {"status", "results", "seconds"}

Runs as `python -m torl_jax.tools.worker FILE MEMORY_MB`. The file is imported once; each
call is made in a fork of that state, so what a call changes no other call sees, and one
that crashes, hangs, exits or fills its memory ends alone. Whatever it started is killed
with it. What it prints goes nowhere: its answer is what it returns.
"""

import asyncio
import contextlib
import importlib.util
import inspect
import os
import resource
import signal
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from sandbox import kernel, messages, sweep
from sandbox.messages import FrameError, Message
from torl_jax.tools import signatures
from torl_jax.tools.toolbox import bounded, shortened

Functions = Mapping[str, Callable[..., Any]]


def main(path: str, memory: int) -> None:
    """Serves calls on stdin and stdout until they close. `memory`: bytes that a call may take."""
    requests, replies = messages.take_stdio()
    sys.stdout = sys.stderr
    kernel.adopt_orphans()
    signal.signal(signal.SIGTERM, end)
    kernel.die_with_parent(signal.SIGTERM)
    try:
        module = load(path)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    try:
        functions = signatures.functions(module)
        described = [signatures.described(function) for function in functions.values()]
    except ValueError as error:  # words for its author, who need not know our exceptions
        sys.exit(" ".join(str(error).split()))
    messages.write(replies, {"ready": True})
    while (request := messages.read(requests)) is not None:
        if "describe" in request:
            messages.write(replies, {"functions": described})
            continue
        pipe, pid = begin(functions, request, memory, (requests, replies))
        messages.write(replies, finish(pipe, pid, request["seconds"]))


def end(number: int, frame: FrameType | None) -> NoReturn:
    """On SIGTERM: with all that the call at hand has started."""
    sweep.sweep(jailed=False)
    os._exit(1)


def load(path: str) -> types.ModuleType:
    """The file as a module, which is run for it."""
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import does: pickle and dataclasses look there
    spec.loader.exec_module(module)
    return module


def begin(
    functions: Functions, request: Message, memory: int, ours: tuple[int, ...]
) -> tuple[int, int]:
    """A fork that makes the call: the pipe on which its reply will come, and its pid."""
    listen, speak = os.pipe()
    pid = os.fork()
    if pid:
        os.close(speak)
        return listen, pid
    try:
        for descriptor in (listen, *ours):
            os.close(descriptor)
        become(memory)
        reply = make(functions[request["name"]], request["parameters"])
        if os.getpid() == os.getsid(0):  # a fork of the call's own has nothing to say
            messages.write(speak, reply)
    finally:
        os._exit(0)


def become(memory: int) -> None:
    """The process of one call: apart from ours, silent, and limited."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kernel.die_with_parent()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    taken = 0
    with contextlib.suppress(OSError):  # Linux only; elsewhere what the import took counts too
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))


def make(function: Callable[..., Any], parameters: dict[str, Any]) -> Message:
    """What the call came to, in what JSON holds."""
    try:
        results = function(**parameters)
        if inspect.isawaitable(results):
            results = asyncio.run(_awaited(results))
    except BaseException as error:  # sys.exit and KeyboardInterrupt too
        text = "".join(f"{type(error).__name__}: {error}".split("\n", 1)[0])
        return {"status": "error", "results": shortened(text.removesuffix(": "))}
    try:
        return {"status": "ok", "results": bounded(results)}
    except (TypeError, ValueError, RecursionError, MemoryError) as error:
        kind = type(results).__name__
        return {
            "status": "error",
            "results": f"the tool returned a {kind} that JSON cannot hold: {error}",
        }


async def _awaited(results: Any) -> Any:
    return await results


def finish(pipe: int, pid: int, seconds: float) -> Message:
    """The reply of a fork, or what became of it; it and all that it started are then gone."""
    started = time.monotonic()
    late, reply = False, None
    try:
        reply = messages.read(pipe, started + seconds)
    except TimeoutError:
        late = True
    except FrameError:
        reply = None  # it ended while it wrote
    took = time.monotonic() - started
    os.kill(pid, signal.SIGKILL)  # one that is ending already keeps its own status
    _, status = os.waitpid(pid, 0)
    sweep.sweep(jailed=False)
    os.close(pipe)
    if late:
        words = f"stopped: it took longer than {seconds:g} s"
        return {"status": "timeout", "results": words, "seconds": took}
    if reply is None:
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"
        return {"status": "error", "results": f"the tool {how} before it returned", "seconds": took}
    return {**reply, "seconds": took}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) << 20)
