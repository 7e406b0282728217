"""Control groups: what the kernel's texts mean, and the limits themselves where we may set them.

The limits run for real on version 1 or 2, whichever this machine has. Of the version
that it does not have, only the choice of a directory and the files written are tested, on
directories that look like it.
"""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox import cgroup
from sandbox.cgroup import Mount
from tests.sandbox.processes import eventually

MIB = 1 << 20
paths = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map("/{}".format)
words = st.text("abcdefghijklmnopqrstuvwxyz=_", min_size=1)
mounts = st.builds(
    Mount,
    paths,
    paths,
    st.sampled_from(["cgroup", "cgroup2"]),
    st.lists(words, min_size=1).map(tuple),
)

V1 = """\
29 22 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
30 29 0:27 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw
33 29 0:30 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids
36 29 0:33 / /sys/fs/cgroup/cpu,memory rw shared:8 master:1 - cgroup cgroup rw,cpu,memory
"""
DOCKER_V1 = """\
641 640 0:30 /docker/f00 /sys/fs/cgroup/pids ro master:12 - cgroup cgroup rw,pids
642 640 0:33 /docker/f00 /sys/fs/cgroup/memory ro master:15 - cgroup cgroup rw,memory
"""
V2 = (
    "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
)
NONE: list[str] = []


@pytest.mark.parametrize(
    ("mounted", "groups", "controller", "expected"),
    [
        (V1, "4:pids:/a\n3:cpu,memory:/a/b\n0::/c\n", "memory", ["/sys/fs/cgroup/cpu,memory/a/b"]),
        (V1, "4:pids:/a\n3:cpu,memory:/a/b\n0::/c\n", "pids", ["/sys/fs/cgroup/pids/a"]),
        (V1, "4:pids:/\n0::/c\n", "pids", ["/sys/fs/cgroup/pids"]),
        (V1, "4:pids:/\n0::/c\n", "", ["/sys/fs/cgroup/unified/c"]),
        (V1, "4:pids:/\n0::/c\n", "memory", NONE),
        (DOCKER_V1, "4:pids:/docker/f00\n", "pids", ["/sys/fs/cgroup/pids"]),
        (DOCKER_V1, "4:pids:/docker/f00/x\n", "pids", ["/sys/fs/cgroup/pids/x"]),
        (DOCKER_V1, "4:pids:/docker/f001\n", "pids", NONE),  # not below it, in spite of its name
        (DOCKER_V1, "4:pids:/\n", "pids", NONE),
        (V2, "0::/user.slice/a:b.scope\n", "", ["/sys/fs/cgroup/user.slice/a:b.scope"]),
        (V2, "0::/\n", "", ["/sys/fs/cgroup"]),
        (V2, "0::/../other\n", "", NONE),  # outside of our cgroup namespace
        (V1 + V1, "4:pids:/a\n", "pids", ["/sys/fs/cgroup/pids/a"]),
    ],
)
def test_the_directory_of_our_group(mounted, groups, controller, expected):
    found = cgroup.parse_mounts(mounted), cgroup.parse_groups(groups)
    assert cgroup.directories(*found, controller) == expected


@given(st.lists(mounts), st.lists(words))
@example([Mount("/a\u2028b", "/c\u2028", "cgroup", ("x",))], [])
def test_mountinfo_is_read_as_the_kernel_writes_it(expected, optional):
    def escape(text: str) -> str:
        return re.sub(r"[ \\]", lambda match: f"\\{ord(match[0]):03o}", text)

    lines = [
        " ".join(
            [
                *("36 29 0:33", escape(mount.root), escape(mount.path), "rw,relatime"),
                *optional,
                *("-", mount.kind, "name", ",".join(mount.options)),
            ]
        )
        for mount in expected
    ]
    other = "1 0 254:0 / / rw,relatime - ext4 /dev/root rw"
    assert cgroup.parse_mounts("\n".join([other, *lines, other, ""])) == expected


@given(st.dictionaries(words, paths))
@example({"pids": "/a\u2028b"})
def test_groups_are_read_as_the_kernel_writes_them(expected):
    lines = [f"{number}:{name}:{path}\n" for number, (name, path) in enumerate(expected.items())]
    assert cgroup.parse_groups("".join(lines) + "0::/x\n") == expected | {"": "/x"}
    assert cgroup.parse_groups("7:cpu,cpuacct:/a\n") == {"cpu": "/a", "cpuacct": "/a"}


def test_kills_are_counted_in_either_text(tmp_path):
    def count(text: str) -> int:
        (tmp_path / "events").write_text(text)
        with (tmp_path / "events").open() as file:
            return cgroup.count_ooms(file.fileno())

    assert count("oom_kill_disable 0\nlocal_oom_kill 3\noom_kill 7\n") == 7
    assert count("low 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 5\n") == 2
    with pytest.raises(OSError, match="no line oom_kill"):
        count("oom_kill_disable 0\nunder_oom 0\n")


