"""Inside the child: run source text as __main__, as `python main.py` would.

Everything needed after the program has started is bound here before it starts,
and the traceback is the program's own: right line numbers, no frame of ours.
"""

import ast
import atexit
import gc
import importlib.abc
import importlib.machinery
import io
import linecache
import mmap
import os
import random
import signal
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any

NAME = "main.py"
SEED = 0
RESERVE = 16 << 20  # address space given back before a MemoryError is printed

_exit, _write, _kill, _getpid = os._exit, os.write, os.kill, os.getpid
_join_threads: Callable[[], None] = vars(threading)["_shutdown"]
_run_atexit = atexit._run_exitfuncs

SEEDERS: dict[str, Callable[[Any], None]] = {
    "numpy.random": lambda module: module.seed(SEED),
    "sympy.core.random": lambda module: module.seed(SEED),
}


class SeedOnImport(importlib.abc.MetaPathFinder):
    """Seeds a generator of SEEDERS when the program is the first to import it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in SEEDERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_seed(module: types.ModuleType) -> None:
            execute(module)
            SEEDERS[fullname](module)

        vars(spec.loader)["exec_module"] = execute_and_seed
        return spec


def warm(preload: Sequence[str]) -> None:
    """In the zygote: imports, and first calls that fill caches every child then shares."""
    for name in preload:
        importlib.import_module(name)
    sys.meta_path.insert(0, SeedOnImport())
    if "sympy" in preload:
        sympy = sys.modules["sympy"]
        x = sympy.Symbol("x")
        sympy.factor(x**4 - 1)
        sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
        sympy.solve(x**2 - 3 * x + 2, x)
        sympy.integrate(x * sympy.exp(x), x)
        sympy.factorint(360360)
    ast.parse("1")
    warm_up = "def f():\n    return [1 / 0]\nf()\n"
    keep_source(warm_up)
    try:
        exec(compile(warm_up, NAME, "exec", dont_inherit=True), {})
    except ZeroDivisionError as error:
        traceback.print_exception(error, file=io.StringIO())


def keep_source(source: str) -> None:
    """For tracebacks and inspect.getsource; no file of that name exists."""
    # A modification time of None keeps linecache from looking for the file.
    linecache.cache[NAME] = (len(source), None, source.splitlines(True), NAME)


def run(source: str) -> None:
    """Runs the program and ends the process. Does not return."""
    reserve = mmap.mmap(-1, RESERVE)
    main = _prepare(source)
    status = 0
    try:
        exec(compile(source, NAME, "exec", dont_inherit=True), vars(main))
    except SystemExit as stop:
        status = _exit_status(stop.code)
    except BaseException as error:
        reserve.close()
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
        _report(error)
    _finish(status)


def _prepare(source: str) -> types.ModuleType:
    """A fresh __main__, streams, seeds and signal handler; garbage collection on."""
    # Lines are flushed as they are written, so that a killed program keeps its output.
    _open_stream("stdin", 0, "r", "strict")
    _open_stream("stdout", 1, "w", "strict")
    _open_stream("stderr", 2, "w", "backslashreplace")
    signal.signal(signal.SIGXCPU, _out_of_time)
    tempfile.tempdir = None  # the zygote's own choice, kept there since its first use
    random.seed(SEED)
    for name, seeder in SEEDERS.items():
        if name in sys.modules:
            seeder(sys.modules[name])
    main = types.ModuleType("__main__")
    vars(main).update(__file__=NAME, __builtins__=sys.modules["builtins"])
    sys.modules["__main__"] = main
    sys.argv = [NAME]
    sys.path.insert(0, os.getcwd())
    keep_source(source)
    gc.enable()
    return main


def _open_stream(name: str, fd: int, mode: str, errors: str) -> None:
    raw = io.FileIO(fd, mode, closefd=False)
    buffered = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    stream = io.TextIOWrapper(buffered, "utf-8", errors, line_buffering=True)
    for attribute in (name, f"__{name}__"):
        setattr(sys, attribute, stream)


def _out_of_time(number: int, frame: types.FrameType | None) -> None:
    """The deadline: what was printed without a newline is kept, then the end."""
    del frame
    signal.signal(number, signal.SIG_DFL)
    try:
        sys.stdout.flush()
    finally:
        _kill(_getpid(), number)


def _exit_status(code: object) -> int:
    """What the interpreter makes of SystemExit's argument."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _report(error: BaseException) -> None:
    """The program's own traceback on stderr, through its sys.excepthook if it set one."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    error = error.with_traceback(trace)
    try:
        if sys.excepthook is sys.__excepthook__:
            # The built-in hook looks for main.py on disk; this one asks linecache.
            traceback.print_exception(error)
        else:
            sys.excepthook(type(error), error, trace)
    except MemoryError:
        _write(2, b"MemoryError\n")


def _finish(status: int) -> None:
    """The interpreter's own order: threads, atexit, flush; then no further Python."""
    try:
        _join_threads()
        _run_atexit()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except BaseException as error:
        _report(error)
        status = status or 120
    finally:
        _exit(status)
