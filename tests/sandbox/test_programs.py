"""What programs see and what becomes of them, through the public interface."""

import random
import signal
import zlib

import pytest

from sandbox import Sandbox, SandboxError
from tests.sandbox.processes import kin, with_argument

KEPT = 64 << 10  # bytes of each stream that `box` keeps

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


def test_the_environment_holds_no_secret(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "SECRET")
    code = """
import os
print(sorted(os.environ))
for pid in ("self", os.getppid()):
    try: print("SECRET" in open(f"/proc/{pid}/environ").read())
    except OSError: print(False)
"""
    with Sandbox(workers=1, min_level="rlimits", preload=(), timeout=60) as fresh:
        names, *found = fresh.run(code).stdout.splitlines()
    assert found == ["False", "False"]
    threads = ["MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    python = ["PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED"]
    assert names == str(["HOME", "LANG", *threads, "PATH", *python, "TMPDIR"])


def test_the_working_directory_is_private_and_empty_each_time(box):
    code = """
import os, tempfile
print(os.getcwd() == os.environ["HOME"], tempfile.gettempdir() == os.environ["TMPDIR"])
print(oct(os.stat(".").st_mode), oct(os.stat(os.environ["TMPDIR"]).st_mode))
print(os.listdir("."), os.listdir(os.environ["TMPDIR"]))
open("file", "w").write("x"); os.makedirs("a/b/c"); os.chmod("a/b", 0); os.mkfifo("fifo")
tempfile.mkstemp(); tempfile.mkdtemp()
"""
    for _ in range(4):
        assert box.run(code).stdout == "True True\n0o40700 0o40700\n[] []\n"


def test_only_three_descriptors_are_open(box):
    code = (
        "import os\nfor fd in range(300):\n  try: os.fstat(fd); print(fd)\n  except OSError: pass"
    )
    assert box.run(code).stdout == "0\n1\n2\n"


def test_background_processes_end_with_their_program(box):
    if box.level == "restricted":
        pytest.skip("without namespaces no program may start another")
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


def test_a_program_cannot_signal_who_runs_it(box):
    code = """
import os
for number in (9, 15, 19, 2):
    try: os.kill(os.getppid(), number)
    except PermissionError: pass
try: os.kill(-1, 9)
except (ProcessLookupError, PermissionError): print("nobody else is there")
"""
    if box.level == "rlimits":
        pytest.skip("nothing keeps signals in at this level")
    box.run("print(1)")
    before = kin(box._link.pid)["slot"]
    assert [box.run(code).stdout for _ in range(4)] == ["nobody else is there\n"] * 4
    assert set(before) <= set(kin(box._link.pid)["slot"])


def test_after_memory_and_recursion_errors_the_slot_serves_on(box):
    assert box.run("print(1)").stdout == "1\n"
    before = kin(box._link.pid)["slot"]
    assert box.run("def f(n): return f(n + 1)\nf(0)").status == "error"
    deep = "import sys; sys.setrecursionlimit(10**9)\nl = []\nfor _ in range(10**6): l = [l]\n"
    assert box.run(deep + "repr(l)").status in ("killed", "memory", "error")
    assert box.run("x = bytearray(1 << 40)").status == "memory"
    assert box.run("print(1)").stdout == "1\n"
    assert set(before) <= set(kin(box._link.pid)["slot"])


FILES = {"data": bytes(range(256)), "a/b/c.txt": b"", "a/\xe9 \u4f60": b"x" * 100_000}


def test_files_are_put_into_the_working_directory_and_read_back(box):
    code = """
import os
print(sorted(os.path.join(d, f) for d, _, files in os.walk(".") for f in files))
data = open("data", "rb").read()
open("data", "ab").write(b"more"); os.makedirs("new/dir"); open("new/dir/f", "wb").write(data[::-1])
"""
    fetch = [*FILES, "new/dir/f", "missing", "new/missing/f"]
    result = box.run(code, files=FILES, fetch=fetch)
    assert result.stdout == f"{sorted(f'./{name}' for name in FILES)}\n"
    assert result.files == {
        **FILES,
        "data": FILES["data"] + b"more",
        "new/dir/f": FILES["data"][::-1],
    }
    assert box.run("import os; print(os.listdir())").stdout == "[]\n"


def test_only_plain_files_are_read_back(box):
    code = """
import os, socket
os.mkdir("directory"); open("directory/f", "w").write("x"); os.symlink("directory", "linked")
os.symlink("/etc/passwd", "link"); os.mkfifo("fifo"); open("plain", "w").write("x")
os.link("plain", "second")
"""
    names = ["directory", "linked", "linked/f", "link", "fifo", "plain", "plain/f", "second"]
    assert box.run(code, fetch=names).files == {"plain": b"x", "second": b"x"}


def test_files_too_large_to_be_read_back_are_left_out_whole(box):
    code = """
for name, size in (("a", 5 << 20), ("b", 5 << 20), ("c", 2 << 20), ("d", 9 << 20)):
    open(name, "wb").write(name.encode() * size)
"""
    files = box.run(code, fetch=["a", "b", "c", "d"]).files
    assert files == {"a": b"a" * (5 << 20), "c": b"c" * (2 << 20)}


def test_files_of_a_program_that_was_ended_are_read_back(box):
    code = "open('f', 'wb').write(b'kept')\nwhile True: pass"
    result = box.run(code, timeout=0.3, fetch=["f"])
    assert (result.status, result.files) == ("timeout", {"f": b"kept"})


@pytest.mark.parametrize("name", ["", "/etc/passwd", "..", "a/../../b", "a//b", "./a", "a/", "a\0"])
def test_names_that_leave_the_working_directory_are_refused(box, name):
    with pytest.raises(SandboxError, match="expected a relative path"):
        box.run("", files={name: b""})
    with pytest.raises(SandboxError, match="expected a relative path"):
        box.run("", fetch=[name])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "a/b"], "'a' cannot be a file and the folder of 'a/b'"),
        (["n" * 300], "at most 255 bytes in each part"),
        (["/".join(["n" * 200] * 21)], "4000 in all"),
        (["\ud800"], "text that UTF-8 can hold"),
    ],
)
def test_files_that_cannot_be_made_are_refused_in_one_line(box, names, words):
    with pytest.raises(SandboxError) as caught:
        box.run("print('ran')", files=dict.fromkeys(names, b""))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_large_texts_pass_in_both_directions(box):
    text = "\n".join(f"{n} \u00e9" for n in range(500_000))
    assert len(text.encode()) > 4 << 20
    code = "import sys, zlib; print(zlib.crc32(sys.stdin.buffer.read()))"
    assert box.run(code, stdin=text).stdout == f"{zlib.crc32(text.encode())}\n"
    partly = box.run("print(input()[:3]); print(input()[:3])", stdin=text)
    assert partly.stdout == "0 \u00e9\n1 \u00e9\n"


