"""A program finds nothing of the one before it, not even by reading all of its own memory."""

import pytest

from sandbox import Sandbox

MARK = "NOBODY-ELSE-MAY-READ-THIS"
# Which of the marks stand in memory that can be written; the needle itself is not spelt out.
SCAN = f"""
import ctypes
needle = b"-".join([b"NOBODY", b"ELSE", b"MAY", b"READ", b"THIS"])
found = set()
for line in open("/proc/self/maps").read().splitlines():
    span, rights, *rest = line.split()
    low, high = (int(part, 16) for part in span.split("-"))
    if not rights.startswith("rw") or "[v" in line:
        continue
    data, at = ctypes.string_at(low, high - low), -1
    while (at := data.find(needle, at + 1)) >= 0:
        found.add(data[at + {len(MARK)} : at + {len(MARK)} + 2])
print(sorted(kind for kind in found if kind[:1] == b"-"))
"""
FIRST = f"""
import sys
mark = "{MARK}"
lines = [mark + kind + str(n) for n in range(300) for kind in ("-o", "-e")]
assert "{MARK}-c"
sys.stdin.read()
print("\\n".join(line for line in lines if "-o" in line))
print("\\n".join(line for line in lines if "-e" in line), file=sys.stderr)
open("left.txt", "w").write((mark + "-f\\n") * 300)
"""


@pytest.fixture(scope="module")
def box():
    with Sandbox(workers=1, min_level="rlimits", timeout=60, output_kb=8) as box:
        yield box


def marked(kind: str) -> str:
    return "\n".join(f"{MARK}-{kind}{n}" for n in range(300))


def test_the_scan_finds_what_is_there(box):
    assert box.run(f"here = '{MARK}-x' * 2" + SCAN).stdout == "[b'-x']\n"


def test_nothing_of_a_program_is_found_by_the_next(box):
    files = {"put.txt": marked("p").encode()}
    first = box.run(FIRST, stdin=marked("i"), files=files, fetch=("left.txt",))
    assert first.status == "ok" and len(first.files["left.txt"]) == 300 * (len(MARK) + 3)
    assert f"{MARK}-o0\n" in first.stdout and f"{MARK}-e0\n" in first.stderr
    assert box.run(SCAN).stdout == "[]\n"


def test_nor_of_one_that_was_killed(box):
    box.run(f"import time\nprint('{MARK}-k', flush=True)\ntime.sleep(60)", timeout=0.3)
    assert box.run(SCAN).stdout == "[]\n"
