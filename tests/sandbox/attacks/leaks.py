"""Attempts to learn what a program has no business to know."""

from tests.sandbox.attacks.attack import EARLIER, ESCAPED, SECRET, Attack

NEVER = (ESCAPED,)

ATTACKS = [
    Attack(
        "earlier_jobs_in_memory",
        r"""
import ctypes, re
pattern = re.compile(bytes.fromhex("5345435245542d") + b"[0-9a-f]{16}")
found = []
with open("/proc/self/maps") as maps: lines = maps.readlines()
for line in lines:
    span, rights, *_ = line.split()
    first, last = (int(part, 16) for part in span.split("-"))
    if rights.startswith("rw") and last - first < 1 << 28:
        found += pattern.findall(ctypes.string_at(first, last - first))
print("ESCAPED" if found else "clean", len(found))
""",
        must_not=(*NEVER, EARLIER),
        timeout=10,
    ),
    Attack(
        "earlier_source_lines",
        r"""
import linecache, sys, traceback
text = str(linecache.cache) + str(vars(sys.modules["__main__"])) + str(sys.argv)
print("ESCAPED" if bytes.fromhex("5345435245542d").decode() in text else "clean")
""",
        must_not=(*NEVER, EARLIER),
    ),
    Attack(
        "readable_secrets",
        r"""
import glob, os
hits = []
for pattern in ("/etc/shadow", "/etc/gshadow", "/etc/ssh/*_key", "/root/.*", "/home/*/.ssh/*",
                "/var/run/secrets/*", "/run/secrets/*", "/etc/sudoers", "/var/lib/*/*key*",
                "/root/.config/*", "/var/log/*", "/etc/kubernetes/*", "/boot/*", "/etc/fstab"):
    for path in glob.glob(pattern):
        try: hits += [path] if open(path, "rb").read(1) else []
        except OSError: pass
print("ESCAPED" if hits else "BLOCKED", hits[:5])
""",
        must_not=NEVER,
    ),
    Attack(
        "listeners_of_the_host",
        r"""
port = "%04X" % {{CANARY_PORT}}
text = ""
for name in ("tcp", "tcp6", "udp", "unix"):
    try: text += open(f"/proc/net/{name}").read()
    except OSError: pass
print("ESCAPED" if f":{port} " in text or "canary" in text else "clean")
""",
        must_not=NEVER,
    ),
    Attack(
        "host_name",
        r"""
import os, socket
names = {os.uname().nodename, socket.gethostname(), os.uname()[1]}
print("clean" if names <= {"sandbox", "localhost"} else "ESCAPED")
""",
        must_not=NEVER,
    ),
    Attack(
        "shared_mappings",
        r"""
lines = [line for line in open("/proc/self/maps") if {"w", "s"} <= set(line.split()[1])]
print("ESCAPED" if lines else "clean", lines[:3])
""",
        must_not=NEVER,
    ),
    Attack(
        "descriptor_table",
        r"""
import os
listing = os.open("/proc/self/fd", os.O_RDONLY)
found = sorted(map(int, os.listdir(listing)))
known = {0, 1, 2, listing, listing + 1}
print("clean" if set(found) <= known else "ESCAPED", found)
""",
        must_not=NEVER,
    ),
    Attack(
        "environment_of_python",
        r"""
import os, sys
text = str(os.environ) + str(sys.path) + str(sys.orig_argv) + str(sys.flags)
for name in ("cmdline", "environ", "comm"):
    try: text += open(f"/proc/self/{name}").read()
    except OSError: pass
print("ESCAPED" if "SECRET" in text or "{{SECRET_DIR}}" in text else "clean")
""",
        must_not=(*NEVER, SECRET),
    ),
    Attack(
        "processes_of_others",
        r"""
import os
names = []
for pid in range(1, 32768):
    try: names.append(open(f"/proc/{pid}/comm").read().strip())
    except OSError: pass
print("ESCAPED" if len(names) > 4 else "clean", names)
""",
        must_not=NEVER,
    ),
    Attack(
        "uninitialised_memory",
        r"""
import ctypes, mmap
needle = bytes.fromhex("5345435245542d")
hits = 0
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for size in (64, 256, 1024, 4096, 65536, 1 << 18, 1 << 20, 1 << 22) * 20:
    address = libc.malloc(size)
    hits += needle in ctypes.string_at(address, size)
print("ESCAPED" if hits else "clean", hits)
""",
        must_not=(*NEVER, EARLIER),
    ),
]
