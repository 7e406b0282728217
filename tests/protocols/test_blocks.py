"""Which fences hold code, by the released rule and as a reader would say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.protocols.blocks import Block, compat, last_code, tolerant
from torl_jax.protocols.torl import STOP, ToRL

CASES = {
    "plain": ("```python\nprint(1)\n```\n", "print(1)\n", "print(1)\n"),
    "short name": ("```py\nprint(1)\n```\n", "", "print(1)\n"),
    "capital": ("```Python\nprint(1)\n```\n", "", "print(1)\n"),
    "version": ("```python3\nprint(1)\n```\n", "print(1)\n", "print(1)\n"),
    "space": ("``` python\nprint(1)\n```\n", "", "print(1)\n"),
    "attributes": ("```python {.numberLines}\nprint(1)\n```\n", "print(1)\n", "print(1)\n"),
    "indented": ("1. so\n   ```python\n   if x:\n       y\n   ```\n", "", "if x:\n    y\n"),
    "on the fence": ("```python print(0)\nprint(1)\n```\n", "print(1)\n", "print(0)\nprint(1)\n"),
    "one line": ("```python print(0)```\n", "", "print(0)\n"),
    "glued end": ("```python\nprint(1)```\n", "", "print(1)"),
    "behind words": ("So: ```python\nprint(1)\n```\n", "print(1)\n", "print(1)\n"),
    "output closes": ("```python\nprint(1)\n", "", "print(1)\n"),
    "in a string": ("```python\n'``` no'\n```\n", "'``` no'\n", "'``` no'\n"),
    "other language": ("```pycon\n>>> 1\n```\n", "", ""),
    "bare": ("```\nprint(1)\n```\n", "", ""),
    "last": ("```python\n1\n```\n```python\n2\n```\n", "2\n", "2\n"),
    "none": ("no code", "", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_run(name: str) -> None:
    turn, strict, kind = CASES[name]
    for markup, wanted in ((ToRL(), strict), (ToRL(extraction="tolerant"), kind)):
        found = markup.call(turn + STOP)
        assert (found.text if found else "") == wanted, markup.extraction


def test_every_block_is_listed_closed_or_not() -> None:
    text = "a\n```python\n1\n```python\n2\n```\nb ```python\n3"
    places = [text.index("```python"), text.index("```python", 10), text.rindex("b ```python")]
    assert compat(text) == [
        Block("1\n", places[0], False),
        Block("2\n", places[1], True),
        Block("3\n", places[2], False),
    ]
    assert [(b.code, b.closed) for b in tolerant(text)] == [
        ("1\n", False),
        ("2\n", True),
        ("3", False),
    ]
    assert last_code(compat(text)) == "" == last_code([])


def test_an_output_fence_ends_a_block_without_closing_it() -> None:
    assert [b.closed for b in compat("```python\n1\n```output\n2\n```\n")] == [False]
    assert [b.closed for b in tolerant("```python\n1\n```output\n2\n```\n")] == [True]


pieces = st.sampled_from(["```python\n", "```", "\n", "x = 1", "  ", "```output\n", "```py ", "é"])


@given(st.lists(pieces, max_size=20).map("".join))
def test_blocks_lie_in_the_text_in_order(text: str) -> None:
    for find in (compat, tolerant):
        found = find(text)
        starts = [block.start for block in found]
        assert starts == sorted(set(starts)) and all(0 <= s < len(text) for s in starts)
        assert all("```python" not in block.code for block in found)
    strict = [block for block in compat(text) if block.closed]
    assert len(strict) <= len(tolerant(text)), "the tolerant rule sees what the strict one sees"


@given(st.lists(st.sampled_from(["x = 1", "", "    y", "# é"]), min_size=1).map("\n".join))
def test_a_clean_block_is_the_same_by_both_rules(code: str) -> None:
    text = f"so\n```python\n{code}\n```\nthen\n"
    (strict,), (kind,) = compat(text), tolerant(text)
    assert strict.code == code + "\n" and strict.start == kind.start and kind.closed
    assert kind.code.split() == code.split()
