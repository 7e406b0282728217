"""Head and tail of a stream are exact, whatever the chunks and wherever the cut."""

import re

from hypothesis import given
from hypothesis import strategies as st

from sandbox.output import Capture

LIMIT = 256


def captured(data: bytes, sizes: list[int]) -> Capture:
    capture = Capture(LIMIT)
    for size in sizes:
        capture.feed(data[:size])
        data = data[size:]
    capture.feed(data)
    return capture


@given(st.binary(max_size=LIMIT), st.lists(st.integers(1, 50)))
def test_short_output_is_whole(data, sizes):
    assert captured(data, sizes).text() == (data.decode("utf-8", "replace"), 0)


@given(st.text(min_size=LIMIT + 1, max_size=4000), st.lists(st.integers(1, 500)))
def test_long_text_keeps_head_and_tail_and_splits_no_character(text, sizes):
    data = text.encode("utf-8", "replace")
    text = data.decode()
    shown, cut = captured(data, sizes).text()
    head, tail = re.split(rf"\n\.\.\. {cut} bytes left out \.\.\.\n", shown)
    assert text.startswith(head) and text.endswith(tail)
    assert len(head.encode()) + cut + len(tail.encode()) == len(data)
    assert len(shown.encode()) <= LIMIT
    assert len(head.encode()) > LIMIT // 2 - 4 and len(tail.encode()) > LIMIT // 4


def test_memory_does_not_grow_with_the_stream():
    capture = Capture(1000)
    for _ in range(2000):
        capture.feed(b"x" * 10_000)
    assert capture.total == 20_000_000
    assert len(capture._head) + len(capture._tail) < 50_000
