"""The soak's programs: nine in ten as a model would write them, one in ten hostile.

The hostile ones belong inside tests/sandbox/guard.py and nowhere else.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sandbox import Result

SHORT = 0.2  # seconds, for programs that end by their deadline only
ANY = frozenset(("ok", "error", "timeout", "memory", "killed"))
HARMLESS_SECONDS = 20.0


@dataclass(frozen=True)
class Program:
    """What is run and what may come of it. `stdout` None: anything."""

    kind: str
    code: str
    statuses: frozenset[str]
    timeout: float = HARMLESS_SECONDS
    stdout: str | None = None
    stdin: str | None = None
    hostile: bool = False

    def wrong(self, result: Result) -> str:
        """What is not as expected, in one line; "" where all is."""
        if result.status not in self.statuses:
            end = result.stderr.strip().rpartition("\n")[2][:200]
            return (
                f"{self.kind}: {result.status}, expected {'/'.join(sorted(self.statuses))}: {end}"
            )
        if self.stdout is not None and result.stdout != self.stdout:
            return f"{self.kind}: {result.stdout[:80]!r}, expected {self.stdout[:80]!r}"
        return ""


def programs(seed: int, hostile_share: float, jailed: bool) -> Iterator[Program]:
    """Endless; the same for the same arguments.

    Where the programs are not `jailed` (below the level "full") the kinds that only a
    jail stops are left out: they would end the caller as well.
    """
    choose = random.Random(seed)
    hostile = [kind for kind in HOSTILE if jailed or kind not in NEEDS_JAIL]
    weights = [kind.weight for kind in HARMLESS.values()]
    while True:
        if choose.random() < hostile_share:
            yield _hostile(choose.choice(hostile))
        else:
            yield _harmless(choose.choices(list(HARMLESS), weights)[0], choose.randrange(2, 10_000))


@dataclass(frozen=True)
class Kind:
    """Harmless programs of one kind: all begin with `n = ...`, and `answer(n)` is printed."""

    weight: int
    code: str
    answer: Callable[[int], object]
    status: str = "ok"


HARMLESS = {
    "print": Kind(30, "print(n * 7)", lambda n: n * 7),
    "json and re": Kind(
        15,
        "import json, re\n"
        "text = json.dumps([{'a': k} for k in range(n, n + 200)])\n"
        "print(sum(map(int, re.findall(r'[0-9]+', text))))",
        lambda n: 200 * n + 19_900,
    ),
    "files": Kind(
        10,
        "import os\nassert os.listdir() == [], os.listdir()\n"
        "with open('a', 'w') as f: f.write(str(n))\n"
        "print(os.listdir(), open('a').read())",
        lambda n: f"['a'] {n}",
    ),
    "stdin": Kind(10, "print(input()[::-1])", lambda n: str(n)[::-1]),
    "exception": Kind(10, "print(n)\nprint(undefined)", lambda n: n, "error"),
    "numpy": Kind(
        15,
        "import numpy as np\nprint(int((np.eye(50) * n).sum()), np.linalg.matrix_rank(np.eye(9)))",
        lambda n: f"{50 * n} 9",
    ),
    "sympy": Kind(
        10,
        "from sympy import factor, symbols\nx = symbols('x')\nprint(factor(x**2 - n * n))",
        lambda n: f"(x - {n})*(x + {n})",
    ),
}


def _harmless(kind: str, n: int) -> Program:
    """Its answer depends on `n`, so that a mixed-up answer is noticed."""
    found = HARMLESS[kind]
    return Program(
        kind,
        f"n = {n}\n{found.code}",
        frozenset((found.status,)),
        stdin=f"{n}\n",
        stdout=f"{found.answer(n)}\n",
    )


def _hostile(kind: str) -> Program:
    statuses, timeout, code = HOSTILE[kind]
    allowed = frozenset(statuses.split()) or ANY
    return Program(kind, code, allowed, timeout=timeout, hostile=True)


NEEDS_JAIL = ("fork bomb", "kill everything", "kill the group", "kill the parent")
# kind: statuses allowed ("" for any), deadline in seconds, program
HOSTILE: dict[str, tuple[str, float, str]] = {
    "endless loop": ("timeout", SHORT, "while True: pass"),
    "endless sleep": ("timeout", SHORT, "import time\ntime.sleep(600)"),
    "deaf to signals": (
        "timeout",
        SHORT,
        "import signal\n"
        "for n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\n"
        "while True: pass",
    ),
    "stops itself": (
        "timeout",
        SHORT,
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass",
    ),
    "one great allocation": ("memory error", 2.0, "x = bytearray(1 << 40)"),
    "memory bomb": (
        "memory error killed timeout",
        2.0,
        "x = []\nwhile True: x.append(bytearray(1 << 24))",
    ),
    "memory bomb in children": (
        "",
        1.0,
        "import os, time\n"
        "for n in range(12):\n"
        "    if os.fork() == 0:\n"
        "        x = bytearray(b'x') * (60 << 20)\n"
        "        time.sleep(60)\n"
        "time.sleep(60)",
    ),
    "fork bomb": (
        "",
        SHORT,
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    ),
    "thread storm": (
        "",
        0.5,
        "import threading, time\n"
        "while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    ),
    "output flood": (
        "killed timeout",
        1.0,
        "import os\nblock = b'x' * (1 << 20)\nwhile True: os.write(1, block)",
    ),
    "error flood": (
        "killed timeout",
        1.0,
        "import sys\nwhile True: print('x' * 1000, file=sys.stderr)",
    ),
    "kill everything": ("", 1.0, "import os\nos.kill(-1, 9)"),
    "kill the group": ("", 1.0, "import os\nos.killpg(0, 9)"),
    "kill the parent": ("", 1.0, "import os\nos.kill(os.getppid(), 9)"),
    "fills its directory": (
        "error killed timeout memory",
        1.0,
        "for n in range(10**6):\n    with open(f'{n}', 'wb') as f: f.write(b'x' * (1 << 22))",
    ),
    "fills /tmp with names": (
        "",
        1.0,
        "import tempfile\nwhile True: tempfile.mkstemp()",
    ),
    "os._exit": ("error", 1.0, "import os\nprint('half', end='')\nos._exit(77)"),
    "segmentation fault": ("killed", 1.0, "import ctypes\nctypes.string_at(0)"),
    "recursion": ("error", 2.0, "def f(): f()\nf()"),
    "recursion without limit": (
        "error killed memory timeout",
        2.0,
        "import sys\nsys.setrecursionlimit(10**9)\n"
        "class A:\n    def __getattr__(self, name): return getattr(self, name)\n"
        "A().b",
    ),
    "great message": ("error memory", 2.0, "raise ValueError('x' * 10**7)"),
    "daemon that stays": (
        "ok",
        2.0,
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()",
    ),
    "closes its streams": ("ok error", 1.0, "import os\nos.closerange(0, 64)"),
    "noise": ("ok", 1.0, "import os\nos.write(1, os.urandom(1 << 16))"),
}
