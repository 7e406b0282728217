"""What programs see and what becomes of them, through the public interface."""

import os
import random
import signal

import pytest

from sandbox import Sandbox
from tests.sandbox.processes import alive, with_argument

ERROR = """Traceback (most recent call last):
  File "main.py", line 4, in <module>
    f(0)
  File "main.py", line 2, in f
    return 1 / n
           ~~^~~
ZeroDivisionError: division by zero
"""


@pytest.mark.parametrize(
    ("code", "status", "exit_code", "stdout"),
    [
        ("print(6 * 7)", "ok", 0, "42\n"),
        ("", "ok", 0, ""),
        ("# nothing", "ok", 0, ""),
        ("print('a', end='')", "ok", 0, "a"),
        ("raise ValueError('x')", "error", 1, ""),
        ("int a = 1", "error", 1, ""),
        ("print(1)\0", "error", 1, ""),
        ("x = '\ud800'", "error", 1, ""),
        ("import sys; sys.exit(7)", "error", 7, ""),
        ("print(1); exit()", "ok", 0, "1\n"),
        ("import os; print(1); os.kill(os.getpid(), 9)", "killed", -9, "1\n"),
        ("import os; os.abort()", "killed", -signal.SIGABRT, ""),
        ("import os; print('a', flush=True); os._exit(0)", "ok", 0, "a\n"),
        ("x = bytearray(20 << 30)", "memory", 1, ""),
        ("l = []\nwhile True: l.append('x' * 1000000 + str(len(l)))", "memory", 1, ""),
        ("import numpy; numpy.ones(10**10)", "memory", 1, ""),
        ("input()", "error", 1, ""),
        ("import atexit; atexit.register(print, 'bye'); print('hi')", "ok", 0, "hi\nbye\n"),
        ("import sys; print('a'); sys.stdout.close()", "ok", 0, "a\n"),
        ("if __name__ == '__main__': print('main')", "ok", 0, "main\n"),
        ("import threading as t; t.Thread(target=print, args=(5,)).start()", "ok", 0, "5\n"),
    ],
)
def test_statuses(box, code, status, exit_code, stdout):
    result = box.run(code)
    assert (result.status, result.exit_code, result.stdout) == (status, exit_code, stdout)
    assert result.truncated_bytes == 0 and result.level == box.level
    assert (result.stderr == "") == (status in ("ok", "killed") or exit_code == 7)


@pytest.mark.parametrize("code", ["print(1)\nwhile True: pass", "import time; time.sleep(99)"])
def test_a_program_is_ended_at_its_deadline(box, code):
    result = box.run(code, timeout=0.5)
    assert result.status == "timeout"
    assert result.stdout == ("1\n" if "print" in code else "")
    assert 0.5 <= result.seconds < 10


def test_a_program_that_ignores_the_deadline_is_killed(box):
    code = "print('a', end='', flush=True)\nwhile True:\n  try:\n    while True: pass\n"
    code = f"import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n{code}  except: pass"
    result = box.run(code, timeout=0.5)
    assert (result.status, result.exit_code, result.stdout) == ("timeout", -9, "a")


def test_text_without_a_newline_survives_the_deadline(box):
    assert box.run("print('half', end='')\nwhile True: pass", timeout=0.5).stdout == "half"


def test_the_traceback_is_the_programs_own(box):
    assert box.run("def f(n):\n    return 1 / n\n\nf(0)").stderr == ERROR


def test_chained_and_syntax_errors_show_no_frame_of_ours(box):
    chained = box.run("try:\n    1 / 0\nexcept Exception as e:\n    raise KeyError(3) from e")
    assert "line 2, in <module>\n    1 / 0" in chained.stderr
    assert "line 4, in <module>\n    raise KeyError(3) from e" in chained.stderr
    syntax = box.run("x = 1\nif x\n    y")
    assert syntax.stderr.startswith('  File "main.py", line 2\n    if x\n')
    assert "program.py" not in chained.stderr + syntax.stderr


def test_source_is_there_for_inspect(box):
    code = "import inspect\ndef f(x):\n    return x\nprint(inspect.getsource(f), end='')"
    assert box.run(code).stdout == "def f(x):\n    return x\n"


def test_a_flood_of_output_is_bounded_and_counted(box):
    result = box.run("for i in range(200000): print(f'{i:07}')")
    assert result.status == "ok"
    assert result.stdout.startswith("0000000\n0000001\n") and result.stdout.endswith("0199999\n")
    assert len(result.stdout) <= 64 << 10
    assert f"{result.truncated_bytes} bytes left out" in result.stdout
    assert len(result.stdout) + result.truncated_bytes > 200000 * 8


