"""Landlock under the real kernel: each child gives up its paths, then tries them."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import kernel, landlock, seccomp

ABI = landlock.abi()
needs_landlock = pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock, or it is off")
CHILD = """
import errno, fcntl, json, os, signal, socket, subprocess, sys
from sandbox import landlock
os.chdir({place!r})
def tried(action, *arguments):
    try:
        done = action(*arguments)
        return done if isinstance(done, (int, str, list)) else True
    except OSError as error:
        return errno.errorcode[error.errno]
def text(path):
    with open(path) as file:
        return file.read()
def write(path):
    with open(path, "w") as file:
        return file.write("new")
def add(path):
    with open(path, "a") as file:
        return file.write("more")
{before}
landlock.restrict({readable!r}, {writable!r})
print(json.dumps({body}))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("read", "write", "outside"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    return tmp_path


def _child(place, body, before="", readable=("read",), writable=("write", "/dev/null")):
    code = CHILD.format(
        place=str(place), body=body, before=before, readable=readable, writable=writable
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def _found(*arguments, **keywords):
    done = _child(*arguments, **keywords)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_landlock
def test_what_is_not_named_is_out_of_reach(place):
    found = _found(
        place,
        """[
        tried(text, "outside/file"), tried(os.listdir, "outside"), tried(write, "outside/file"),
        tried(add, "outside/file"), tried(os.unlink, "outside/file"),
        tried(os.rename, "write/file", "outside/moved"), tried(os.listdir, "/"),
        tried(text, "/etc/passwd"), tried(subprocess.call, ["/bin/true"]),
    ]""",
    )
    assert found[5] in ("EACCES", "EXDEV")
    assert set(found[:5] + found[6:]) == {"EACCES"}, found
    assert (place / "outside" / "file").read_text() == "outside"


@needs_landlock
def test_readable_is_read_only(place):
    found = _found(
        place,
        """[
        tried(text, "read/file"), tried(os.listdir, "read/below"),
        tried(write, "read/file"), tried(add, "read/file"), tried(write, "read/fresh"),
        tried(os.mkdir, "read/fresh"),
        tried(os.unlink, "read/file"), tried(os.rmdir, "read/below"),
        tried(os.symlink, "file", "read/link"), tried(os.mkfifo, "read/pipe"),
    ]""",
    )
    assert found[:2] == ["read", []]
    assert set(found[2:]) == {"EACCES"}, found


@needs_landlock
def test_writable_takes_files_but_no_devices_and_no_sockets(place):
    found = _found(
        place,
        """[
        tried(write, "write/file"), tried(text, "write/file"), tried(os.mkdir, "write/fresh"),
        tried(os.truncate, "write/file", 1), tried(os.symlink, "file", "write/link"),
        tried(os.mkfifo, "write/pipe"), tried(os.rename, "write/file", "write/moved"),
        tried(os.unlink, "write/link"), tried(os.rmdir, "write/fresh"),
        tried(os.mknod, "write/device", 0o20600, os.makedev(1, 3)),
        tried(socket.socket(socket.AF_UNIX).bind, "write/socket"),
        tried(write, "/dev/null"), tried(text, "/dev/null"),
    ]""",
    )
    refused = ["EACCES", "EACCES"]
    assert found == [3, "new", True, True, True, True, True, True, True, *refused, 3, ""]


@needs_landlock
def test_rights_of_younger_kernels(place):
    abstract = f"torl-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + abstract)
        listener.listen()
        found = _found(
            place,
            f"""{{
            2: tried(os.rename, "write/file", "write/below/file"),
            3: tried(os.truncate, "read/file", 0),
            4: [tried(socket.socket().bind, ("127.0.0.1", 0)),
                tried(socket.socket().connect, ("127.0.0.1", 9))],
            6: [tried(socket.socket(socket.AF_UNIX).connect, chr(0) + {abstract!r}),
                tried(os.kill, os.getppid(), 0)],
        }}""",
        )
    expected = {2: True, 3: "EACCES", 4: ["EACCES"] * 2, 6: ["EPERM"] * 2}
    known = {str(since): value for since, value in expected.items() if since <= ABI}
    assert {since: found[since] for since in known} == known


@needs_landlock
@pytest.mark.skipif(ABI < 5, reason="the kernel's Landlock is older than the right on ioctl")
def test_ioctl_of_devices_only_where_they_are_writable(place):
    body = """[tried(fcntl.ioctl, open(name), 0x5401, bytes(64)) for name in (NULL, ZERO)]"""
    before = "NULL, ZERO = '/dev/null', '/dev/zero'"
    found = _found(place, body, before, ("/dev/zero",), ("/dev/null",))
    assert found == ["ENOTTY", "EACCES"]


@needs_landlock
def test_single_files_and_programs(place):
    found = _found(
        place,
        """[tried(text, "outside/file"), tried(write, "outside/file"), tried(os.listdir, "outside"),
            tried(subprocess.call, ["/bin/true"])]""",
        readable=("outside/file", "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"),
    )
    assert found == ["outside", "EACCES", "EACCES", 0]


@needs_landlock
def test_open_files_stay_and_new_privileges_end(place):
    found = _found(
        place,
        "[kept.read(), [line.split()[1] for line in open('/proc/self/status') if 'NoNew' in line]]",
        "kept = open('outside/file')",
        readable=("/proc",),
    )
    assert found == ["outside", ["1"]]


@needs_landlock
def test_it_holds_for_children_and_cannot_be_widened(place):
    body = """[tried(text, "outside/file"), tried(write, "write/file"),
        os.waitstatus_to_exitcode(os.waitpid(child(), 0)[1])]"""
    before = """
def child():
    pid = os.fork()
    if pid == 0:
        os._exit(tried(text, "outside/file") == "EACCES")
    return pid
landlock.restrict(["read"], [])
"""
    found = _found(place, body, before, readable=("read",), writable=("read",))
    assert found == ["EACCES", "EACCES", 1]


@needs_landlock
def test_a_missing_path_is_passed_over_and_a_wrong_one_is_not(place):
    found = _found(place, "tried(text, 'read/file')", readable=("missing", "read", "/missing/x"))
    assert found == "read"
    done = _child(place, "0", readable=("read/file/x",))
    assert done.stderr.splitlines()[-1].startswith("NotADirectoryError: ")


@needs_landlock
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7, 9, 40])
def test_every_version_of_the_interface(place, version):
    if ABI < version < 7:
        pytest.skip(f"the kernel's Landlock is version {ABI}")
    body = """[tried(text, "outside/file"), tried(text, "read/file"), tried(write, "write/file"),
        tried(os.truncate, "read/file", 0)]"""
    before = f"landlock.abi = lambda: {version}"
    truncated = "EACCES" if version >= 3 else True  # older ones let it pass
    assert _found(place, body, before) == ["EACCES", "read", 3, truncated]


