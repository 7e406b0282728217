"""Attempts to reach what lies outside: the master, the kernel, the host's files.

None does harm where it succeeds: a file is opened and not written, a value is set to
what it was, a call gets no arguments that it could act on.
"""

from tests.sandbox.attacks.attack import ALIVE, CHECKPOINT, DEAD, ESCAPED, SECRET, SEEN, Attack

NEVER = (ESCAPED,)

ATTACKS = [
    Attack(
        "descriptors_of_others",
        r"""
import os
hits = []
try: pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
except OSError: pids = map(str, range(1, 500))
for pid in pids:
    if int(pid) != os.getpid():
        try: hits.append((pid, os.listdir(f"/proc/{pid}/fd")))
        except OSError: pass
print("ESCAPED" if hits else "BLOCKED", hits)
""",
        must_not=NEVER,
    ),
    Attack(
        "files_of_the_master",
        r"""
import os
hits = []
for pid in {1, os.getppid(), {{CANARY_PID}}} - {0}:
    for name in ("mem", "environ", "maps", "syscall", "stack", "auxv", "clear_refs"):
        try: open(f"/proc/{pid}/{name}", "rb").read(1); hits.append((pid, name))
        except OSError: pass
    for name in ("root", "cwd", "exe", "fd/0", "ns/net", "ns/mnt"):
        try: os.stat(f"/proc/{pid}/{name}"); hits.append((pid, name))
        except OSError: pass
print("ESCAPED" if hits else "BLOCKED", hits)
""",
        must_not=NEVER,
    ),
    Attack(
        "secret_through_a_root",
        r"""
import os
for path in ("/proc/1/root", "/proc/{{CANARY_PID}}/root", f"/proc/{os.getppid()}/root", "/.."):
    try: print(open(path + "{{SECRET_FILE}}").read(), "ESCAPED")
    except OSError as e: print("BLOCKED", e.errno)
""",
        must_not=(*NEVER, SECRET),
    ),
    Attack(
        "every_signal_to_the_master",
        r"""
import os
sent = 0
for number in range(1, 65):
    for pid in {1, os.getppid()}:
        try: os.kill(pid, number); sent += 1
        except OSError: pass
print("still here")
""",
        must_not=(DEAD,),
        stdout_equals="still here\n",
    ),
    Attack(
        "signals_by_pidfd",
        r"""
import os, signal
for pid in (1, os.getppid(), {{CANARY_PID}}):
    try:
        fd = os.pidfd_open(pid)
        for number in (signal.SIGSTOP, signal.SIGKILL): signal.pidfd_send_signal(fd, number)
    except OSError as e: print("BLOCKED", e.errno)
print("still here")
""",
        must_not=(DEAD,),
        stdout_contains=("still here",),
    ),
    Attack(
        "orders_to_others",
        r"""
import os, resource
p = os.getppid()
nice = os.getpriority(os.PRIO_PROCESS, 0)
hits = []
def attempt(name, f):
    try: f(); hits.append(name)
    except (OSError, ValueError): pass
for pid in {p, {{CANARY_PID}}} - {0}:
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_AS):
        attempt("prlimit", lambda: resource.prlimit(pid, limit, resource.prlimit(pid, limit)))
    attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, nice))
    attempt("affinity", lambda: os.sched_setaffinity(pid, os.sched_getaffinity(0)))
    attempt("scheduler", lambda: os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0)))
attempt("priority of the user", lambda: os.setpriority(os.PRIO_USER, 0, nice))
attempt("priority of the group", lambda: os.setpriority(os.PRIO_PGRP, os.getpgid(p), nice))
print("ESCAPED" if hits else "BLOCKED", hits)
""",
        must_not=NEVER,
    ),
    Attack(
        "become_root",
        r"""
import os
hits = []
for name, arguments in (("setuid", 1), ("setgid", 1), ("seteuid", 1), ("setegid", 1),
                        ("setreuid", 2), ("setresuid", 3), ("setresgid", 3)):
    try: getattr(os, name)(*[0] * arguments); hits.append(name)
    except OSError: pass
try: os.setgroups([0]); hits.append("setgroups")
except OSError: pass
print("ESCAPED" if hits else "BLOCKED", hits)
""",
        must_not=NEVER,
    ),
    Attack(
        "privileges",
        r"""
import ctypes
l = ctypes.CDLL(None, use_errno=True)
held = (ctypes.c_uint32 * 6)()
l.capget((ctypes.c_uint32 * 2)(0x20080522, 0), held)
no_new_privileges, filtered = l.prctl(39, 0, 0, 0, 0), l.prctl(21, 0, 0, 0, 0)
good = not any(held) and no_new_privileges == 1 and filtered == 2
print("clean" if good else "ESCAPED", list(held), no_new_privileges, filtered)
""",
        must_not=NEVER,
    ),
    Attack(
        "mounts",
        r"""
import ctypes
l = ctypes.CDLL(None, use_errno=True)
r = [
    l.mount(b"none", b"/tmp", b"tmpfs", 0, None),
    l.mount(b"/", b"/tmp", None, 4096, None),
    l.mount(b"none", b"/", None, 32 | 4096, None),
    l.mount(b"proc", b"/proc", b"proc", 0, None),
    l.umount2(b"/proc", 2),
    l.chroot(b"."),
]
print("ESCAPED" if 0 in r else "BLOCKED", r)
""",
        must_not=NEVER,
    ),
    Attack(
        "kernel_doors",
        r"""
import ctypes, platform
l = ctypes.CDLL(None, use_errno=True)
column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
doors = {
    "bpf": (321, 280), "perf_event_open": (298, 241), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "init_module": (175, 105), "finit_module": (313, 273), "open_by_handle_at": (304, 265),
    "setns": (308, 268), "unshare": (272, 97), "pivot_root": (155, 41), "mount": (165, 40),
    "umount2": (166, 39), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "swapon": (167, 224), "quotactl": (179, 60), "fanotify_init": (300, 262),
    "memfd_secret": (447, 447), "pidfd_getfd": (438, 438), "clone3": (435, 435),
    "fsopen": (430, 430), "fspick": (433, 433), "open_tree": (428, 428), "move_mount": (429, 429),
    "mount_setattr": (442, 442), "process_madvise": (440, 440), "mbind": (237, 235),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
}
open_doors = []
for name, numbers in doors.items():
    ctypes.set_errno(0)
    value = l.syscall(numbers[column], 0, 0, 0, 0, 0, 0)
    if value >= 0 or ctypes.get_errno() not in (1, 38):
        open_doors.append((name, value, ctypes.get_errno()))
print("ESCAPED" if open_doors else "BLOCKED", open_doors)
""",
        must_not=NEVER,
    ),
    Attack(
        "trace_me",
        r"""
import ctypes
l = ctypes.CDLL(None, use_errno=True)
print("ESCAPED" if l.ptrace(0, 0, 0, 0) == 0 else "BLOCKED", ctypes.get_errno())
""",
        must_not=NEVER,
    ),
    Attack(
        "type_into_a_terminal",
        r"""
import fcntl, os, termios
hits = []
fds = [0, 1, 2]
try: fds += os.openpty()
except OSError: pass
for fd in fds:
    try: fcntl.ioctl(fd, termios.TIOCSTI, b"x"); hits.append(fd)
    except OSError: pass
print("ESCAPED" if hits else "BLOCKED", hits)
""",
        must_not=NEVER,
    ),
    Attack(
        "switches_of_the_kernel",
        r"""
import os
hits = []
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
             "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/pid_max", "/proc/sys/fs/file-max",
             "/proc/sys/user/max_user_namespaces", "/sys/kernel/uevent_helper", "/sys/power/state",
             "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/self/loginuid"):
    try: os.close(os.open(path, os.O_WRONLY)); hits.append(path)
    except OSError: pass
print("ESCAPED" if hits else "BLOCKED", hits)
""",
        must_not=NEVER,
    ),
    Attack(
        "spared_by_the_oom_killer",
        r"""
try:
    open("/proc/self/oom_score_adj", "w").write("-1000")
    print("ESCAPED" if int(open("/proc/self/oom_score_adj").read()) < 0 else "BLOCKED")
except OSError as e: print("BLOCKED", e.errno)
""",
        must_not=NEVER,
    ),
    Attack(
        "devices",
        r"""
import os, stat
harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx"}
hits = []
for directory, _, names in os.walk("/dev"):
    for name in set(names) - harmless:
        path = os.path.join(directory, name)
        if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFBLK, stat.S_IFCHR):
            try: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)); hits.append(path)
            except OSError: pass
for path in ("/proc/kcore", "/proc/kmsg", "/proc/kallsyms", "/dev/mem", "/dev/kmsg"):
    try: hits += [path] if open(path, "rb").read(1) and path != "/proc/kallsyms" else []
    except OSError: pass
print("ESCAPED" if hits else "BLOCKED", hits)
""",
        must_not=NEVER,
    ),
    Attack(
        "groups_of_its_own",
        r"""
import os
hits = []
for directory, inner, _ in os.walk("/sys/fs/cgroup"):
    path = os.path.join(directory, "mine")
    try: os.mkdir(path); os.rmdir(path); hits.append(directory)
    except OSError: pass
    if directory.count("/") > 6: inner[:] = []
print("ESCAPED" if hits else "BLOCKED", hits[:3])
""",
        must_not=NEVER,
    ),
    Attack(
        "exec_keeps_the_walls",
        r"""
import subprocess, sys
code = '''
import socket
try: socket.socket(); print("ESCAPED")
except OSError: print("BLOCKED")
try: print(open("{{SECRET_FILE}}").read(), "ESCAPED")
except OSError: print("BLOCKED")
'''
done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
print(done.stdout, done.stderr)
""",
        must_not=(*NEVER, SECRET),
        timeout=10,
        status_without_namespaces=("error",),
    ),
    Attack(
        "privileged_programs",
        r"""
import subprocess
for line in ("su -c id", "sudo -n id", "mount -t tmpfs x /tmp", "newuidmap 1 0 0 1",
             "chsh -s /bin/sh", "unshare -Ur id", "unshare -m true", "chroot / true"):
    command = line.split()
    try: done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as e: print("BLOCKED", e.errno); continue
    print("ESCAPED" if done.returncode == 0 else "BLOCKED", command[0], done.returncode)
""",
        must_not=NEVER,
        timeout=10,
        status_without_namespaces=("error",),
    ),
    Attack(
        "wipe_follows_a_link",
        r"""
import os
os.symlink("{{SECRET_DIR}}", "link")
os.makedirs("a/b")
os.symlink("{{SECRET_DIR}}", "a/b/link")
os.symlink("/", "a/root")
os.symlink("a", "loop"); os.symlink("loop2", "loop3"); os.symlink("loop3", "loop2")
print("made")
""",
        must_not=(CHECKPOINT,),
        stdout_equals="made\n",
    ),
    Attack(
        "swap_the_working_directory",
        r"""
import os
here = os.getcwd()
for target in (here, os.environ["TMPDIR"], "/tmp", "/dev/shm"):
    try:
        os.rename(target, target + "-gone"); os.symlink("{{SECRET_DIR}}", target)
        print("swapped", target)
    except OSError as e: print("BLOCKED", e.errno)
""",
        must_not=(CHECKPOINT, DEAD),
    ),
    Attack(
        "link_to_a_secret",
        r"""
import os
try:
    os.link("{{SECRET_FILE}}", "mine"); print("ESCAPED", open("mine").read())
except OSError as e: print("BLOCKED", e.errno)
try: os.rename("{{SECRET_FILE}}", "mine"); print("ESCAPED")
except OSError as e: print("BLOCKED", e.errno)
""",
        must_not=(*NEVER, SECRET, CHECKPOINT),
    ),
    Attack(
        "attributes_of_a_secret",
        r"""
import os
path = "{{SECRET_FILE}}"
for f in (lambda: os.chmod(path, 0o600), lambda: os.chown(path, os.getuid(), os.getgid()),
          lambda: os.utime(path, (1, 1)), lambda: os.setxattr(path, "user.a", b"x"),
          lambda: os.truncate(path, 0), lambda: os.chmod("{{SECRET_DIR}}", 0o700),
          lambda: os.utime("{{SECRET_DIR}}", (1, 1)), lambda: os.removexattr(path, "user.a")):
    try: f()
    except OSError as e: print("BLOCKED", e.errno)
""",
        must_not=(CHECKPOINT,),
    ),
    Attack(
        "own_namespace_files",
        r"""
import ctypes, os
l = ctypes.CDLL(None, use_errno=True)
hits = []
for pid in ("self", "1", str(os.getppid())):
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"):
        try: fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
        except OSError: continue
        if l.setns(fd, 0) == 0: hits.append((pid, name))
print("ESCAPED" if hits else "BLOCKED", hits)
""",
        must_not=NEVER,
    ),
    Attack(
        "freed_from_its_parent",
        r"""
import ctypes, os, signal, time
l = ctypes.CDLL(None)
if os.fork() == 0:
    l.prctl(1, 0, 0, 0, 0)
    l.prctl(36, 1, 0, 0, 0)
    for number in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(number, signal.SIG_IGN)
    for _ in range(3):
        os.setsid() if os.fork() == 0 else None
    while True: time.sleep(1)
print("parent done")
""",
        must_not=(ALIVE, DEAD),
        status=("ok", "error"),
        status_without_namespaces=("error",),
        max_wall_s=1.5,
    ),
    Attack(
        "descriptors_sent_to_the_next",
        r"""
import os, socket
for name in ("\0next", "/tmp/next.sock", "next.sock"):
    try:
        s = socket.socket(socket.AF_UNIX); s.bind(name); s.listen(); print("ESCAPED", name)
    except OSError as e: print("BLOCKED", e.errno)
""",
        must_not=(*NEVER, SEEN),
        then=r"""
import socket
def reached(name):
    try: socket.socket(socket.AF_UNIX).connect(name)
    except OSError: return False
    return True
print(any(map(reached, ("\0next", "/tmp/next.sock"))))
""",
    ),
]
