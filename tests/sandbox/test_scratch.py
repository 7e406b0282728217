"""What the sandbox removes is what it made, whatever has happened to the path."""

import os
import stat
from pathlib import Path

import pytest

from sandbox import supervise
from sandbox.scratch import Scratch


@pytest.fixture
def scratch(tmp_path):
    return Scratch(str(tmp_path))


def test_remove_takes_everything_inside(scratch, tmp_path):
    place = Path(scratch.path)
    (place / "a" / "b").mkdir(parents=True)
    (place / "a" / "b" / "file").write_text("x")
    (place / "locked").mkdir()
    (place / "locked" / "file").write_text("x")
    (place / "locked").chmod(0)
    os.mkfifo(place / "fifo")
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_tree_deeper_than_any_path_is_removed(scratch, tmp_path):
    fds = [os.dup(scratch.fd)]
    for _ in range(3000):
        os.mkdir("d", dir_fd=fds[-1])
        fds.append(os.open("d", os.O_RDONLY, dir_fd=fds[-1]))
        os.close(fds.pop(0))
    os.close(fds.pop())
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_symbolic_links_are_not_followed(scratch, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (outside / "kept").parent.chmod(0o700)
    (outside / "kept").write_text("x")
    outside.chmod(0o500)
    Path(scratch.path, "link").symlink_to(outside)
    Path(scratch.path, "sub").mkdir()
    Path(scratch.path, "sub", "link").symlink_to(outside)
    scratch.remove()
    assert (outside / "kept").read_text() == "x"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500


def test_what_took_the_place_of_the_directory_is_left_alone(scratch, tmp_path):
    place = Path(scratch.path)
    (place / "ours").write_text("x")
    place.rename(tmp_path / "moved")
    place.mkdir()
    (place / "theirs").write_text("x")
    scratch.remove()
    assert (place / "theirs").exists()
    assert list((tmp_path / "moved").iterdir()) == []


def test_a_link_that_took_the_place_is_left_alone(scratch, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    os.rmdir(scratch.path)
    os.symlink(outside, scratch.path)
    scratch.remove()
    assert (outside / "kept").exists() and os.path.islink(scratch.path)


def test_kill_everything_needs_a_pid_namespace_of_our_own(monkeypatch):
    signalled = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signalled.append(pid))
    monkeypatch.setattr(supervise, "_children", lambda: [12345])
    supervise._kill_all(frozenset({"pid"}))  # claims the namespace, is not its first process
    monkeypatch.setattr(os, "getpid", lambda: 1)
    supervise._kill_all(frozenset())  # is a first process, but the namespace is not ours
    assert signalled == [12345, 12345]
    supervise._kill_all(frozenset({"pid"}))
    assert signalled[-1] == -1
