"""Tools for tests: what a user's file may hold, and all that can go wrong with it."""

import os
import signal
import subprocess
import sys
import time
from typing import Annotated, Literal

MADE = []  # what calls did, if they could see each other


def add(a: int, b: Annotated[int, "What is added."] = 1) -> int:
    """Adds two numbers.

    Args:
        a (int): The first
            of them.

    Returns:
        Their sum.
    """
    MADE.append(a)
    return a + b + 1000 * (len(MADE) - 1)


async def weather(
    city: str,
    unit: Literal["c", "f"] = "c",
    days: int | None = None,
    tags: list[str] | None = None,
) -> dict:
    """The weather of a city,
    as it is now."""
    return {"city": city, "sky": "clear", "unit": unit}


def act(how: str) -> object:
    """Goes wrong in one way or another."""
    return ACTS[how]()


def _spin():
    while True:
        pass


def _print():
    print("out" * 5_000_000, flush=True)
    os.write(2, b"err" * 5_000_000)
    sys.stdout.write("{")
    return "quiet"


def _linger():
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    return pid


def _start():
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid


def _return_twice():
    if os.fork() == 0:
        return "the fork's"
    time.sleep(0.2)
    return "the call's"


def _worker():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def _cycle():
    inner = []
    inner.append(inner)
    return inner


def _raise():
    raise ValueError("first line\nsecond line")


def _deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


ACTS = {
    "spin": _spin,
    "sleep": lambda: time.sleep(600),
    "print": _print,
    "linger": _linger,
    "start": _start,
    "twice": _return_twice,
    "worker": _worker,
    "cycle": _cycle,
    "raise": _raise,
    "deep": _deep,
    "set": lambda: {1},
    "nan": lambda: float("nan"),
    "big": lambda: "x" * 10_000_000,
    "big list": lambda: [0] * 5_000_000,
    "memory": lambda: len(bytearray(16 << 30)),
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "group": lambda: os.killpg(0, signal.SIGKILL),
    "exit": lambda: sys.exit(3),
    "vanish": lambda: os._exit(3),
    "environment": lambda: dict(os.environ),
    "surrogate": lambda: "\ud800",
    "none": lambda: None,
}