@pytest.mark.parametrize("name", ["", "sandbox", "../a-b", "a-b/c", "memory.max", "A-b", "a-b\n"])
def test_names_that_could_be_something_else(name):
    for call in (cgroup.find, cgroup.remove):
        with pytest.raises(ValueError, match="expected words joined by -"):
            call(name)


# --- version 2, on directories that look like it


def _looks_like(path: Path, enabled: str = "", root: bool = False, limit: str = "max") -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.subtree_control").write_text(enabled)
    (path / "cgroup.controllers").write_text("cpu memory pids")
    if not root:
        (path / "cgroup.type").write_text("domain")
        (path / "memory.max").write_text(limit)
    return str(path)


def test_version_2_goes_beside_our_own_group(tmp_path, monkeypatch):
    above = _looks_like(tmp_path / "above", "cpu memory pids")
    own = _looks_like(tmp_path / "above" / "own")
    assert cgroup._parent(own, ["memory", "pids"]) == above
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert cgroup._parent(own, ["memory", "pids"]) is None
    _looks_like(tmp_path / "above", "cpu pids")
    assert cgroup._parent(own, ["memory", "pids"]) is None
    assert cgroup._parent(own, ["pids"]) == above


def test_version_2_does_not_leave_a_limited_group(tmp_path):
    _looks_like(tmp_path / "above", "memory pids")
    own = _looks_like(tmp_path / "above" / "own", limit="1073741824")
    assert cgroup._parent(own, ["memory", "pids"]) is None


def test_version_2_enables_controllers_in_the_root_alone(tmp_path):
    own = _looks_like(tmp_path / "root", root=True)
    assert cgroup._parent(own, ["memory", "pids"]) == own
    # The root of a container's namespace looks the same from inside, but has a type.
    own = _looks_like(tmp_path / "container")
    assert cgroup._parent(own, ["memory", "pids"]) is None


def test_version_2_enables_what_is_missing(tmp_path):
    control = Path(_looks_like(tmp_path, "cpu memory")) / "cgroup.subtree_control"
    cgroup._enable(str(tmp_path), ["memory", "pids"])
    assert control.read_text() == "+pids"
    control.write_text("cpu memory pids")
    cgroup._enable(str(tmp_path), ["memory", "pids"])
    assert control.read_text() == "cpu memory pids"


@pytest.mark.parametrize(
    ("version", "there", "expected"),
    [
        (2, {"memory.max", "memory.swap.max"}, {"memory.max": "9", "memory.swap.max": "0"}),
        (2, {"memory.max"}, {"memory.max": "9"}),
        (
            1,
            {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swappiness"},
            {"memory.limit_in_bytes": "9", "memory.memsw.limit_in_bytes": "9"},
        ),
        (
            1,
            {"memory.limit_in_bytes", "memory.swappiness"},
            {"memory.limit_in_bytes": "9", "memory.swappiness": "0"},
        ),
    ],
)
def test_memory_is_limited_with_swap(tmp_path, version, there, expected):
    for name in there:
        (tmp_path / name).write_text("")
    cgroup._limit_memory(str(tmp_path), version, 9)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {name: text for name, text in texts.items() if text} == expected


# --- the kernel's


@pytest.fixture
def places() -> list[cgroup.Place]:
    found = cgroup._places()
    if isinstance(found, str):
        pytest.skip(found)
    if not all(os.access(place.path, os.W_OK) for place in found):
        pytest.skip("our control groups are not writable to us")
    return found


@pytest.fixture
def tree(request, places):
    found = cgroup.find(f"sandbox-{os.getpid()}-{len(request.node.name)}")
    assert isinstance(found, cgroup.Tree), found
    yield found
    found.remove()
    assert _left(found.name) == []


def _left(name: str) -> list[str]:
    mounted, groups = cgroup._look()
    places = {
        place
        for controller in ("memory", "pids", "")
        for path in cgroup.directories(mounted, groups, controller)
        for place in (path, os.path.dirname(path))
    }
    return [place for place in places if os.path.exists(os.path.join(place, name))]


JOINED = """
import os, sys, time
for fd in sys.argv[1:]:
    os.write(int(fd), b"0")
"""


def _start(group: cgroup.Group, body: str) -> "subprocess.Popen[str]":
    fds = group.join_fds()
    command = [sys.executable, "-c", JOINED + body, *map(str, fds)]
    return subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE, text=True)


def test_the_sum_of_memory_is_limited_and_kills_are_counted(tree):
    group, other = tree.slot(3, 100 * MIB, 50), tree.slot(4, 100 * MIB, 50)
    child = _start(
        group,
        """
hold, release = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.close(release)
        block = bytearray(60 << 20)  # zeroed, so all of it is touched
        os.read(hold, 1)
        os._exit(0)
ends = [os.wait()[1], os.wait()[1]]
os.close(release)
print([os.waitstatus_to_exitcode(status) for status in (*ends, os.wait()[1])])
""",
    )
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert output == "[-9, -9, 0]\n"
    assert (cgroup.count_ooms(group.ooms_fd), cgroup.count_ooms(other.ooms_fd)) == (2, 0)
    group.remove()
    other.remove()


