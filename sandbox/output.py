"""What a program wrote to one stream: the head and the tail, and how much in all.

A slot must not keep anything of a program, for the next one is a copy of its memory.
Python's allocator keeps what it frees, so these bytes never become Python objects
there: they lie in memory of their own (Buffers), which is emptied after each program.
Only the trainer turns them into text.
"""

import mmap
import os
import sys

CHUNK = 1 << 18  # bytes read at a time
MARK_ROOM = 48  # bytes of the limit kept for the line that says what is missing


class Buffers:
    """A chunk for passing bytes on, and a Capture of at most `limit` bytes for two streams."""

    def __init__(self, limit: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # a shared one would show children ours
        self._map = mmap.mmap(-1, CHUNK + 2 * limit, flags=flags)
        self.limit = limit
        view = memoryview(self._map)
        self.chunk, rest = view[:CHUNK], view[CHUNK:]
        self.captures = (Capture(rest[:limit], self.chunk), Capture(rest[limit:], self.chunk))

    def wipe(self) -> None:
        """All zeros, and the streams are new."""
        if sys.platform == "linux":
            self._map.madvise(mmap.MADV_DONTNEED)
        else:
            self._map[:] = bytes(len(self._map))
        for capture in self.captures:
            capture.total = 0


class Capture:
    """Keeps what fits into `memory` of a stream of any length: its head, then a ring."""

    def __init__(self, memory: memoryview, chunk: memoryview) -> None:
        self._memory, self._chunk = memory, chunk
        self.total = 0

    def drain(self, fd: int) -> int:
        """Reads once from `fd`; how many bytes came. Raises BlockingIOError."""
        count = os.readv(fd, [self._chunk])
        self.feed(self._chunk[:count])
        return count

    def feed(self, data: memoryview) -> None:
        """The stream's next bytes."""
        head, keep = _split(len(self._memory))
        room = max(head - self.total, 0)
        self._memory[self.total : self.total + len(data[:room])] = data[:room]
        self.total += len(data)
        data = data[room:][-keep:]
        at = (self.total - len(data) - head) % keep
        first = data[: keep - at]
        self._memory[head + at : head + at + len(first)] = first
        self._memory[head : head + len(data) - len(first)] = data[len(first) :]

    def kept(self) -> list[memoryview]:
        """What is there of the stream, in its order, for `text`."""
        limit = len(self._memory)
        if self.total <= limit:
            return [self._memory[: self.total]]
        head, keep = _split(limit)
        at = head + (self.total - head) % keep
        return [self._memory[:head], self._memory[at:], self._memory[head:at]]


def text(kept: bytes, total: int, limit: int) -> tuple[str, int]:
    """The text, UTF-8 with replacement, and the number of bytes left out of it.

    `kept` is what a Capture of `limit` bytes kept of `total`. A cut never falls inside
    a character: the pieces of one count as left out.
    """
    if total <= limit:
        return kept.decode("utf-8", "replace"), 0
    size, keep = _split(limit)
    head = _drop_partial_end(kept[:size])
    tail = _drop_partial_start(kept[-(keep - MARK_ROOM) :])
    cut = total - len(head) - len(tail)
    mark = f"\n... {cut} bytes left out ...\n"
    return head.decode("utf-8", "replace") + mark + tail.decode("utf-8", "replace"), cut


def _split(limit: int) -> tuple[int, int]:
    return limit // 2, limit - limit // 2


def _drop_partial_start(data: bytes) -> bytes:
    """Without the (at most three) continuation bytes that a cut has orphaned."""
    skip = 0
    while skip < min(3, len(data)) and data[skip] & 0xC0 == 0x80:
        skip += 1
    return data[skip:]


def _drop_partial_end(data: bytes) -> bytes:
    """Without the first bytes of a character whose rest was cut off."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        wanted = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4
        return data[:-back] if byte >= 0xC0 and wanted > back else data
    return data
