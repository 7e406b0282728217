r"""Final answers in \boxed{...}: what the last one holds, and where it begins."""

import re

BOX = re.compile(r"\\boxed\s*\{")
BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is not a brace


def last_box(*texts: str) -> str | None:
    r"""What the last \boxed{...} of `texts` holds; None if there is none or it is never closed.

    No box spans two texts: what a tool printed between them is not there. Of nested
    boxes the innermost opens last. Linear in the texts.
    """
    for text in reversed(texts):
        starts = [box.end() for box in BOX.finditer(text)]
        if starts:
            return _closed(text, starts[-1])
    return None


def _closed(text: str, start: int) -> str | None:
    """The text from `start` to the brace that closes it."""
    depth = 1
    for found in BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            return text[start : found.start()]
    return None


def box_at(text: str) -> int | None:
    r"""Where the last complete \boxed{...} of `text` begins; None without one.

    A box is what the grader takes for one; unlike the grader's, this search goes on
    past a last box that is never closed. Linear in the text.
    """
    boxes = {box.end() - 1: box.start() for box in BOX.finditer(text)}
    if not boxes:
        return None
    unclosed: list[int | None] = []  # for each open brace the box that it opens, if any
    last = None
    for brace in BRACES.finditer(text):
        if brace.group() == "{":
            unclosed.append(boxes.get(brace.start()))
        elif brace.group() == "}" and unclosed:
            start = unclosed.pop()
            if start is not None:
                last = start if last is None else max(last, start)
    return last
