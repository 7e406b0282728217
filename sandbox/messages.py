"""Frames between a pool and its workers: a big-endian length, then a JSON object.

    frame = uint32 length | length bytes of JSON (an object, ASCII)

A worker says {"ready": true, ...} once, then answers each request with one
reply, in order. `serve` is the whole worker side of that.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

HEADER = struct.Struct(">I")
MAX_FRAME = 64 << 20  # bytes of JSON
CHUNK = 1 << 16
MAX_FDS = 8

Message = dict[str, Any]


class FrameError(Exception):
    """The bytes on the wire are not a frame, or a message does not fit into one."""


def encode(message: Message) -> bytes:
    """A message as one frame. Raises FrameError where it cannot be one."""
    if not isinstance(message, dict):
        raise FrameError(f"a message is a dict, got {type(message).__name__}")
    try:
        body = json.dumps(message, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError(f"message is not JSON: {error}") from error
    if len(body) > MAX_FRAME:
        raise FrameError(f"message has {len(body)} bytes, at most {MAX_FRAME} fit a frame")
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """The message in a frame's body. Raises FrameError where there is none."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise FrameError(f"frame is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise FrameError(f"frame holds a {type(message).__name__}, expected an object")
    return message


def read(fd: int, deadline: float | None = None, most: int = MAX_FRAME) -> Message | None:
    """The next message, or None where the other side has closed between frames.

    `deadline` is a time.monotonic() value; past it TimeoutError. A frame that is
    cut short, has more than `most` bytes or is not JSON raises FrameError.
    """
    size = read_size(fd, deadline, most)
    return None if size is None else decode(read_bytes(fd, size, deadline))


def read_size(fd: int, deadline: float | None = None, most: int = MAX_FRAME) -> int | None:
    """The size of the next frame's body, which is left to be read; None at the end."""
    header = _read_exactly(fd, HEADER.size, deadline)
    return _size(header, most) if header else None


def read_bytes(fd: int, size: int, deadline: float | None = None) -> bytes:
    """Exactly `size` bytes. Raises FrameError where the stream ends before."""
    body = _read_exactly(fd, size, deadline)
    if len(body) < size:
        raise FrameError(f"stream ended inside a frame ({len(body)} of {size} bytes)")
    return body


def write(fd: int, message: Message, deadline: float | None = None) -> None:
    """Writes one frame. The deadline binds only where `fd` is non-blocking."""
    write_bytes(fd, memoryview(encode(message)), deadline)


def write_bytes(fd: int, rest: memoryview, deadline: float | None = None) -> None:
    """Writes all of it. The deadline binds only where `fd` is non-blocking."""
    while rest:
        try:
            rest = rest[os.write(fd, rest[:CHUNK]) :]
        except BlockingIOError:
            _wait(fd, select.POLLOUT, deadline)


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Writes one small frame, and with it copies of open descriptors."""
    frame = encode(message)
    sent = socket.send_fds(sock, [frame], list(fds))
    sock.sendall(frame[sent:])


def receive(sock: socket.socket) -> tuple[Message | None, list[int]]:
    """The next message and the descriptors that came with it; None at the end of the stream."""
    header, fds, _, _ = socket.recv_fds(sock, HEADER.size, MAX_FDS)
    if not header:
        return None, fds
    header += _read_exactly(sock.fileno(), HEADER.size - len(header), None)
    return decode(read_bytes(sock.fileno(), _size(header, MAX_FRAME))), fds


def serve(handle: Callable[[Message], Message], **ready: Any) -> None:
    """The worker side on stdin and stdout, until the pool closes its end.

    What the worker prints meanwhile goes to stderr, so that it cannot damage a
    frame. An exception from `handle` ends the worker: the pool reports its last
    line and starts another.
    """
    requests, replies = take_stdio()
    sys.stdout = sys.stderr
    write(replies, {"ready": True, **ready})
    while (message := read(requests)) is not None:
        write(replies, handle(message))


def take_stdio() -> tuple[int, int]:
    """Private copies of stdin and stdout; 0 becomes /dev/null and 1 becomes stderr."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, replies


def _size(header: bytes, most: int) -> int:
    if len(header) < HEADER.size:
        raise FrameError(f"stream ended inside a header ({len(header)} of {HEADER.size} bytes)")
    (size,) = HEADER.unpack(header)
    if size > most:
        raise FrameError(f"frame claims {size} bytes, at most {most} are allowed")
    return size


def _read_exactly(fd: int, size: int, deadline: float | None) -> bytes:
    """`size` bytes, fewer only where the stream ended."""
    data = bytearray()
    while len(data) < size:
        _wait(fd, select.POLLIN, deadline)
        chunk = os.read(fd, min(size - len(data), CHUNK))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def _wait(fd: int, event: int, deadline: float | None) -> None:
    poller = select.poll()
    poller.register(fd, event)
    if deadline is None:
        poller.poll()
        return
    left = deadline - time.monotonic()
    if left <= 0 or not poller.poll(left * 1000):
        raise TimeoutError("deadline passed")
