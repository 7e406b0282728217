"""Framing: what goes in comes out, and anything else is one clean error."""

import contextlib
import os
import socket
import tempfile
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import messages
from sandbox.messages import FrameError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
MESSAGES = st.dictionaries(st.text(), VALUES, max_size=5)


def reading(data: bytes) -> list[messages.Message]:
    """All messages of a stream that holds `data` and then ends."""
    read_end, write_end = os.pipe()
    writer = threading.Thread(target=_fill, args=(write_end, data))
    writer.start()
    try:
        found = []
        while (message := messages.read(read_end, time.monotonic() + 20)) is not None:
            found.append(message)
        return found
    finally:
        os.close(read_end)
        writer.join()


def _fill(fd: int, data: bytes) -> None:
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
    except BrokenPipeError:  # the reader has seen enough
        return
    finally:
        os.close(fd)


@given(st.lists(MESSAGES, max_size=3))
def test_messages_arrive_as_sent(sent):
    assert reading(b"".join(map(messages.encode, sent))) == sent


@given(MESSAGES, st.data())
def test_a_truncated_frame_is_an_error(message, data):
    frame = messages.encode(message)
    cut = data.draw(st.integers(1, len(frame) - 1))
    with pytest.raises(FrameError, match="stream ended inside"):
        reading(frame[:cut])


@given(st.binary(max_size=64))
def test_any_bytes_are_messages_or_a_frame_error(data):
    try:
        found = reading(data)
    except FrameError:
        return
    assert all(isinstance(message, dict) for message in found)


@given(st.binary(min_size=1, max_size=64))
def test_any_body_is_a_message_or_a_frame_error(body):
    try:
        found = reading(messages.HEADER.pack(len(body)) + body)
    except FrameError:
        return
    assert [isinstance(message, dict) for message in found] == [True]


def test_a_frame_that_claims_too_much_is_refused_before_it_is_read():
    with pytest.raises(FrameError, match="at most"):
        reading(messages.HEADER.pack(messages.MAX_FRAME + 1))


@pytest.mark.parametrize("message", [{"a": object()}, {"a": b"x"}, [1], {"a": {1, 2}}])
def test_what_is_not_a_json_object_is_refused(message):
    with pytest.raises(FrameError):
        messages.encode(message)


def test_a_deadline_binds_reader_and_writer():
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        with pytest.raises(TimeoutError):
            messages.read(read_end, time.monotonic() + 0.05)
        with pytest.raises(TimeoutError):
            messages.write(write_end, {"a": "x" * (1 << 21)}, time.monotonic() + 0.05)
    finally:
        os.close(read_end)
        os.close(write_end)


@given(st.lists(st.tuples(MESSAGES, st.integers(0, messages.MAX_FDS)), max_size=4))
def test_descriptors_arrive_with_the_message_that_they_were_sent_with(sent):
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.ExitStack() as files:
        pools = [[files.enter_context(tempfile.TemporaryFile()) for _ in range(n)] for _, n in sent]
        for (message, _), pool in zip(sent, pools, strict=True):
            messages.send(ours, message, [file.fileno() for file in pool])
        ours.shutdown(socket.SHUT_WR)
        for (message, _), pool in zip(sent, pools, strict=True):
            found, fds = messages.receive(theirs)
            same = [os.path.sameopenfile(fd, f.fileno()) for fd, f in zip(fds, pool, strict=True)]
            for fd in fds:
                os.close(fd)
            assert found == message and all(same)
        assert messages.receive(theirs) == (None, [])


def test_a_long_message_with_a_descriptor_passes():
    ours, theirs = socket.socketpair()
    message = {"a": "x" * (3 << 20)}
    with ours, theirs:
        writer = threading.Thread(target=messages.send, args=(ours, message, [theirs.fileno()]))
        writer.start()
        found, (fd,) = messages.receive(theirs)
        writer.join()
        assert found == message and os.path.sameopenfile(fd, theirs.fileno())
        os.close(fd)


@given(MESSAGES, st.data())
def test_a_frame_cut_short_on_a_socket_is_an_error(message, data):
    frame = messages.encode(message)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frame[: data.draw(st.integers(1, len(frame) - 1))])
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(FrameError, match="stream ended inside"):
            messages.receive(theirs)


def test_a_socket_frame_that_claims_too_much_is_refused_before_it_is_read():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(messages.HEADER.pack(messages.MAX_FRAME + 1))
        with pytest.raises(FrameError, match="at most"):
            messages.receive(theirs)
