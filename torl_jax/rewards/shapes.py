r"""The shape of a turn in ToolRL's markup: what the format reward asks for (arXiv 2504.13958).

    tools      <think>...</think>\n<tool_call>\n...\n</tool_call>
    response   <think>...</think>\n<response>...</response>
    both       <think>...</think>\n<tool_call>\n...\n</tool_call>\n<response>...</response>
    neither    <think>...</think>

"..." is any text, also none. Each tag of a shape but the thought's occurs once in the
whole turn, so there is one place for each block, and a look at that place decides: no
regular expression, no search for another split, linear in the text. All functions take
text whose outer whitespace is stripped.
"""

from collections.abc import Iterator

THINK, THINK_END = "<think>", "</think>"
TOOLS, TOOLS_END = "<tool_call>", "</tool_call>"
RESPONSE, RESPONSE_END = "<response>", "</response>"


def tools(text: str) -> bool:
    """A thought and a block of calls."""
    if not (_once(text, TOOLS, TOOLS_END) and text.endswith("\n" + TOOLS_END)):
        return False
    body = _after_thought(text, TOOLS + "\n")
    return body is not None and body <= len(text) - len("\n" + TOOLS_END)


def response(text: str) -> bool:
    """A thought and a response."""
    if not (_once(text, RESPONSE, RESPONSE_END) and text.endswith(RESPONSE_END)):
        return False
    return _after_thought(text, RESPONSE) is not None


def both(text: str) -> bool:
    """A thought, a block of calls and a response."""
    tags = (TOOLS, TOOLS_END, RESPONSE, RESPONSE_END)
    if not (_once(text, *tags) and text.endswith(RESPONSE_END)):
        return False
    body = _after_thought(text, TOOLS + "\n")
    close = text.find("\n" + TOOLS_END)
    if body is None or close < body:
        return False
    return text.startswith(f"\n{TOOLS_END}\n{RESPONSE}", close)


def neither(text: str) -> bool:
    """A thought alone."""
    return text.startswith(THINK) and text.endswith(THINK_END)


# By what a gold text contains: (a tool block, a response).
SHAPES = {
    (True, False): tools,
    (False, True): response,
    (True, True): both,
    (False, False): neither,
}


def tool_body(text: str) -> str | None:
    """What the first tool block holds, stripped; None where a tag is missing.

    As released: a closing tag may also stand before the opening one.
    """
    return first_block(text) if TOOLS in text and TOOLS_END in text else None


def first_block(text: str) -> str:
    """From the first opening tag, which `text` has, to the next tag of either kind, stripped.

    To the end where none comes (as released).
    """
    return text.split(TOOLS, 2)[1].partition(TOOLS_END)[0].strip()


def thought_words(text: str, most: int) -> int:
    """Words (between whitespace) of the last thought, counted up to `most` + 1.

    From the last opening tag to the next closing one, or to the end; 0 where a tag is missing.
    """
    start = text.rfind(THINK)
    if start < 0 or THINK_END not in text:
        return 0
    start += len(THINK)
    end = text.find(THINK_END, start)
    return len(text[start : end if end >= 0 else None].split(None, most))


def lines(text: str) -> Iterator[str]:
    """The lines of `text` one at a time: 10 MB of line ends need no list."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _once(text: str, *tags: str) -> bool:
    return all(text.count(tag) == 1 for tag in tags)


def _after_thought(text: str, opening: str) -> int | None:
    """Where the body of the block begins that `opening` opens right after the thought."""
    lead = THINK_END + "\n"
    start = text.find(opening)
    if start < len(lead) or not text.startswith(THINK):
        return None
    return start + len(opening) if text.startswith(lead, start - len(lead)) else None
