"""Programs that leave something behind: files that are hard to remove, helpers, shared things."""

from tests.sandbox.attacks.attack import ALIVE, ESCAPED, FILES, SEEN, Attack

EMPTY = "import os\nprint(os.listdir('.') + os.listdir(os.environ['TMPDIR']))"

ATTACKS = [
    Attack(
        "strange_names",
        r"""
import os
names = [b"\xff\xfe", b"new\nline", b"-rf", b" ", b"*", b"a" * 255, "é😀".encode(), b"\x01\x1b[2J"]
for name in names:
    open(name, "w").close()
    os.makedirs(name + b"d" if len(name) < 250 else b"dd", exist_ok=True)
print(len(os.listdir(b".")))
""",
        must_not=(FILES,),
        then=EMPTY,
        stdout_equals="16\n",
    ),
    Attack(
        "locked_tree",
        r"""
import os
for n in range(200): os.mkdir("d"); open("f", "w").close(); os.chmod("f", 0); os.chdir("d")
while True:
    before = os.stat(".").st_ino
    os.chdir("..")
    if os.path.exists("d"): os.chmod("d", 0)
    if os.stat(".").st_ino == before or not os.path.exists("f"): break
print("locked")
""",
        must_not=(FILES,),
        then=EMPTY,
        stdout_equals="locked\n",
        status_without_namespaces=("error",),
    ),
    Attack(
        "odd_files",
        r"""
import os
os.mkfifo("fifo"); os.symlink("fifo", "link"); os.symlink("nowhere", "broken")
open("f", "w").close()
for n in range(500): os.link("f", f"hard{n}")
os.mkdir("sticky"); os.chmod("sticky", 0o1000); os.chmod("f", 0o6777)
print("made")
""",
        must_not=(FILES,),
        status_without_namespaces=("error",),
        then=EMPTY,
        stdout_equals="made\n",
    ),
    Attack(
        "file_with_flags",
        r"""
import array, fcntl, os
fd = os.open("flagged", os.O_CREAT | os.O_RDWR)
for flag in (0x10, 0x20, 0x40, 0x80):
    try: fcntl.ioctl(fd, 0x40086602, array.array("l", [flag]))
    except OSError as e: print(e.errno)
for name in ("user.a", "security.capability", "trusted.a", "system.posix_acl_access"):
    try: os.setxattr("flagged", name, b"x" * 20)
    except OSError as e: print(e.errno)
""",
        must_not=(FILES,),
        then=EMPTY,
    ),
    Attack(
        "ten_thousand_files",
        r"""
import os
for n in range(100):
    os.mkdir(f"d{n}")
    for m in range(100): os.close(os.open(f"d{n}/{m}", os.O_CREAT))
print("made")
""",
        must_not=(FILES,),
        timeout=10,
        then=EMPTY,
        stdout_equals="made\n",
    ),
    Attack(
        "temporary_files",
        r"""
import os, tempfile
tempfile.mkdtemp(); tempfile.mkstemp(); tempfile.NamedTemporaryFile(delete=False)
for place in ("/tmp", "/dev/shm", "/var/tmp", os.path.expanduser("~"), "/run"):
    try: open(os.path.join(place, "left"), "w").write("x")
    except OSError: pass
""",
        must_not=(FILES, SEEN),
        then=r"""
import os
places = ("/tmp", "/dev/shm", "/var/tmp", "/run", os.environ["HOME"])
print(any(os.path.exists(f"{place}/left") for place in places))
""",
    ),
    Attack(
        "shared_memory_block",
        r"""
from multiprocessing import shared_memory
block = shared_memory.SharedMemory(name="left", create=True, size=1 << 20)
block.buf[:4] = b"note"
print("made", flush=True)
import os; os._exit(0)
""",
        must_not=(ALIVE, FILES, SEEN),
        status=("ok", "error"),
        status_without_namespaces=("error",),
        timeout=10,
        then=r"""
import os
print(os.path.exists("/dev/shm/left"))
""",
    ),
    Attack(
        "named_semaphore",
        r"""
import ctypes
l = ctypes.CDLL(None, use_errno=True)
l.sem_open.restype = ctypes.c_void_p
print(bool(l.sem_open(b"/left", 0o100, 0o666, 1)), ctypes.get_errno())
""",
        must_not=(FILES, SEEN),
        then="import os\nprint(os.path.exists('/dev/shm/sem.left'))",
    ),
    Attack(
        "system_v_objects",
        r"""
import ctypes
l = ctypes.CDLL(None, use_errno=True)
made = [(n, i, r) for n, i, r in (("shm", l.shmget(77, 4096, 0o1666), l.shmctl),
                                  ("msg", l.msgget(77, 0o1666), l.msgctl)) if i >= 0]
for _, number, remove in made: remove(number, 0, None)
print("ESCAPED" if made else "BLOCKED", made)
""",
        must_not=(ESCAPED,),
    ),
    Attack(
        "message_queue",
        r"""
import ctypes
l = ctypes.CDLL(None, use_errno=True)
made = l.mq_open(b"/left", 0o102, 0o666, None)
l.mq_unlink(b"/left")
print("ESCAPED" if made >= 0 else "BLOCKED", ctypes.get_errno())
""",
        must_not=(ESCAPED,),
    ),
    Attack(
        "pool_left_open",
        r"""
import multiprocessing, os
pool = multiprocessing.get_context("fork").Pool(3)
print(pool.map(abs, [-1, -2]), flush=True)
os._exit(0)
""",
        must_not=(ALIVE, FILES),
        stdout_equals="[1, 2]\n",
        timeout=10,
        status_without_namespaces=("error",),
    ),
    Attack(
        "spawned_pool",
        r"""
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool: print(pool.map(abs, [-1]))
""",
        status=("ok", "error", "timeout", "killed"),
        must_not=(ALIVE, FILES),
        timeout=6,
    ),
    Attack(
        "background_shell",
        "import os\n"
        "print(os.system('(sleep 600; echo x > left) & nohup sleep 600 >/dev/null 2>&1 &'))",
        must_not=(ALIVE, FILES),
        max_wall_s=1.5,
        status_without_namespaces=("ok", "error"),
    ),
    Attack(
        "writer_that_outlives_us",
        r"""
import os
if os.fork() == 0:
    os.setsid()
    while True:
        try:
            for n in range(100): open(f"late{n}", "w").write("x")
        except OSError: pass
print("done")
""",
        must_not=(ALIVE, FILES),
        then=EMPTY,
        status_without_namespaces=("error",),
        max_wall_s=1.5,
    ),
    Attack(
        "remover_that_outlives_us",
        r"""
import os, shutil
here = os.getcwd()
if os.fork() == 0:
    os.setsid()
    while True: shutil.rmtree(here, ignore_errors=True)
print("done")
""",
        must_not=(ALIVE, FILES),
        then=EMPTY,
        status_without_namespaces=("error",),
        max_wall_s=1.5,
    ),
    Attack(
        "locked_files",
        r"""
import fcntl
for path in ("/dev/null", "/dev/zero", "/etc/passwd", "/usr/bin/env"):
    try: fcntl.flock(open(path), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError: pass
print("locked")
""",
        must_not=(SEEN,),
        then=r"""
import fcntl
def held(path):
    try: fcntl.flock(open(path), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: return True
    except OSError: return False
    return False
print(any(map(held, ("/dev/null", "/dev/zero", "/etc/passwd", "/usr/bin/env"))))
""",
    ),
]
