r"""Are two answers the same? math-verify's verdict, on text made fit for it.

    equivalent(gold, answer) = verify(parse(\boxed{tidy(gold)}), parse(\boxed{tidy(answer)}))

Four deviations from math-verify 0.9 as it comes, each with figures in `docs/grading.md`:
1. The box is read as a whole or not at all. By default an answer that cannot be read
   is searched for any number, so that "\sqrt 5 )( 5" was 5 and "2007 + \frac\pi 2" was 2.
2. Letters at the end are units only where the text reads so: "a + b + c" is a sum.
3. `tidy` mends spellings that are misread (RULES); two bare numbers side by side are no number.
4. A percent sign that only one side has is overlooked, for decimals as for whole numbers;
   answers in words are compared as words.
It runs in a worker process (`worker.py`): nothing here ends by itself on every text. What makes it
fast changes no verdict: `integers.py` and `apart.py`, and what a text means is kept.
"""

import functools
import re

import math_verify
from latex2sympy2_extended import NormalizationConfig
from math_verify.parser import ExtractionTarget

from torl_jax.rewards import integers
from torl_jax.rewards.apart import apart

READ = 2048  # texts whose meaning is kept: a group's answers all meet the same gold

CHARACTERS = str.maketrans(
    {
        "·": r"\cdot ", "°": r"^\circ ", "²": "^2 ", "³": "^3 ", "√": r"\sqrt ", "∞": r"\infty ",
        "\N{NO-BREAK SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " ", "\N{THIN SPACE}": " ",
    }
)  # fmt: skip
TEXT = r"\\(?:text|textbf|textit|textnormal|textrm|mathrm|mbox)\s*"
# What is misread, and how it is spelt instead; in this order.
RULES = tuple(
    (re.compile(pattern), spelt)
    for pattern, spelt in (
        # Marks of mathematics around the whole answer.
        (r"^\$+([^$]*)(?<!\\)\$+$", r"\1"),
        (r"^\\\(((?:(?!\\\)).)*)\\\)$", r"\1"),
        # Punctuation of the sentence, but neither "..." nor \right. nor the space \, .
        (r"(?<![.\\])(?<!\\right)[.,;]\s*$", ""),
        (r"^\s*(?:=|≈|\\approx(?![A-Za-z]))\s*", ""),
        (r"\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\s{}\\])", ""),
        # Thousands: 1{,}234 and 1,\!234 and 1\,234 and 1 234.
        (r"(?<=\d)(?:\s*,\s*\\!\s*|\{,\})(?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"(?<![\d.,_^])(\d{1,3})((?: +\d{3})+)(?!\d)", lambda m: m[0].replace(" ", "")),
        # 3 1/2 is a mixed number, not (3 + 1)/2.
        (r"(?<![\d.,_^])(\d+) +(\d+)/(\d+)(?![\d.])", r"\1\\frac{\2}{\3}"),
        (r"(\\(?:text|mbox|mathrm))\s+\{", r"\1{"),
        # As the imaginary unit, i is no unit of measure; nor is e.
        (TEXT + r"\{([ie])\}", r"\1"),
        (r"(\\[dt]?frac)\s*\\pi(?![A-Za-z])", r"\1{\\pi}"),
        # What a program prints: x**2, pi/2.
        (r"\*\*\s*(-?[\w.]+|\([^()]*\))", r"^{\1}"),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    )
)
ADJACENT = re.compile(r"(?<![\d.,_^}])\d+(?:\.\d+)?\s+\d")
FRACTION = re.compile(r"(\\[dt]?frac)\s*(\d)\s*(\d)")
PERCENT = re.compile(r"\s*\\?%\s*$")
WRAPPED = re.compile(TEXT + r"\{([^{}]*)\}")
WORDS = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?|[,-]")
PROSE = re.compile(r"[0-9\s,.-]*[A-Za-z][A-Za-z0-9\s,.-]*")


def _config(units: bool) -> list[ExtractionTarget]:
    """math-verify's own configuration, but the box comes first and units may stay."""
    kept = NormalizationConfig(
        basic_latex=True, units=units, malformed_operators=True, nits=True, boxed="all"
    )
    return [math_verify.LatexExtractionConfig(boxed_match_priority=0, normalization_config=kept)]


CONFIGS = (_config(units=True), _config(units=False))


def tidy(text: str) -> str:
    """`text` in a spelling that is read as it is meant."""
    text = text.translate(CHARACTERS).strip()
    for pattern, spelt in RULES:
        text = pattern.sub(spelt, text)
    return FRACTION.sub(r"\1{\2}{\3}", text).strip()


@functools.lru_cache(READ)
def read(text: str) -> list:
    """What math-verify makes of an answer: one sympy object in a list, or an empty list."""
    text = tidy(text)
    if not text or ADJACENT.search(text):
        return []
    for config in CONFIGS:
        # Its own limits are alarms that only Python code heeds; ours do not depend on it.
        found = math_verify.parse(
            f"\\boxed{{{text}}}",
            extraction_config=config,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=0,
        )
        if found:
            return found
    return []


def equivalent(gold: str, answer: str) -> bool:
    """Whether `answer` means what `gold` means."""
    said = words(gold)
    if said is not None and said == words(answer):
        return True
    if (equal := integers.same(gold, answer)) is not None:
        return equal
    if same(read(gold), read(answer)):
        return True
    bare = [PERCENT.sub("", text) for text in (gold, answer)]
    if (bare[0] == gold) == (bare[1] == answer):
        return False
    return same(read(bare[0]), read(bare[1]))


def same(gold: list, answer: list) -> bool:
    """math-verify's verdict on what was read; an inequality may be given for an interval."""
    if gold and answer and apart(gold[0], answer[0]):
        return False  # which it would find too
    return math_verify.verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=0)


def words(text: str) -> str | None:
    r"""The words of an answer in prose ("\text{May 30}" gives "may 30"); None where it is none.

    Their order counts, as it does in a list of options.
    """
    bare = WRAPPED.sub(r"\1", text)
    if not PROSE.fullmatch(bare):
        return None
    return " ".join(WORDS.findall(bare.lower()))