def test_output_far_beyond_the_limit_ends_the_program(box):
    result = box.run("import os\nb = b'z' * (1 << 20)\nwhile True: os.write(1, b)", timeout=60)
    assert result.status == "killed"
    assert len(result.stdout) <= 64 << 10


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("print('π ≈ 3, 你好, 😀')", "π ≈ 3, 你好, 😀\n"),
        (r"import os; os.write(1, b'a\xff\xfeb\n')", "a\ufffd\ufffdb\n"),
        ("print(open('/dev/stdin').read())", "7 é\nrest\n"),
        ("print(input('n? '), input())", "n? 7 é rest\n"),
    ],
)
def test_text_in_and_out(box, code, stdout):
    assert box.run(code, stdin="7 é\nrest").stdout == stdout


def test_a_lone_surrogate_is_the_programs_error(box):
    result = box.run(r"print('\ud800')")
    assert result.status == "error" and "UnicodeEncodeError" in result.stderr


def test_programs_leave_nothing_to_the_next(box):
    dirty = """
import builtins, math, os, random, sys, sympy
builtins.LEAK = 1; math.pi = 3; os.environ["LEAK"] = "1"; sys.path.insert(0, "/evil")
sys.setrecursionlimit(60); sympy.LEAK = 1; open("leak", "w").write("1"); os.umask(0)
"""
    seen = """
import builtins, math, os, sys, sympy
print(hasattr(builtins, "LEAK"), math.pi == 3, "LEAK" in os.environ, "/evil" in sys.path,
      sys.getrecursionlimit() == 60, hasattr(sympy, "LEAK"), os.listdir("."))
"""
    for _ in range(4):
        assert box.run(dirty).status == "ok"
        assert box.run(seen).stdout == "False False False False False False []\n"


def test_random_numbers_are_the_same_in_every_run_and_worker(box):
    code = """
import random, numpy, sympy.core.random
print(random.random(), numpy.random.rand(), sympy.core.random.random(), hash("a"))
"""
    outputs = {box.submit(code).result().stdout for _ in range(6)}
    assert len(outputs) == 1
    assert outputs.pop().split()[0] == str(random.Random(0).random())


def test_random_numbers_are_the_same_when_the_program_imports_first():
    code = "import numpy, sympy.core.random as s; print(numpy.random.rand(), s.random())"
    with Sandbox(workers=1, preload=(), timeout=60) as lazy:
        first, second = lazy.run(code), lazy.run(code)
    assert first.status == "ok" and first.stdout == second.stdout


def test_the_environment_holds_no_secret(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "SECRET")
    code = """
import os
print(sorted(os.environ))
for pid in ("self", os.getppid()):
    try: print("SECRET" in open(f"/proc/{pid}/environ").read())
    except OSError: print(False)
"""
    with Sandbox(workers=1, preload=(), timeout=60) as fresh:
        names, *found = fresh.run(code).stdout.splitlines()
    assert found == ["False", "False"]
    threads = ["MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    assert names == str(["HOME", "LANG", *threads, "PATH", "PYTHONHASHSEED", "TMPDIR"])


def test_the_working_directory_is_private_and_goes_away(box):
    code = """
import os, tempfile
open("file", "w").write("x"); os.makedirs("a/b"); os.chmod("a", 0)
print(os.getcwd(), os.environ["HOME"], tempfile.gettempdir(), oct(os.stat(".").st_mode))
"""
    first, second = box.run(code).stdout.split(), box.run(code).stdout.split()
    assert len(set(first[:3])) == 1 and first[3] == "0o40700"
    assert first[0] != second[0]
    assert not os.path.exists(first[0]) and not os.path.exists(second[0])


def test_only_three_descriptors_are_open(box):
    code = (
        "import os\nfor fd in range(300):\n  try: os.fstat(fd); print(fd)\n  except OSError: pass"
    )
    assert box.run(code).stdout == "0\n1\n2\n"


def test_background_processes_end_with_their_program(box):
    mark = f"9{random.SystemRandom().randrange(10**8):08}"  # seconds to sleep, and a mark
    code = f"""
import os, subprocess
subprocess.Popen(["sleep", "{mark}"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{mark}"])
    os._exit(0)
print("done")
"""
    result = box.run(code)
    assert (result.status, result.stdout) == ("ok", "done\n")
    assert with_argument(mark) == set()


def test_a_program_cannot_signal_its_supervisor(box):
    if "pid" not in box.report["namespaces"]:
        pytest.skip("no pid namespace on this machine")
    code = """
import os
for number in (9, 15, 19): os.kill(os.getppid(), number)
try: os.kill(-1, 9)
except ProcessLookupError: print("nobody else is there")
"""
    pids = box._pool.pids()
    assert [box.run(code).status for _ in range(4)] == ["ok"] * 4
    assert box._pool.pids() == pids and all(map(alive, pids))


def test_after_memory_and_recursion_errors_the_worker_serves_on(box):
    pids = set(box._pool.pids())
    assert box.run("def f(n): return f(n + 1)\nf(0)").status == "error"
    deep = "import sys; sys.setrecursionlimit(10**9)\nl = []\nfor _ in range(10**6): l = [l]\n"
    assert box.run(deep + "repr(l)").status in ("killed", "memory", "error")
    assert box.run("print(1)").stdout == "1\n"
    assert set(box._pool.pids()) == pids
