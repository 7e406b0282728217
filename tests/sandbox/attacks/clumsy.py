"""What models write without ill will: the program must go the way it would with python3 FILE."""

from tests.sandbox.attacks.attack import ALIVE, CAPPED, Attack

ATTACKS = [
    Attack("byte_order_mark", "\ufeffprint(1)", stdout_equals="1\n"),
    Attack("windows_lines", "print(1)\r\nif True:\r\n    print(2)\r\n", stdout_equals="1\n2\n"),
    Attack("old_mac_lines", "print(1)\rprint(2)\r", stdout_equals="1\n2\n"),
    Attack(
        "tabs_and_spaces",
        "if True:\n        print(1)\n\tprint(2)",
        status=("error",),
        stderr_contains=("TabError",),
    ),
    Attack("coding_line", "# -*- coding: latin-1 -*-\nprint('é')", stdout_equals="é\n"),
    Attack("no_final_newline", "for i in range(2):\n    print(i)", stdout_equals="0\n1\n"),
    Attack(
        "python_2",
        "print 'hello'",
        status=("error",),
        stderr_contains=("SyntaxError", "Missing parentheses"),
    ),
    Attack("shell_line", "!pip install numpy", status=("error",), stderr_contains=("SyntaxError",)),
    Attack("markdown_fence", "```python\nprint(1)\n```", status=("error",)),
    Attack("curly_quotes", "print(“a”)", status=("error",), stderr_contains=("U+201C",)),
    Attack("unicode_names", "π = 3\nprint(π, 'ℕ')", stdout_equals="3 ℕ\n"),
    Attack("form_feed", "\f\nprint(1)\f\n", stdout_equals="1\n"),
    Attack("prompt", "n = int(input('n? '))\nprint(n * n)", stdin="5\n", stdout_equals="n? 25\n"),
    Attack(
        "input_to_its_end",
        "while True:\n    try: print(input())\n    except EOFError: break",
        stdin="a\nb",
        stdout_equals="a\nb\n",
    ),
    Attack(
        "all_of_stdin",
        "import sys\nprint(sum(map(int, sys.stdin.read().split())), list(sys.stdin))",
        stdin="1 2\n3\n",
        stdout_equals="6 []\n",
    ),
    Attack(
        "binary_stdin",
        "import sys\nprint(sys.stdin.buffer.read(), sys.stdin.isatty())",
        stdin="é\n",
        stdout_equals="b'\\xc3\\xa9\\n' False\n",
    ),
    Attack(
        "large_stdin",
        "import sys\nprint(len(sys.stdin.read()))",
        stdin="x" * 3_000_000,
        timeout=10,
        stdout_equals="3000000\n",
    ),
    Attack("unread_stdin", "print(1)", stdin="x" * 3_000_000, timeout=10, stdout_equals="1\n"),
    Attack("arguments", "import sys\nprint(len(sys.argv))", stdout_equals="1\n"),
    Attack(
        "argument_parser",
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--n', default=3)\n"
        "print(p.parse_args().n)",
        stdout_equals="3\n",
    ),
    Attack(
        "logging",
        "import logging\nlogging.basicConfig(level='INFO')\nlogging.info('seen')\nprint('out')",
        stdout_equals="out\n",
        stderr_contains=("INFO:root:seen",),
    ),
    Attack(
        "asyncio",
        "import asyncio\nasync def f(n):\n    await asyncio.sleep(0.01)\n    return n\n"
        "async def main(): print(await asyncio.gather(f(1), f(2)))\nasyncio.run(main())",
        stdout_equals="[1, 2]\n",
    ),
    Attack(
        "process_pool",
        "from multiprocessing import get_context\ndef f(n): return n * n\n"
        "if __name__ == '__main__':\n"
        "    with get_context('fork').Pool(2) as p: print(p.map(f, [1, 2, 3]))",
        must_not=(ALIVE,),
        timeout=10,
        stdout_equals="[1, 4, 9]\n",
        status_without_namespaces=("error",),
    ),
    Attack(
        "child_python",
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'print(6*7)'], capture_output=True, text=True)"
        ".stdout.strip())",
        timeout=10,
        stdout_equals="42\n",
        status_without_namespaces=("error",),
    ),
    Attack(
        "shell_command",
        "import subprocess\n"
        "print(subprocess.run('echo hi; ls /nowhere', shell=True).returncode > 0)",
        stdout_equals="hi\nTrue\n",
        stderr_contains=("/nowhere",),
        status_without_namespaces=("error",),
    ),
    Attack(
        "pip_install",
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-m', 'pip', 'install', '--retries', '0', 'six'],"
        " capture_output=True).returncode != 0)",
        status=("ok", "error"),
        timeout=20,
        status_without_namespaces=("error",),
    ),
    Attack(
        "missing_module",
        "import surely_not_there",
        status=("error",),
        stderr_contains=("ModuleNotFoundError: No module named 'surely_not_there'",),
    ),
    Attack(
        "missing_file",
        "open('data.csv')",
        status=("error",),
        stderr_contains=("FileNotFoundError", "data.csv"),
    ),
    Attack(
        "files_and_back",
        "import csv, json, pathlib, sqlite3, tempfile\n"
        "json.dump([1], open('a.json', 'w'))\nprint(json.load(open('a.json')))\n"
        "pathlib.Path('d/e').mkdir(parents=True)\npathlib.Path('d/e/f').write_text('é')\n"
        "db = sqlite3.connect('a.db')\ndb.execute('create table t (n)')\n"
        "db.execute('insert into t values (7)')\ndb.commit()\n"
        "print(db.execute('select n from t').fetchall(), tempfile.gettempdir() != '')",
        stdout_equals="[1]\n[(7,)] True\n",
    ),
    Attack(
        "module_of_its_own",
        "open('helper.py', 'w').write('x = 5')\nimport helper\nprint(helper.x)",
        stdout_equals="5\n",
    ),
    Attack(
        "plot",
        "try:\n    import matplotlib.pyplot as plt\nexcept ImportError:\n    print(True)\nelse:\n"
        "    import os\n    plt.plot([1, 2, 3])\n    plt.savefig('a.png')\n    plt.show()\n"
        "    print(os.path.getsize('a.png') > 1000)",
        timeout=40,
        stdout_equals="True\n",
    ),
    Attack(
        "graphical_window",
        "import tkinter\ntkinter.Tk().mainloop()",
        status=("error",),
        timeout=5,
    ),
    Attack(
        "web_browser",
        "import webbrowser\nprint(webbrowser.open('http://a'))",
        timeout=5,
        stdout_equals="False\n",
        status_without_namespaces=("ok", "error"),
    ),
    Attack(
        "progress_bar",
        "import sys, time\nfor i in range(0, 101, 10):\n"
        "    sys.stdout.write(f'\\r{i}%'); sys.stdout.flush(); time.sleep(0.005)\nprint()",
        stdout_contains=("\r100%\n",),
    ),
    Attack(
        "infinite_generator",
        "import itertools\nprint('start')\nprint(sum(itertools.count()))",
        status=("timeout",),
        stdout_equals="start\n",
        max_wall_s=2.8,
    ),
    Attack(
        "deep_recursion",
        "import sys\nsys.setrecursionlimit(10**5)\n"
        "def f(n): return n and 1 + f(n - 1)\nprint(f(20000))",
        stdout_equals="20000\n",
    ),
    Attack(
        "memoised_recursion",
        "import functools\n@functools.cache\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)\n"
        "print(f(400) % 1000)",
        stdout_equals="675\n",
    ),
    Attack(
        "debugger",
        "x = 1\nbreakpoint()\nprint(x)",
        status=("error",),
        stderr_contains=("BdbQuit",),
    ),
    Attack("help_text", "help(len)", stdout_contains=("len(obj",)),
    Attack(
        "warnings_as_errors",
        "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('careful')",
        status=("error",),
        stderr_contains=("UserWarning: careful",),
    ),
    Attack(
        "assertion",
        "assert 1 == 2, 'not so'",
        status=("error",),
        stderr_contains=("AssertionError: not so",),
    ),
    Attack(
        "future_import",
        "from __future__ import annotations\ndef f(x: Missing): pass\nprint(f.__annotations__)",
        stdout_equals="{'x': 'Missing'}\n",
    ),
    Attack(
        "annotations_unresolved",
        "import typing\nclass A:\n    b: 'A'\nprint(typing.get_type_hints(A)['b'] is A)",
        stdout_equals="True\n",
    ),
    Attack(
        "time_zones",
        "import datetime, os, time\nos.environ['TZ'] = 'UTC'\ntime.tzset()\n"
        "print(datetime.datetime.fromtimestamp(0).hour, time.strftime('%Z', time.gmtime(0)) != '')",
        stdout_equals="0 True\n",
    ),
    Attack(
        "locale",
        "import locale, sys\nlocale.setlocale(locale.LC_ALL, '')\n"
        "print(sys.getfilesystemencoding(), sys.stdout.encoding, open('x', 'w').encoding)",
        stdout_equals="utf-8 utf-8 UTF-8\n",
    ),
    Attack(
        "home",
        "import os, pathlib\nprint(pathlib.Path.home().is_dir(), os.access('.', os.W_OK))",
        stdout_equals="True True\n",
    ),
    Attack(
        "terminal_size",
        "import shutil\nprint(shutil.get_terminal_size().columns > 0)",
        stdout_equals="True\n",
    ),
    Attack("no_newline_at_all", "import sys\nsys.stdout.write('42')", stdout_equals="42"),
    Attack(
        "invalid_utf_8",
        "import sys\nsys.stdout.buffer.write(b'a\\xffb')",
        stdout_equals="a\ufffdb",
    ),
    Attack("nul_in_output", "print('a\\0b')", stdout_equals="a\0b\n"),
    Attack(
        "stderr_closed",
        "import sys\nprint('a')\nsys.stderr.close()\n1 / 0",
        status=("error",),
        stdout_equals="a\n",
    ),
    Attack("no_stdout", "import sys\nsys.stdout = None\nprint('lost')", stdout_equals=""),
    Attack(
        "both_streams_closed",
        "import os\nos.close(1)\nos.close(2)\nos.close(0)\nprint('lost')",
        status=("ok", "error"),
        stdout_equals="",
    ),
    Attack(
        "one_long_line",
        "print('x' * 1_000_000)\nprint('end')",
        must_not=(CAPPED,),
        stdout_contains=("left out", "end\n"),
    ),
    Attack(
        "fault_handler",
        "import faulthandler\nfaulthandler.enable()\nfaulthandler.dump_traceback()\nprint('a')",
        stdout_equals="a\n",
        stderr_contains=("Current thread",),
    ),
    Attack(
        "nested_quit",
        "def f():\n    print('before')\n    quit()\nf()\nprint('after')",
        stdout_equals="before\n",
    ),
    Attack("quit_with_text", "quit('bye')", status=("error",), stderr_contains=("bye",)),
    Attack(
        "timeout_decorator",
        "import signal\ndef h(*_): raise TimeoutError('too slow')\n"
        "signal.signal(signal.SIGALRM, h)\nsignal.alarm(1)\n"
        "try:\n    while True: sum(range(1000))\nexcept TimeoutError as e: print(e)",
        timeout=5,
        stdout_equals="too slow\n",
    ),
    Attack(
        "sympy_printing",
        "from sympy import *\nx = symbols('x')\npprint(sqrt(x) / 2, use_unicode=True)\n"
        "print(latex(Integral(x**2, x)), solve(x**2 - 2, x))",
        timeout=10,
        stdout_contains=("√x", "[-sqrt(2), sqrt(2)]"),
    ),
    Attack(
        "numpy_printing",
        "import numpy as np\nprint(np.linalg.solve(np.eye(2), [1, 2]))",
        stdout_equals="[1. 2.]\n",
    ),
    Attack(
        "exception_group",
        "raise ExceptionGroup('several', [ValueError(1), KeyError('k')])",
        status=("error",),
        stderr_contains=("ExceptionGroup: several (2 sub-exceptions)", "KeyError: 'k'"),
    ),
    Attack(
        "error_in_a_thread",
        "import threading\nt = threading.Thread(target=lambda: 1 / 0)\n"
        "t.start()\nt.join()\nprint('a')",
        stdout_equals="a\n",
        stderr_contains=("Exception in thread", "ZeroDivisionError"),
    ),
]
