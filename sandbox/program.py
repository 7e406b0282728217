"""Inside the child: run source text as __main__, as `python main.py` would.

Everything needed after the program has started is bound here before it starts,
and the traceback is the program's own: right line numbers, no frame of ours.
"""

import ast
import atexit
import contextlib
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
from functools import partial
from typing import Any

NAME = "main.py"
RESERVE = 16 << 20  # address space given back before a MemoryError is printed

_exit, _write, _kill, _getpid = os._exit, os.write, os.kill, os.getpid
_join_threads: Callable[[], None] = vars(threading)["_shutdown"]
_run_atexit = atexit._run_exitfuncs
_builtin_hook = sys.excepthook

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
OURS = {__file__}  # files whose frames a traceback does not begin with
SEEDED = ("numpy.random", "sympy.core.random")  # modules with a generator of their own


class SeedOnImport(importlib.abc.MetaPathFinder):
    """Seeds a module of SEEDED when the program is the first to import it."""

    seed = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in SEEDED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_seed(module: types.ModuleType) -> None:
            execute(module)
            vars(module)["seed"](self.seed)

        vars(spec.loader)["exec_module"] = execute_and_seed
        return spec


_seed_on_import = SeedOnImport()


def warm() -> None:
    """In the first zygote: first calls that fill caches every child then shares."""
    sys.meta_path.insert(0, _seed_on_import)
    ast.parse("1")
    warm_up = "def f():\n    return [1 / 0]\nf()\n"
    keep_source(warm_up)
    try:
        exec(compile(warm_up, NAME, "exec", dont_inherit=True), {})
    except ZeroDivisionError as error:
        traceback.print_exception(error, file=io.StringIO())


def load(name: str) -> None:
    """In a later zygote: imports a module, with its own first calls. Raises ImportError."""
    importlib.import_module(name)
    if name == "sympy":
        sympy = sys.modules["sympy"]
        _warm_sympy(sympy)


def _warm_sympy(sympy: Any) -> None:
    """What most programs begin with loads modules and fills tables: once, for all of them."""
    x, y = sympy.symbols("x y")
    sympy.factor(x**4 - 1)
    sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
    sympy.solve([x + y - 3, x - y - 1], [x, y])
    sympy.solve(x**2 - 3 * x + 2, x)
    sympy.integrate(x * sympy.exp(x), x)
    sympy.integrate(sympy.sin(x) * x, x)
    sympy.integrate(1 / (1 + x**2), (x, 0, 1))
    sympy.limit(sympy.sin(x) / x, x, 0)
    sympy.series(sympy.exp(x), x, 0, 3)
    sympy.summation(x, (x, 1, 5))
    sympy.Matrix([[2, 1], [1, 2]]).eigenvals()
    sympy.factorint(360360)
    str(sympy.N(sympy.pi, 30))


def keep_source(source: str, name: str = NAME) -> None:
    """For tracebacks and inspect.getsource; no file of that name exists."""
    # A modification time of None keeps linecache from looking for the file.
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)


def run(source: str, seed: int) -> None:
    """Runs the program and ends the process. Does not return."""
    main = prepare(seed)
    source = source.removeprefix("\ufeff")  # the mark that some editors put first
    keep_source(source)
    reserve = hold_back()
    body = partial(_execute, source, vars(main))
    finish(attempt(body, reserve))


def _execute(source: str, names: dict[str, Any]) -> None:
    exec(compile(source, NAME, "exec", dont_inherit=True), names)


def hold_back() -> mmap.mmap:
    """Address space that nothing uses, to be closed when a MemoryError must be told."""
    return mmap.mmap(-1, RESERVE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def prepare(seed: int) -> types.ModuleType:
    """A fresh __main__, streams, seeds and signal handler; garbage collection on."""
    # Lines are flushed as they are written, so that a killed program keeps its output.
    _open_stream("stdin", 0, "r", "strict")
    _open_stream("stdout", 1, "w", "strict")
    _open_stream("stderr", 2, "w", "backslashreplace")
    signal.signal(signal.SIGXCPU, _out_of_time)
    tempfile.tempdir = None  # the zygote's own choice, kept there since its first use
    random.seed(seed)
    _seed_on_import.seed = seed
    for name in SEEDED:
        if name in sys.modules:
            vars(sys.modules[name])["seed"](seed)
    main = types.ModuleType("__main__")
    vars(main).update(__file__=NAME, __builtins__=sys.modules["builtins"])
    sys.modules["__main__"] = main
    sys.argv = [NAME]
    sys.path.insert(0, os.getcwd())
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
        try:
            _kill(_getpid(), number)
        except PermissionError:  # a session's filter: see child
            _kill(0, number)


def attempt(body: Callable[[], object], reserve: mmap.mmap | None = None) -> int:
    """The exit status that a program of this `body` would have; what it raised is told."""
    error: BaseException | None = None
    try:
        body()
    except BaseException as raised:
        error = raised  # told of below, so that it is no context of what its report may raise
    if reserve is not None:
        reserve.close()
    return 0 if error is None else _tell(error)


def _tell(error: BaseException) -> int:
    """The exit status. Raises nothing: what the program has done by now is not to be lost."""
    try:
        _drop_our_frames(error)
        if isinstance(error, SystemExit):
            return _exit_status(error.code)
        failure = _call_hook(error)
        if isinstance(failure, SystemExit):
            return _exit_status(failure.code)
        if failure is not None:
            _drop_our_frames(failure)
            for part in ("Error in sys.excepthook:", failure, "\nOriginal exception was:", error):
                _print(part)
    except BaseException as reason:  # as the interpreter, which is silent then
        if isinstance(error, MemoryError) or isinstance(reason, MemoryError):
            with contextlib.suppress(OSError):
                _write(2, b"MemoryError\n")
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _call_hook(error: BaseException) -> BaseException | None:
    """What the program's sys.excepthook raised."""
    if vars(sys).get("excepthook") is _builtin_hook:
        # That one looks for main.py on disk; this one asks linecache.
        _print(error)
        return None
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException as failure:
        return failure


def _print(part: BaseException | str) -> None:
    if sys.stderr is None:  # both of these would take stdout
        return
    if isinstance(part, str):
        print(part, file=sys.stderr)
    else:
        traceback.print_exception(part)


def _drop_our_frames(error: BaseException) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in OURS:
        trace = trace.tb_next
    error.__traceback__ = trace


def _exit_status(code: object) -> int:
    """What the interpreter makes of SystemExit's argument."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if -(2**63) <= code < 2**63 else 255
    _print(str(code))
    return 1


def flush() -> int:
    """0, or the exit status of a program whose output could not be written."""
    failed = [attempt(partial(_flush, name)) for name in ("stdout", "stderr")]
    for name in ("__stdout__", "__stderr__"):  # the program may have put others in their place
        with contextlib.suppress(Exception):  # and taken these apart
            vars(sys)[name].flush()
    return 120 if any(failed) else 0


def _flush(name: str) -> None:
    stream = getattr(sys, name, None)
    if stream is not None and not getattr(stream, "closed", False):
        stream.flush()


def finish(status: int) -> None:
    """The interpreter's own order: threads, atexit, flush; then no further Python."""
    attempt(_join_threads)
    attempt(_run_atexit)
    _exit(flush() or status)
