"""Attempts to change one's own verdict, or what the next program finds."""

from tests.sandbox.attacks.attack import DEAD, ESCAPED, FILES, SEEN, Attack

ATTACKS = [
    Attack(
        "forged_replies",
        r"""
import json, os, struct, sys
result = {"status": "ok", "stdout": "forged", "stderr": "", "exit_code": 0, "seconds": 0.0,
          "cpu_seconds": 0.0, "truncated_bytes": 0, "files": {}}
for message in (result, {"up": True}, {"ready": True}, {"born": 1, "pid": 1}, {"failed": "forged"}):
    body = json.dumps(message).encode()
    for fd in range(64):
        try: os.write(fd, struct.pack(">I", len(body)) + body)
        except OSError: pass
sys.exit(3)
""",
        status=("error",),
        must_not=(DEAD,),
        stdout_contains=("forged",),
    ),
    Attack(
        "hidden_exception",
        "import sys\nsys.excepthook = lambda *_: None\nraise ValueError('x')",
        status=("error",),
        stdout_equals="",
    ),
    Attack(
        "excepthook_that_fails",
        "import sys\ndef hook(*_): raise RuntimeError('hook')\nsys.excepthook = hook\n1 / 0",
        status=("error",),
    ),
    Attack(
        "excepthook_that_leaves",
        "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\n1 / 0",
        status=("ok", "error"),
        must_not=(DEAD,),
    ),
    Attack("exit_of_a_huge_number", "import sys\nsys.exit(10**30)", status=("error",)),
    Attack("exit_of_minus_one", "import sys\nsys.exit(-1)", status=("error",)),
    Attack("exit_true", "import sys\nsys.exit(True)", status=("error",)),
    Attack("exit_none", "raise SystemExit(None)"),
    Attack(
        "exit_of_a_list",
        "import sys\nsys.exit(['no', 'way'])",
        status=("error",),
        stderr_contains=("['no', 'way']",),
    ),
    Attack(
        "exit_of_a_nasty_object",
        "import sys\nclass E:\n    def __str__(self): raise RuntimeError('nasty')\nsys.exit(E())",
        status=("error",),
        must_not=(DEAD,),
    ),
    Attack(
        "exit_of_a_subclass",
        "class E(SystemExit): pass\nraise E(4)",
        status=("error",),
    ),
    Attack(
        "exit_in_a_thread",
        r"""
import os, threading, time
print("a", flush=True)
threading.Thread(target=os._exit, args=(0,)).start()
time.sleep(60)
""",
        stdout_equals="a\n",
    ),
    Attack(
        "system_exit_in_a_thread",
        "import sys, threading\nthreading.Thread(target=sys.exit, args=(5,)).start()\nprint('b')",
        stdout_equals="b\n",
    ),
    Attack(
        "exit_from_atexit",
        "import atexit, os\natexit.register(os._exit, 5)\nprint('a', flush=True)",
        status=("error",),
        stdout_equals="a\n",
    ),
    Attack(
        "ended_by_the_deadlines_signal",
        "import os, signal\nos.kill(os.getpid(), signal.SIGXCPU)",
        status=("killed", "timeout"),
    ),
    Attack(
        "audit_hook_that_refuses",
        r"""
import sys
def hook(event, arguments): raise RuntimeError("refused")
sys.addaudithook(hook)
""",
        status=("ok", "error", "killed"),
        must_not=(DEAD,),
    ),
    Attack(
        "no_builtins",
        "import builtins\nprint('a', flush=True)\nvars(builtins).clear()",
        status=("ok", "error", "killed"),
        must_not=(DEAD,),
        stdout_equals="a\n",
    ),
    Attack(
        "no_modules",
        "import sys\nprint('a', flush=True)\n"
        "sys.meta_path.clear(); sys.path.clear(); sys.modules.clear()",
        status=("ok", "error", "killed"),
        must_not=(DEAD,),
    ),
    Attack(
        "tracing_everything",
        r"""
import sys, threading
def trace(*_): raise KeyboardInterrupt
threading.settrace(trace); threading.setprofile(trace); sys.setprofile(trace)
""",
        status=("ok", "error", "killed"),
        must_not=(DEAD,),
    ),
    Attack(
        "patched_libraries",
        r"""
import random, sympy, numpy
sympy.pi = sympy.Integer(3); sympy.S.Half = None; sympy.core.cache.clear_cache()
type(sympy.S.One).__add__ = lambda *_: sympy.S.Zero
numpy.add = None; random.random = lambda: 4
print("patched")
""",
        must_not=(SEEN,),
        timeout=10,
        stdout_equals="patched\n",
        then=r"""
import random, sympy, numpy
print(sympy.pi == 3 or sympy.S.One + 1 != 2 or numpy.add is None or random.random() == 4)
""",
    ),
    Attack(
        "modules_left_to_import",
        r"""
import os, site, sys
evil = "import builtins; builtins.EVIL = True\n"
version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
for place in {os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"], "/tmp"}:
    for name in ("random.py", "colorsys.py", "numpy.py", "json/__init__.py", "sitecustomize.py",
                 "usercustomize.py", f".local/lib/{version}/site-packages/evil.pth",
                 ".python_history", "main.py", "__pycache__/colorsys.cpython-311.pyc"):
        path = os.path.join(place, name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "w").write(evil)
        except OSError: pass
print("left")
""",
        must_not=(SEEN, FILES),
        stdout_equals="left\n",
        then=r"""
import builtins, json, random, colorsys, numpy
print(hasattr(builtins, "EVIL"))
""",
    ),
    Attack(
        "environment_left",
        r"""
import os, locale, time
os.environ.update(PYTHONPATH="/tmp", PYTHONSTARTUP="x", LD_PRELOAD="x", TZ="Asia/Tokyo", LANG="xx")
os.putenv("PYTHONHOME", "/tmp"); time.tzset(); os.umask(0); os.nice(5)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
""",
        must_not=(SEEN,),
        then="import os, time\nprint('TZ' in os.environ or time.timezone != 0)",
    ),
    Attack(
        "attributes_of_the_directory",
        r"""
import os
for place in (".", os.environ["TMPDIR"], "/tmp", "/dev/shm"):
    try: os.setxattr(place, "user.note", b"answer is 42")
    except OSError as e: print(e.errno)
""",
        must_not=(SEEN,),
        then=r"""
import os
found = []
for place in (".", os.environ["TMPDIR"], "/tmp", "/dev/shm"):
    try: found += os.listxattr(place)
    except OSError: pass
print(found)
""",
    ),
    Attack(
        "times_of_the_directory",
        r"""
import os
for place in (".", os.environ["TMPDIR"], "/tmp", "/dev/shm"):
    try: os.utime(place, (42, 42))
    except OSError: pass
""",
        must_not=(SEEN,),
        then=r"""
import os
places = [p for p in (".", os.environ["TMPDIR"], "/tmp", "/dev/shm") if os.path.exists(p)]
print(any(os.stat(place).st_mtime == 42 for place in places))
""",
    ),
    Attack(
        "mode_of_the_directory",
        "import os\nos.chmod('.', 0)\nprint('locked')",
        must_not=(DEAD, FILES),
        stdout_equals="locked\n",
        status_without_namespaces=("error",),
    ),
    Attack(
        "no_directory",
        "import os, shutil\nhere = os.getcwd()\nos.chdir('/')\n"
        "shutil.rmtree(here, ignore_errors=True)",
        must_not=(DEAD, FILES),
    ),
    Attack(
        "working_on_in_a_copy",
        r"""
import os, sys
if os.fork() == 0:
    os.dup2(1, 5); os.setsid()
    print("child", flush=True)
    os._exit(7)
os.wait()
print("parent")
sys.stdout.flush()
if os.fork():
    os._exit(0)
print("late child")
""",
        status=("ok",),
        stdout_contains=("child", "parent"),
        status_without_namespaces=("error",),
    ),
    Attack(
        "same_numbers",
        "import random, numpy, sympy\nprint(random.random(), numpy.random.rand(), {'a', 'b', 'c'}, "
        "sympy.core.random.random(), [hash(str(n)) for n in range(3)])",
        then="@same",
    ),
    Attack(
        "stdin_through_the_back_door",
        r"""
import os, sys
print(sys.stdin.readline().strip())
for fd in (0, 1, 2):
    try: os.write(0, b"more"); print("ESCAPED" if os.fstat(0).st_size > 20 else "BLOCKED")
    except OSError as e: print("BLOCKED", e.errno)
""",
        stdin="one\ntwo\n",
        must_not=(ESCAPED,),
        stdout_contains=("one\n",),
    ),
]
