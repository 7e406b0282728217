"""Head and tail of a stream are exact, whatever the chunks and wherever the cut."""

import re

from hypothesis import given
from hypothesis import strategies as st

from sandbox.output import MARK_ROOM, Buffers, text

LIMIT = 256


def shown(data: bytes, sizes: list[int], limit: int = LIMIT) -> tuple[str, int]:
    """What becomes of a stream that comes in pieces of these sizes."""
    capture, rest = Buffers(limit).captures[0], memoryview(data)
    for size in (*sizes, len(data)):
        capture.feed(rest[:size])
        rest = rest[size:]
    assert capture.total == len(data)
    return text(b"".join(capture.kept()), capture.total, limit)


@given(st.binary(max_size=LIMIT), st.lists(st.integers(1, 50)))
def test_short_output_is_whole(data, sizes):
    assert shown(data, sizes) == (data.decode("utf-8", "replace"), 0)


@given(st.text(min_size=LIMIT + 1, max_size=4000), st.lists(st.integers(1, 500)))
def test_long_text_keeps_head_and_tail_and_splits_no_character(written, sizes):
    data = written.encode("utf-8", "replace")
    written = data.decode()
    found, cut = shown(data, sizes)
    head, tail = re.split(rf"\n\.\.\. {cut} bytes left out \.\.\.\n", found)
    assert written.startswith(head) and written.endswith(tail)
    assert len(head.encode()) + cut + len(tail.encode()) == len(data)
    assert len(found.encode()) <= LIMIT
    assert len(head.encode()) > LIMIT // 2 - 4 and len(tail.encode()) > LIMIT // 4


@given(st.binary(max_size=3000), st.lists(st.integers(1, 700)), st.integers(100, 600))
def test_head_and_tail_of_any_bytes_in_any_pieces(data, sizes, limit):
    found, cut = shown(data, sizes, limit)
    if len(data) <= limit:
        assert (found, cut) == (data.decode("utf-8", "replace"), 0)
        return
    first, last = limit // 2, limit - limit // 2 - MARK_ROOM
    mark = f"\n... {cut} bytes left out ...\n"
    # At most three bytes of a character that the cut has split go with it, on either side.
    assert found in {
        data[: first - i].decode("utf-8", "replace")
        + mark
        + data[len(data) - last + j :].decode("utf-8", "replace")
        for i in range(4)
        for j in range(4)
        if cut == len(data) - (first - i) - (last - j)
    }


def test_two_streams_share_nothing_and_nothing_outlives_a_wipe(tmp_path):
    buffers = Buffers(LIMIT)
    for capture, name in zip(buffers.captures, ("out", "err"), strict=True):
        (tmp_path / name).write_bytes(name.encode() * 1000)
        with open(tmp_path / name, "rb") as file:
            while capture.drain(file.fileno()):
                pass
    out, err = (b"".join(capture.kept()) for capture in buffers.captures)
    assert (out[:6], out[-6:], err[:6], err[-6:]) == (b"outout", b"outout", b"errerr", b"errerr")
    memory = [*buffers.captures[0].kept(), *buffers.captures[1].kept(), buffers.chunk]
    buffers.wipe()
    assert not any(map(any, memory))
    assert [capture.total for capture in buffers.captures] == [0, 0]
