"""Programs that break the interpreter that runs them, or the parser before it."""

from tests.sandbox.attacks.attack import CAPPED, DEAD, Attack

ATTACKS = [
    Attack(
        "exception_without_end",
        r"""
error = None
for n in range(200_000):
    fresh = ValueError(n)
    fresh.__cause__, error = error, fresh
raise error
""",
        status=("error", "timeout", "killed", "memory"),
        must_not=(DEAD, CAPPED),
        timeout=5,
    ),
    Attack(
        "message_that_never_ends",
        r"""
class E(Exception):
    def __str__(self): return "x" * (1 << 30)
raise E
""",
        status=("error", "memory", "killed"),
        must_not=(DEAD, CAPPED),
        timeout=5,
    ),
    Attack("long_number", "x = " + "9" * 2_000_000, status=("error",), timeout=10),
    Attack("long_line", "x = '" + "a" * 20_000_000 + "'\nprint(len(x))", timeout=20),
    Attack("many_brackets", "x = " + "[" * 100_000, status=("error", "memory"), timeout=10),
    Attack("many_lambdas", "x = " + "lambda:" * 50_000 + "0", status=("error", "memory", "killed")),
    Attack(
        "many_ifs",
        "\n".join(" " * n + "if 1:" for n in range(150)) + "\n" + " " * 150 + "pass",
        status=("error",),
        stderr_contains=("IndentationError",),
    ),
    Attack(
        "segmentation_fault",
        "import ctypes\nprint('a', flush=True)\nctypes.string_at(0)",
        status=("killed",),
        must_not=(DEAD,),
        stdout_equals="a\n",
    ),
    Attack(
        "stack_of_c_calls",
        r"""
import sys
sys.setrecursionlimit(10**9)
class A:
    def __getattr__(self, name): return getattr(self, name + "a")
A().b
""",
        status=("killed", "memory", "error", "timeout"),
        must_not=(DEAD,),
        timeout=10,
    ),
    Attack(
        "wild_pointer",
        r"""
import ctypes
for address in range(id(0) & ~0xFFF, (id(0) & ~0xFFF) + (1 << 22), 8):
    ctypes.c_uint64.from_address(address).value = 0x4141414141414141
""",
        status=("killed", "error", "timeout"),
        must_not=(DEAD,),
        timeout=5,
    ),
]
