"""What a program wrote to one stream: the head and the tail, and how much in all."""

MARK_ROOM = 48  # bytes of the limit kept for the line that says what is missing


class Capture:
    """Keeps at most `limit` bytes of a stream of any length."""

    def __init__(self, limit: int) -> None:
        self._head_size = limit // 2
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_size - len(self._head)
        self._head += data[:room] if room > 0 else b""
        self._tail += data[max(room, 0) :]
        keep = self._limit - self._head_size
        if len(self._tail) > 4 * keep + 4096:  # trim now and then, not at every read
            del self._tail[:-keep]

    def text(self) -> tuple[str, int]:
        """The text, UTF-8 with replacement, and the number of bytes left out of it.

        A cut never falls inside a character: the pieces of one count as left out.
        """
        if self.total <= self._limit:
            return (self._head + self._tail).decode("utf-8", "replace"), 0
        head = _drop_partial_end(bytes(self._head))
        tail = bytes(self._tail[-(self._limit - self._head_size - MARK_ROOM) :])
        tail = _drop_partial_start(tail)
        cut = self.total - len(head) - len(tail)
        mark = f"\n... {cut} bytes left out ...\n"
        return head.decode("utf-8", "replace") + mark + tail.decode("utf-8", "replace"), cut


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
