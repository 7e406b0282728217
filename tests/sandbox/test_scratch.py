"""What the sandbox removes is what it made, whatever has happened to the path."""

import os
import signal
import stat
from pathlib import Path

import pytest

from sandbox import sweep
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


def test_the_name_and_the_mode_are_the_ones_asked_for(tmp_path):
    place = Scratch(str(tmp_path), 0o711, "box")
    assert place.path == str(tmp_path / "box")
    assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o711
    with pytest.raises(FileExistsError):  # whatever is there was not made here
        Scratch(str(tmp_path), 0o711, "box")
    place.remove()


def test_empty_keeps_the_directory_for_the_next_program(scratch):
    for _ in range(2):
        Path(scratch.path, "sub").mkdir(mode=0)
        Path(scratch.path, "file").write_text("x")
        scratch.empty()
        assert os.listdir(scratch.path) == []


def test_discard_removes_one_directory_and_follows_no_link(scratch, tmp_path):
    (tmp_path / "kept").write_text("x")
    for name in ("slot-1", "slot-2"):
        Path(scratch.path, name, "locked").mkdir(parents=True)
        Path(scratch.path, name, "link").symlink_to(tmp_path)
        Path(scratch.path, name, "locked").chmod(0)
    scratch.discard("slot-1")
    assert os.listdir(scratch.path) == ["slot-2"] and (tmp_path / "kept").exists()
    Path(scratch.path, "slot-3").symlink_to(tmp_path)
    with pytest.raises(OSError, match="slot-3"):
        scratch.discard("slot-3")
    assert (tmp_path / "kept").exists()


@pytest.fixture
def signalled(monkeypatch):
    """What would have been signalled: nothing is."""
    found = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    monkeypatch.setattr(sweep, "_signal", lambda pids, number: found.append((*pids, number)))
    seen = iter([[12345], [12345]] * 2)
    monkeypatch.setattr(sweep, "descendants", lambda *without: [] if without else next(seen))
    return found


def test_kill_everything_needs_a_pid_namespace_of_our_own(monkeypatch, signalled):
    stopped_then_killed = [(12345, signal.SIGSTOP), (12345, signal.SIGKILL)]
    sweep._kill_all(True)  # claims the namespace, is not its first process
    monkeypatch.setattr(os, "getpid", lambda: 1)
    sweep._kill_all(False)  # is a first process, but the namespace is not ours
    assert signalled == stopped_then_killed * 2
    sweep._kill_all(True)
    assert signalled[4:] == [(-1, signal.SIGKILL)]


def test_stop_everything_needs_a_pid_namespace_of_our_own(monkeypatch, signalled):
    sweep.sweep_but(12345, True)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    sweep.sweep_but(12345, False)
    assert signalled == [(12345, signal.SIGCONT)] * 2
    sweep.sweep_but(12345, True)
    assert signalled[2:] == [(-1, signal.SIGSTOP), (12345, signal.SIGCONT)]


def test_a_signal_reaches_descendants_only():
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    try:
        sweep._signal([os.getppid(), child], signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert os.getppid() > 0  # still there, and so are we
    finally:
        sweep.sweep(False)
