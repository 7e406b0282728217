"""Attempts to use up time, memory, processes, files or output, or to outlast the deadline."""

from tests.sandbox.attacks.attack import (
    ALIVE,
    CAPPED,
    DEAD,
    ESCAPED,
    GROWTH,
    OWN_TMPFS,
    RESIDENT,
    WAITS,
    Attack,
)

SOON = 1  # seconds until the deadline
LATE = 1.8  # seconds from start to result there

ATTACKS = [
    Attack(
        "stops_itself",
        "import os, signal\nprint('a', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)",
        status=("timeout",),
        must_not=(DEAD,),
        stdout_equals="a\n",
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "stops_its_group",
        "import os, signal\nos.kill(0, signal.SIGSTOP)",
        status=("timeout",),
        must_not=(DEAD,),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "deaf_to_all_signals",
        r"""
import signal
for number in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: pass
""",
        status=("timeout",),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "handler_that_goes_on",
        r"""
import signal, time
def again(*_): print("not yet", flush=True)
for number in (signal.SIGXCPU, signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
    signal.signal(number, again)
while True: time.sleep(0.01)
""",
        status=("timeout",),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "storm_of_timers",
        r"""
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)
while True: pass
""",
        status=("timeout",),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "many_sleepers",
        r"""
import os, time
n = 0
try:
    while n < 2000:
        if os.fork() == 0: time.sleep(600); os._exit(0)
        n += 1
except OSError as e: print("BLOCKED", e.errno)
print("ESCAPED" if n >= 2000 else "bounded")
""",
        must_not=(ESCAPED, ALIVE),
        timeout=10,
        status_without_namespaces=("error",),
    ),
    Attack(
        "comet",
        r"""
import os, sys
print("gone", flush=True)
while True:
    if os.fork(): os._exit(0)
    os.setsid()
""",
        must_not=(ALIVE, DEAD),
        status=("ok",),
        max_wall_s=1.5,
        status_without_namespaces=("error",),
    ),
    Attack(
        "many_threads",
        r"""
import threading, time
n = 0
try:
    while n < 5000:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); n += 1
except (RuntimeError, MemoryError): pass
print("ESCAPED" if n >= 5000 else "bounded")
""",
        must_not=(ESCAPED, ALIVE),
        timeout=10,
    ),
    Attack(
        "threads_that_breed",
        r"""
import threading
def f():
    try: threading.Thread(target=f).start()
    except RuntimeError: pass
threading.Thread(target=f).start()
while True: f()
""",
        status=("timeout", "memory", "error", "killed"),
        must_not=(ALIVE, DEAD),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "orphan_with_our_stdout",
        r"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(600)
    os._exit(0)
print("done", flush=True)
os._exit(0)
""",
        must_not=(ALIVE, WAITS),
        stdout_equals="done\n",
        max_wall_s=1.5,
        status_without_namespaces=("error",),
    ),
    Attack(
        "orphan_that_prints_on",
        r"""
import os, sys
print("done", flush=True)
if os.fork() == 0:
    os.setsid()
    while True: os.write(1, b"x" * 65536)
os._exit(0)
""",
        must_not=(ALIVE, CAPPED, GROWTH, WAITS),
        max_wall_s=1.5,
        status_without_namespaces=("error",),
    ),
    Attack(
        "slow_drip",
        "import time\nwhile True: print('.', end='', flush=True); time.sleep(0.05)",
        status=("timeout",),
        stdout_contains=("....",),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "flood_on_stderr",
        "import sys\nwhile True: sys.stderr.write('e' * 10000)",
        status=("timeout", "killed"),
        must_not=(CAPPED, GROWTH),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "flood_of_tiny_writes",
        "import os\nwhile True: os.write(1, b'a'); os.write(2, b'b')",
        status=("timeout", "killed"),
        must_not=(CAPPED, GROWTH),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "flood_then_crash",
        "import os\nos.write(1, b'a' * 50_000_000)\nos.write(2, b'b' * 50_000_000)\nos.abort()",
        status=("killed",),
        must_not=(CAPPED, GROWTH),
        timeout=10,
    ),
    Attack(
        "prompts_without_end",
        "while True:\n    try: input('again? ')\n    except EOFError: pass",
        status=("timeout", "killed"),
        must_not=(CAPPED, GROWTH),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "many_empty_files",
        r"""
n = 0
try:
    while n < 200_000: open(str(n), "w").close(); n += 1
except OSError as e: print("BLOCKED", e.errno)
print("ESCAPED" if n >= 200_000 else "bounded")
""",
        status=("ok", "timeout"),
        must_not=(ESCAPED,),
        timeout=8,
        needs=(OWN_TMPFS,),
    ),
    Attack(
        "unlinked_files",
        r"""
import os
kept, n = [], 0
try:
    while n < 2000:
        kept.append(open("f", "wb", 0)); os.unlink("f"); n += kept[-1].write(b"x" * (8 << 20)) >> 20
except OSError as e: print("BLOCKED", e.errno)
print("ESCAPED" if n > 100 else "bounded", n)
""",
        must_not=(ESCAPED,),
        timeout=8,
        needs=(OWN_TMPFS,),
    ),
    Attack(
        "shared_memory_filled",
        r"""
n = 0
try:
    with open("/dev/shm/fill", "wb", 0) as f:
        while n < 400: n += f.write(b"x" * (1 << 20)) >> 20
except OSError as e: print("BLOCKED", e.errno)
print("ESCAPED" if n > 100 else "bounded", n)
""",
        must_not=(ESCAPED,),
        timeout=8,
    ),
    Attack(
        "sparse_file",
        r"""
import os
for size in (1 << 40, 1 << 34):
    try: os.truncate(os.open("sparse", os.O_CREAT | os.O_RDWR), size); print("ESCAPED")
    except OSError as e: print("BLOCKED", e.errno)
try: os.posix_fallocate(os.open("sparse", os.O_RDWR), 0, 1 << 34); print("ESCAPED")
except OSError as e: print("BLOCKED", e.errno)
""",
        must_not=(ESCAPED,),
    ),
    Attack(
        "shared_anonymous_memory",
        r"""
import mmap
kept = []
try:
    for _ in range(64):
        kept.append(mmap.mmap(-1, 64 << 20))
        for offset in range(0, 64 << 20, 4096): kept[-1][offset] = 1
except (OSError, MemoryError, ValueError) as e: print("BLOCKED", e)
print("ESCAPED" if len(kept) > 20 else "bounded", len(kept))
""",
        status=("ok", "killed", "memory"),
        must_not=(ESCAPED, RESIDENT),
        timeout=10,
        needs=("memory cgroup",),
    ),
    Attack(
        "descriptors_in_flight",
        r"""
import os, socket
a, b = socket.socketpair()
a.setblocking(False)
n = 0
try:
    while n < 5000:
        r, w = os.pipe(); os.set_blocking(w, False); os.write(w, b"x" * 65536)
        socket.send_fds(a, [b"x"], [r, w]); os.close(r); os.close(w); n += 1
except OSError as e: print("BLOCKED", e.errno)
print("ESCAPED" if n >= 5000 else "bounded", n)
""",
        must_not=(ESCAPED,),
        timeout=5,
    ),
    Attack(
        "packed_zeros",
        r"""
import zlib
packer = zlib.compressobj(9, zlib.DEFLATED, -15)
block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
print(len(zlib.decompressobj(-15).decompress(block * 4000)))
""",
        status=("memory",),
        timeout=10,
    ),
    Attack(
        "lazy_numpy",
        "import numpy\nprint(numpy.ones(1 << 33).sum(), 'ESCAPED')",
        status=("memory",),
        must_not=(ESCAPED,),
        timeout=10,
        stderr_contains=("MemoryError",),
    ),
    Attack(
        "numpy_piece_by_piece",
        "import numpy\nl = []\nwhile True: l.append(numpy.ones(1 << 20))",
        status=("memory",),
        timeout=10,
    ),
    Attack(
        "precision_without_bound",
        "from decimal import *\ngetcontext().prec = MAX_PREC\nprint(Decimal(1) / 3)",
        status=("memory", "timeout", "error"),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "power_in_one_call",
        "7 ** (10 ** 9)",
        status=("timeout", "memory"),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "digits_in_one_call",
        "import sys\nsys.set_int_max_str_digits(0)\nprint(len(str(1 << 10**8)))",
        status=("timeout",),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "factorial_in_one_call",
        "import math\nmath.factorial(10**8)",
        status=("timeout",),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "colliding_hashes",
        "d = {}\nfor i in range(10**6): d[i * (2**61 - 1)] = i",
        status=("timeout",),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "sympy_that_hangs",
        "import sympy\nprint(sympy.primepi(10**15))",
        status=("timeout", "memory"),
        timeout=SOON,
        max_wall_s=LATE + 0.4,
    ),
    Attack(
        "destructor_that_loops",
        "class A:\n    def __del__(self):\n        while True: pass\na = A()\ndel a",
        status=("timeout",),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "destructor_that_revives",
        r"""
import gc
class A:
    def __del__(self): A(); kept.append(self)
kept = []
while True: A(); gc.collect(0)
""",
        status=("timeout", "memory", "error", "killed"),
        must_not=(DEAD,),
        timeout=4,
    ),
    Attack(
        "excepthook_that_loops",
        "import sys\ndef hook(*_):\n    while True: pass\nsys.excepthook = hook\n1 / 0",
        status=("timeout",),
        timeout=SOON,
        max_wall_s=LATE,
    ),
    Attack(
        "sleep_at_exit",
        "import atexit, time\natexit.register(time.sleep, 100)\nprint('a')",
        status=("timeout",),
        stdout_equals="a\n",
        timeout=SOON,
        max_wall_s=LATE,
    ),
]
