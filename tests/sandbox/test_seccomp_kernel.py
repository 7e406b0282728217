"""The filter under the real kernel: what it refuses, and which programs go on working."""

import json
import platform
import signal
import subprocess
import sys

import pytest

from sandbox import seccomp

needs_seccomp = pytest.mark.skipif(
    bool(seccomp.available()), reason=f"no seccomp: {seccomp.available()}"
)
CHILD = """
import ctypes, errno, json, os, platform, sys
from sandbox import seccomp
from sandbox.syscalls import NUMBERS
call = NUMBERS[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
def raw(name, *arguments):
    ctypes.set_errno(0)
    done = libc.syscall(*map(ctypes.c_long, (call.get(name, name), *arguments)))
    return errno.errorcode[ctypes.get_errno()] if done < 0 else done
def tried(action):
    try:
        return action()
    except OSError as error:
        return errno.errorcode[error.errno]
own = os.getpid() if {own!r} else None
bpf = seccomp.assemble(platform.machine(), processes={processes!r}, own_pid=own)
{before}
seccomp.install(bpf)
found = {{}}
{body}
print(json.dumps(found))
"""


def _child(body: str, before: str = "", processes: bool = True, own: bool = False):
    code = CHILD.format(body=body, before=before, processes=processes, own=own)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def _found(*args, **kwargs) -> dict[str, object]:
    done = _child(*args, **kwargs)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_seccomp
def test_the_kernel_refuses_what_the_filter_does():
    found = _found("""
import fcntl, socket, resource
r, w = os.pipe()
found = {
    "mode": [line for line in open("/proc/self/status") if line.startswith(("NoN", "Seccomp:"))],
    "clone3": raw("clone3", 0, 0),
    "unknown": raw(600),
    "unshare": raw("unshare", 0),
    "clone new user": raw("clone", 0x10000011, 0, 0, 0, 0),
    "ptrace": raw("ptrace", 0, 0, 0, 0),
    "memfd": tried(lambda: os.memfd_create("x")),
    "socket": tried(socket.socket),
    "local socket": tried(lambda: socket.socket(socket.AF_UNIX)),
    "datagrams": tried(lambda: socket.socketpair(type=socket.SOCK_DGRAM)),
    "owner": tried(lambda: fcntl.fcntl(r, fcntl.F_SETOWN, os.getpid())),
    "pipe size": tried(lambda: fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 1 << 20)),
    "limits of another": tried(lambda: resource.prlimit(1, resource.RLIMIT_NOFILE)),
    "nice of another": tried(lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)),
    "processors of another": tried(lambda: os.sched_setaffinity(os.getppid(), {0})),
    "device": tried(lambda: os.mknod("/proc/self/device", 0o60600)),
    "one more filter": tried(lambda: seccomp.install(bpf)),
}
""")
    assert found.pop("mode") == ["NoNewPrivs:\t1\n", "Seccomp:\t2\n"]
    assert found.pop("clone3") == found.pop("unknown") == "ENOSYS"
    assert set(found.values()) == {"EPERM"}, found


@needs_seccomp
def test_the_kernel_keeps_signals_to_the_process_itself():
    found = _found(
        """
import signal, threading
signal.signal(signal.SIGUSR1, lambda *_: found.update(heard=True))
os.kill(os.getpid(), signal.SIGUSR1)
signal.pthread_kill(threading.get_ident(), 0)
found["parent"] = tried(lambda: os.kill(os.getppid(), 0))
found["all"] = tried(lambda: os.kill(-1, 0))
found["handle"] = tried(lambda: os.pidfd_open(os.getppid()))
""",
        own=True,
    )
    assert found == {"heard": True, "parent": "EPERM", "all": "EPERM", "handle": "EPERM"}


