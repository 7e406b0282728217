"""Inside a session's process: cells that share one __main__, each run in a fork.

    holder --fork--> cell         the holder waits, with the state before the cell
                     cell done:   it tells the slot, is the new holder, the old one is ended
                     cell killed: the holder tells the slot and waits for the next cell

So a cell that is killed leaves the state that it found. A cell that has started threads
forks once more: the new holder is without them. A fork made by the cell itself ends at
the end of the cell's code, as at that of a program. What comes from this process is as
little to be trusted as any program's output: the slot checks it, and all that it says
bears the number of the cell.
"""

import _thread
import ast
import os
import random
import signal
import types
import warnings
from typing import Any

from sandbox import limits, messages, program

program.OURS.add(__file__)

_exit, _fork, _getpid, _waitpid = os._exit, os.fork, os.getpid, os.waitpid
_setsid = os.setsid
_threads, _pause = _thread._count, signal.pause
_read, _write = messages.read, messages.write
_getstate, _setstate = random.getstate, random.setstate


def serve(job: int, seed: int, echo: bool) -> None:
    """Runs cells until the slot closes `job`. Does not return.

    `echo` shows the value of a cell's last expression, as a notebook does.
    """
    main = program.prepare(seed)
    _write(job, {"open": True})
    left = 0  # threads that were not taken along: the count goes on counting them
    while (order := _read(job)) is not None and (message := _read(job)) is not None:
        number = order["number"]
        pid = _fork_alike()
        if pid == 0:
            cell = _getpid()
            _write(job, {"pid": cell, "number": number})
            limits.limit_cpu(message["timeout"], order["most"])
            status = _run_cell(message["cell"], f"cell_{number}.py", main, echo)
            if _getpid() != cell:  # a fork that the cell has made, and that has gone on to here
                program.finish(status)
            if _threads() > left:
                left = _leave_threads()
                _write(job, {"pid": _getpid(), "number": number})
            _write(job, {"done": status, "number": number})
        else:
            _, status = _waitpid(pid, 0)
            _write(job, {"died": status, "number": number})
    _exit(0)


def _fork_alike() -> int:
    """A fork whose random numbers go on where they were; the module would seed it anew."""
    state = _getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the threads that it does not take along
        pid = _fork()
    if pid == 0:
        _setstate(state)
        _setsid()  # a signal to its group does not end the state before it
    return pid


def _leave_threads() -> int:
    """Goes on in a fork; the process with the threads waits to be ended by the slot."""
    if _fork_alike():
        while True:
            _pause()
    return _threads()


def _run_cell(source: str, name: str, main: types.ModuleType, echo: bool) -> int:
    """The exit status that a program of this source would have. Output is flushed."""
    source = source.removeprefix("\ufeff")
    program.keep_source(source, name)
    reserve = program.hold_back()
    status = program.attempt(lambda: _execute(_compile(source, name, echo), vars(main)), reserve)
    return program.flush() or status


def _execute(codes: list[types.CodeType], names: dict[str, Any]) -> None:
    for code in codes:
        exec(code, names)


def _compile(source: str, name: str, echo: bool) -> list[types.CodeType]:
    """The cell as code; with `echo` its last expression goes through sys.displayhook."""
    if not echo:
        return [compile(source, name, "exec", dont_inherit=True)]
    # Not ast.parse: a frame of it would stand in the cell's traceback.
    tree = compile(source, name, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    last = []
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = [ast.Interactive([tree.body.pop()])]
    codes = [compile(tree, name, "exec", dont_inherit=True)]
    return codes + [compile(part, name, "single", dont_inherit=True) for part in last]
