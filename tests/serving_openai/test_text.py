"""Typing out tokens: nothing of a stop, no half character, and never anything taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.protocols.text import find_stop
from torl_jax.serving.text import Typist

# Few letters, so that stops overlap and come about; two of them take several bytes.
letters = st.sampled_from("ab\n€😀")
texts = st.text(letters, max_size=30)
stop_lists = st.lists(st.text(letters, min_size=1, max_size=4), max_size=3)


def typed(pieces, stops, cuts):
    """Types `pieces` in the parts that `cuts` make of them; the texts, and the stop."""
    typist, shown, at = Typist(stops), [], 0
    for cut in [*sorted(cuts), len(pieces)]:
        text, stop = typist.type(pieces[at:cut])
        shown.append(text)
        if stop is not None:
            return shown, stop
        at = max(at, cut)
    return [*shown, typist.end()], None


@st.composite
def sampled(draw):
    """(pieces of any bytes, mostly of text; where segments end)."""
    data = draw(st.one_of(texts.map(str.encode), st.binary(max_size=20)))
    borders = sorted(draw(st.sets(st.integers(0, len(data)))))
    pieces = [data[a:b] for a, b in zip([0, *borders], [*borders, len(data)], strict=True)]
    return pieces, draw(st.sets(st.integers(0, len(pieces))))


@given(sampled(), stop_lists)
def test_the_text_is_that_of_the_bytes_before_the_first_stop(found, stops):
    pieces, cuts = found
    shown, stop = typed(pieces, stops, cuts)
    whole, wanted = b"".join(pieces), find_stop(pieces, stops)
    assert (stop and (stop.text, stop.end)) == (wanted and (wanted.text, wanted.end))
    until = len(whole) if stop is None else stop.end - len(stop.text.encode())
    assert "".join(shown) == whole[:until].decode("utf-8", "replace")


@given(sampled(), stop_lists)
def test_only_what_may_begin_a_stop_is_withheld(found, stops):
    pieces, _ = found
    typist, text = Typist(stops), ""
    for n, piece in enumerate(pieces, 1):
        more, stop = typist.type([piece])
        text += more
        if stop is not None:
            return
        seen = b"".join(pieces[:n])
        kept = seen[len(text.encode()) :] if seen.startswith(text.encode()) else None
        if kept:  # what was shown were characters, not replacements
            begins = any(s.encode().startswith(kept[i:]) for s in stops for i in range(len(kept)))
            half = kept.decode("utf-8", "ignore") != kept.decode("utf-8", "replace")
            assert begins or half


@pytest.mark.parametrize(
    ("pieces", "stops", "wanted"),
    [
        ([b"on", b"e tw", b"o"], ["ne t"], ["o", ""]),
        ([b"a```", b"out", b"put\n"], ["```output"], ["a", "", ""]),
        ([b"aXb", b"c"], ["Xbd"], ["a", "Xbc", ""]),
        ([b"\xe2\x82", b"\xac!"], [], ["", "€!", ""]),
        ([b"\xe2\x82", b"END"], ["END"], ["", "\ufffd"]),
        ([b"abc"], ["abcd", "b"], ["a"]),
    ],
)
def test_examples(pieces, stops, wanted):
    shown, _ = typed(pieces, stops, range(1, len(pieces)))
    assert shown == wanted