@needs_landlock
@pytest.mark.skipif(bool(seccomp.available()), reason=f"no seccomp: {seccomp.available()}")
@pytest.mark.parametrize("version", [1, 2, 3, 0])
def test_with_the_filter_no_version_lets_a_file_outside_be_changed(place, version):
    if version > ABI:
        pytest.skip(f"the kernel's Landlock is version {ABI}")
    before = f"""
import platform
from sandbox import seccomp
real, forced = landlock.abi, {version}
landlock.abi = lambda: forced or real()
restrict = landlock.restrict
def both(*paths):
    restrict(*paths)
    own = os.getpid()
    seccomp.install(seccomp.assemble(platform.machine(), processes=False, own_pid=own))
landlock.restrict = both
def marked(action):
    fd = os.open("read/file", os.O_RDONLY)
    return tried(action, fd)
"""
    body = """[
        tried(os.truncate, "outside/file", 0), tried(os.truncate, "read/file", 0),
        tried(os.open, "read/file", os.O_RDONLY | os.O_TRUNC),
        tried(os.open, "outside/file", os.O_ACCMODE | os.O_TRUNC),
        marked(lambda fd: os.fchmod(fd, 0o666)), marked(lambda fd: os.fchown(fd, 1, 1)),
        marked(lambda fd: os.utime(fd, (1, 1))), tried(os.chmod, "outside/file", 0o666),
        tried(write, "write/file"), tried(text, "write/file"),
    ]"""
    facts = [(place / name / "file").stat() for name in ("read", "outside")]
    found = _found(place, body, before)
    assert set(found[:4]) <= {"EPERM", "EACCES"}, found
    assert found[4:] == [True, True, True, True, 3, "new"]
    kept = [(place / name / "file").stat() for name in ("read", "outside")]
    for old, new in zip(facts, kept, strict=True):
        for what in ("st_size", "st_mode", "st_uid", "st_gid", "st_mtime_ns"):
            assert getattr(old, what) == getattr(new, what), what


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL])
def test_a_kernel_without_it_is_told(monkeypatch, number):
    def refuse(name: str, *_: object) -> int:
        raise OSError(number, name)

    monkeypatch.setattr(landlock, "_call", refuse)
    none = number != errno.EINVAL
    if none:
        assert landlock.abi() == 0
    with pytest.raises(OSError, match="kernel has none" if none else "create_ruleset") as caught:
        landlock.restrict([], [])
    assert caught.value.errno == (errno.ENOSYS if none else number)


def test_elsewhere_than_on_linux_there_is_none(monkeypatch):
    monkeypatch.setattr(kernel, "LINUX", False)
    monkeypatch.setattr(
        kernel, "call", lambda *_: pytest.fail("a number means something else here")
    )
    assert landlock.abi() == 0