def test_the_number_of_processes_is_limited(tree):
    group = tree.slot(0, 100 * MIB, 5)
    child = _start(
        group,
        """
pids = []
try:
    while len(pids) < 9:
        pids.append(os.fork())
        if pids[-1] == 0:
            time.sleep(60)
except BlockingIOError:
    print(len(pids))
for pid in pids:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
""",
    )
    assert child.communicate(timeout=60)[0] == "4\n"  # itself is the fifth
    group.remove()


def test_files_in_memory_count(tree, tmp_path):
    if subprocess.check_output(["stat", "-f", "-c", "%T", tmp_path], text=True) != "tmpfs\n":
        pytest.skip(f"{tmp_path} is not in a tmpfs")
    group = tree.slot(0, 40 * MIB, 5)
    body = f"open({str(tmp_path / 'file')!r}, 'wb').write(bytes(60 << 20))"
    child = _start(group, body)
    assert child.wait(60) == -signal.SIGKILL and cgroup.count_ooms(group.ooms_fd) == 1
    group.remove()


def test_a_slot_that_was_left_is_replaced(tree):
    first = tree.slot(0, 20 * MIB, 5)
    assert _start(first, "bytearray(60 << 20)").wait(60) == -signal.SIGKILL
    assert cgroup.count_ooms(first.ooms_fd) == 1
    first.close()
    second = tree.slot(0, 100 * MIB, 5)
    assert (
        cgroup.count_ooms(second.ooms_fd) == 0
        and _start(second, "bytearray(60 << 20)").wait(60) == 0
    )
    second.remove()


def test_closing_leaves_no_descriptor(tree):
    before = os.listdir("/proc/self/fd")
    group = tree.slot(0, 20 * MIB, 5)
    assert all(not os.get_inheritable(fd) for fd in group.join_fds())
    group.close()
    group.close()
    assert os.listdir("/proc/self/fd") == before


def test_join_files_may_be_closed_before_the_other(tree):
    before = len(os.listdir("/proc/self/fd"))
    group = tree.slot(0, 20 * MIB, 5)
    group.close_joins()
    assert group.join_fds() == [] and len(os.listdir("/proc/self/fd")) == before + 1
    assert cgroup.count_ooms(group.ooms_fd) == 0
    group.remove()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_group_in_use_is_not_removed_and_its_processes_are_named(tree, monkeypatch):
    monkeypatch.setattr(cgroup, "PATIENCE", 0.05)
    group = tree.slot(0, 100 * MIB, 5)
    child = _start(group, "print(os.getpid(), flush=True); time.sleep(60)")
    assert child.stdout is not None
    pid = child.stdout.readline().strip()
    for remove in (group.remove, tree.remove):
        with pytest.raises(OSError, match=rf"its processes: {pid}\)") as caught:
            remove()
        assert caught.value.errno == errno.EBUSY
    assert child.poll() is None
    child.kill()
    child.communicate()
    monkeypatch.undo()
    group.remove()


def test_a_name_that_is_taken_stays_as_it_is(tree):
    reason = cgroup.find(tree.name)
    assert isinstance(reason, str) and "File exists" in reason and tree.name in reason
    tree.slot(0, 100 * MIB, 5).remove()


def test_what_others_made_stays(tree, monkeypatch):
    monkeypatch.setattr(cgroup, "PATIENCE", 0.05)
    theirs = os.path.join(tree._places[0].path, tree.name, "theirs")
    os.mkdir(theirs)
    with pytest.raises(OSError, match="its processes: none"):
        cgroup.remove(tree.name)
    assert os.path.isdir(theirs)
    os.rmdir(theirs)


def test_a_machine_that_lets_us_half_way_keeps_nothing(places, monkeypatch):
    wrong = cgroup.Place("/proc", 1, ("memory", "pids"))
    monkeypatch.setattr(cgroup, "_places", lambda: [*places, wrong])
    assert cgroup.find("sandbox-1-half") == "/proc/sandbox-1-half: No such file or directory"
    assert _left("sandbox-1-half") == []


def test_a_killed_owner_leaves_what_another_process_can_remove(places):
    name = f"sandbox-{os.getpid()}-killed"
    code = f"""
import os, time
from sandbox import cgroup
tree = cgroup.find({name!r})
groups = [tree.slot(index, 100 << 20, 5) for index in (-1, 0)]
for fd in groups[1].join_fds():
    os.write(fd, b"0")
print("ready", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
        assert _left(name) != []
        owner.kill()
    assert eventually(lambda: owner.poll() is not None)
    cgroup.remove(name)
    assert _left(name) == []
    cgroup.remove(name)  # again is no error


def test_a_machine_that_does_not_let_us_is_one_line(monkeypatch):
    monkeypatch.setattr(cgroup, "parse_groups", lambda _: {"": "/"})
    monkeypatch.setattr(cgroup, "parse_mounts", lambda _: [])
    reason = cgroup.find("sandbox-1-a")
    assert reason == "the memory controller is not mounted, or our group is not visible"
