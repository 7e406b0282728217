"""What the trainer and a slot say to each other: facts, and bytes that the slot never reads.

    trainer -> slot     {"timeout", "fetch"}     and a frame {"code", "stdin", ...}
                        {"cell", "timeout"}      and a frame {"cell", "timeout"}
                        {"open": settings}
    slot -> trainer     {"status", "streams": [[total, kept], [total, kept]], "limit",
                        "files": {name: size}, ...}, then the bytes kept and the files

The second frame is for the program's process alone: the slot passes it on as it comes,
and what the program has written goes back the same way (see output.py for the reason).
"""

import os
import re
from collections.abc import Iterable

from sandbox import messages, output
from sandbox.messages import HEADER, Message

MEMORY_ERROR = re.compile(r"^[\w.]*MemoryError", re.MULTILINE)
LAST_LINES = 3  # of stderr: Python itself may stumble once more while it tells of a MemoryError


def ask(fd: int, message: Message, deadline: float) -> Message | None:
    """The slot's reply to a job of the trainer's, None where it has ended.

    Raises FrameError, OSError, TimeoutError.
    """
    if "open" in message:
        messages.write(fd, message, deadline)
    else:
        facts = {"timeout": message["timeout"], "fetch": message.get("fetch", ())}
        messages.write(fd, facts | ({"cell": True} if "cell" in message else {}), deadline)
        messages.write(fd, {k: v for k, v in message.items() if k != "fetch"}, deadline)
    return hear(fd, deadline)


def hear(fd: int, deadline: float) -> Message | None:
    """The slot's next message, None where it has ended."""
    facts = messages.read(fd, deadline)
    if facts is None or "streams" not in facts:
        return facts
    limit = facts.pop("limit")
    texts = [
        output.text(messages.read_bytes(fd, kept, deadline), total, limit)
        for total, kept in facts.pop("streams")
    ]
    (stdout, cut_out), (stderr, cut_err) = texts
    files = {n: messages.read_bytes(fd, size, deadline) for n, size in facts["files"].items()}
    last = "\n".join(stderr.rstrip().rsplit("\n", LAST_LINES)[-LAST_LINES:])
    if facts["status"] == "error" and MEMORY_ERROR.search(last):
        facts["status"] = "memory"
    texts = {"stdout": stdout, "stderr": stderr, "truncated_bytes": cut_out + cut_err}
    return facts | texts | {"files": files}


def answer(
    fd: int, facts: Message, buffers: output.Buffers, files: dict[str, tuple[int, int]]
) -> None:
    """The slot's reply with the streams that `buffers` hold; `files`: name -> (fd, size)."""
    kept = [capture.kept() for capture in buffers.captures]
    messages.write(
        fd,
        facts
        | {
            "limit": buffers.limit,
            "streams": [
                [capture.total, sum(map(len, parts))]
                for capture, parts in zip(buffers.captures, kept, strict=True)
            ],
            "files": {name: size for name, (_, size) in files.items()},
        },
    )
    for parts in kept:
        for part in parts:
            messages.write_bytes(fd, part)
    for source, size in files.values():
        for piece in _pieces(source, size, buffers.chunk):
            messages.write_bytes(fd, piece)


def relay(source: int, target: int, chunk: memoryview, deadline: float | None = None) -> None:
    """Passes one frame on. It is taken from `source` to its end, also where `target` fails.

    Raises FrameError of the source; TimeoutError, OSError of the target, which may be
    non-blocking: the deadline is for it.
    """
    size = messages.read_size(source)
    if size is None:
        raise messages.FrameError("the stream ended before the frame that was announced")
    failure = None
    try:
        messages.write_bytes(target, memoryview(HEADER.pack(size)), deadline)
    except (OSError, TimeoutError) as error:
        failure = error
    for piece in _pieces(source, size, chunk):
        try:
            if failure is None:
                messages.write_bytes(target, piece, deadline)
        except (OSError, TimeoutError) as error:
            failure = error
    if failure is not None:
        raise failure


def _pieces(source: int, size: int, chunk: memoryview) -> Iterable[memoryview]:
    """`size` bytes of a file or a blocking socket, each piece in `chunk` until the next."""
    while size:
        count = os.readv(source, [chunk[:size]])
        if not count:
            raise messages.FrameError(f"the bytes that were announced ended {size} too early")
        size -= count
        yield chunk[:count]