def test_a_long_program_runs(box):
    result = box.run(f"x = {'y' * (5 << 20)!r}\n# {'z' * (1 << 20)}\nprint(len(x))")
    assert result.stdout == f"{5 << 20}\n"


def test_a_message_beyond_all_measure_is_refused_in_one_line(box):
    with pytest.raises(SandboxError, match="at most") as caught:
        box.run("#" * (65 << 20))
    assert "\n" not in str(caught.value)


def test_odd_characters_in_stdin_arrive_as_they_are(box):
    code = "import sys; print(sys.stdin.buffer.read())"
    assert box.run(code, stdin="a\0b\r\n\ud800").stdout == f"{bytes.fromhex('6100620d0aeda080')}\n"
    result = box.run("print(input())", stdin="\ud800")
    assert result.status == "error" and "UnicodeDecodeError" in result.stderr
    assert box.run(r"print('a\0b\r')").stdout == "a\0b\r\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("size", [KEPT - 1, KEPT, KEPT + 1, KEPT + 60, 3 * KEPT, 5_000_000])
def test_head_and_tail_are_exact_and_what_lies_between_is_counted(box, stream, size):
    text = "".join(f"{n:09}\n" for n in range(size // 10 + 1))[:size]
    lines = f"''.join(f'{{n:09}}\\n' for n in range({size} // 10 + 1))"
    result = box.run(f"import sys; sys.{stream}.write({lines}[:{size}])")
    shown = getattr(result, stream)
    if size <= KEPT:
        assert (shown, result.truncated_bytes) == (text, 0)
        return
    cut = result.truncated_bytes
    head, tail = shown.split(f"\n... {cut} bytes left out ...\n")
    assert head == text[: KEPT // 2] and text.endswith(tail) and len(tail) > KEPT // 2 - 64
    assert len(head) + cut + len(tail) == size and len(shown) <= KEPT
    assert (result.stdout if stream == "stderr" else result.stderr) == ""