WORKING = """
import asyncio, concurrent.futures, mmap, select, shutil, signal, socket, sqlite3, tempfile, time
import fcntl, resource, threading
with tempfile.TemporaryDirectory() as place:
    os.chdir(place)
    open("a", "w").write("x" * 5000)
    shutil.copyfile("a", "b"); shutil.copyfile("a", "c"); os.makedirs("tree/below")
    os.symlink("a", "s"); os.link("a", "h"); os.rename("c", "d"); os.mkfifo("p")
    found["marks"] = [
        tried(lambda: shutil.copy2("a", "tree/a")),
        tried(lambda: os.chmod("a", 0o600)),
        tried(lambda: os.utime("a", (1, 1))),
        tried(lambda: os.chown("a", os.getuid(), os.getgid())),
        tried(lambda: os.fchmod(os.open("a", os.O_RDONLY), 0o600)),
        os.stat("a").st_mode & 0o777,
    ]
    with open("b", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 9000); fcntl.lockf(file, fcntl.LOCK_EX)
        mmap.mmap(file.fileno(), 9000)[0]
    found["files"] = sorted(os.listdir()), os.stat("b").st_size
    base = sqlite3.connect("base")
    base.execute("create table t(a)"); base.execute("insert into t values (7)"); base.commit()
    found["sqlite"] = base.execute("select a from t").fetchall()
    os.chdir("/")
with concurrent.futures.ThreadPoolExecutor(3) as pool:
    found["threads"] = list(pool.map(abs, (-1, -2)))
found["asyncio"] = asyncio.run(asyncio.sleep(0.001, 5))
def late(*_): raise TimeoutError
signal.signal(signal.SIGALRM, late); signal.setitimer(signal.ITIMER_REAL, 0.01)
try: time.sleep(9)
except TimeoutError: found["timer"] = True
one, two = socket.socketpair(); one.sendall(b"x"); found["pair"] = two.recv(9).decode()
poll = select.epoll(); poll.register(one); poll.poll(0); select.select([one], [], [], 0)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.sched_getaffinity(0); os.nice(1)
found["random"] = len(os.getrandom(4))
"""
MARKS = ["tree/a", None, None, None, None]
WORKS = {
    "files": [["a", "b", "d", "h", "p", "s", "tree"], 9000],
    "sqlite": [[7]],
    "threads": [1, 2],
    "asyncio": 5,
    "timer": True,
    "pair": "x",
    "random": 4,
}


@needs_seccomp
@pytest.mark.parametrize("own", [True, False])
def test_programs_of_one_process_work(own):
    start = """
found["fork"] = tried(os.fork)
found["exec"] = tried(lambda: os.execv("/bin/true", ["true"]))
"""
    # Outside a jail these would reach the files of others: they do nothing.
    expected = {
        **WORKS,
        "marks": [*MARKS, 0o644 if own else 0o600],
        "fork": "EPERM",
        "exec": "EPERM",
    }
    assert _found(WORKING + start, processes=False, own=own) == expected


@needs_seccomp
def test_programs_of_many_processes_work():
    start = """
import multiprocessing, subprocess
shell = ["/bin/sh", "-c", "cat /dev/null | echo $((6 * 7))"]
found["shell"] = subprocess.check_output(shell, text=True)
with multiprocessing.Pool(2) as pool: found["pool"] = pool.map(abs, (-1, -2))
sleeper = subprocess.Popen(["sleep", "60"], start_new_session=True)
sleeper.terminate(); found["ended"] = sleeper.wait()
async def talk():
    child = await asyncio.create_subprocess_exec("echo", "hi", stdout=-1)
    return (await child.communicate())[0].decode()
found["talk"] = asyncio.run(talk())
"""
    expected = {"shell": "42\n", "pool": [1, 2], "ended": -signal.SIGTERM, "talk": "hi\n"}
    assert _found(WORKING + start) == {**WORKS, "marks": [*MARKS, 0o600], **expected}


@needs_seccomp
@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is an instruction of x86")
def test_a_call_by_the_32_bit_table_kills():
    before = """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("b814000000cd80c3"))  # getpid by its number there
getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
assert getpid() == os.getpid()
"""
    done = _child("print('before', flush=True); getpid(); print('after')", before)
    if "AssertionError" in done.stderr or done.returncode == -signal.SIGSEGV:
        pytest.skip("this kernel has no 32 bit calls")
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "before\n")


@needs_seccomp
def test_install_says_what_the_kernel_said():
    code = "from sandbox import seccomp\nseccomp.install(b'\\0' * 8)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "OSError: [Errno 22] seccomp filter: Invalid argument"
