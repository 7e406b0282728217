"""Whole numbers as text: the same or not, without any algebra. They may be as long as a book."""

import re

WHOLE = re.compile(r"[+-]?[0-9]+")


def same(one: str, other: str) -> bool | None:
    """Whether two whole numbers are the same; None where one of the texts is none."""
    if not (WHOLE.fullmatch(one) and WHOLE.fullmatch(other)):
        return None
    return _digits(one) == _digits(other)


def _digits(text: str) -> str:
    """A whole number without what changes nothing."""
    digits = text.lstrip("+-").lstrip("0")
    return f"-{digits}" if digits and text.startswith("-") else digits
