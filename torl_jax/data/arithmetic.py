"""Synthetic arithmetic: problems on which a program is necessary, or needless.

Easy sums can be answered at sight; big products, modular powers, greatest common
divisors, counts and digit sums cannot, but one or two lines of Python answer them.
Operands stay short, so that a model below a million parameters can copy them
without error and what is left to learn is *when and how to call the tool*.

A problem is a pure function of (seed, index, families, held_out). Whether operands
are held out is a property of the operands themselves (a hash, blind to the order of
commuting ones), so no training problem of any seed is a held-out one.
"""

import dataclasses
import math
import random
import zlib
from collections.abc import Callable, Sequence

from torl_jax.episode import Problem
from torl_jax.errors import UserError

HELD_OUT_SHARE = 8  # one in so many operand tuples is held out


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of problem.

    `draw` gives operands, `answer` the gold integer, `phrasings` are format strings
    over the operands by position; `commuting` says that the order of the first two
    operands does not matter, so that both orders fall on one side of the hold-out.
    """

    draw: Callable[[random.Random], tuple[int, ...]]
    answer: Callable[..., int]
    phrasings: tuple[str, ...]
    commuting: bool = False


def _draw_product(rng: random.Random) -> tuple[int, ...]:
    a = rng.randrange(101, 500)
    # The answer keeps to four digits.
    return a, rng.randrange(12, min(89, 9_900 // a) + 1), rng.randrange(11, 100)


def _draw_gcd(rng: random.Random) -> tuple[int, ...]:
    divisor = rng.randrange(2, 50)
    most = 999 // divisor
    return divisor * rng.randrange(2, most + 1), divisor * rng.randrange(2, most + 1)


FAMILIES = {
    "sum": Family(
        draw=lambda rng: (rng.randrange(2, 30), rng.randrange(2, 30)),
        answer=lambda a, b: a + b,
        phrasings=("What is {0}+{1}?", "Calculate {0}+{1}."),
        commuting=True,
    ),
    "product": Family(
        draw=_draw_product,
        answer=lambda a, b, c: a * b + c,
        phrasings=("What is {0}*{1}+{2}?", "Calculate {0}*{1}+{2}."),
    ),
    "power": Family(
        draw=lambda rng: (rng.randrange(2, 100), rng.randrange(10, 100), rng.randrange(11, 100)),
        answer=lambda a, b, m: pow(a, b, m),
        phrasings=(
            "What is {0}^{1} mod {2}?",
            "What is the remainder when {0}^{1} is divided by {2}?",
        ),
    ),
    "gcd": Family(
        draw=_draw_gcd,
        answer=math.gcd,
        phrasings=(
            "What is the greatest common divisor of {0} and {1}?",
            "Calculate gcd({0},{1}).",
        ),
        commuting=True,
    ),
    "count": Family(
        draw=lambda rng: (rng.randrange(3, 40), rng.randrange(1_000, 10_000)),
        answer=lambda k, n: n // k,
        phrasings=(
            "How many multiples of {0} are there from 1 to {1}?",
            "How many multiples of {0} are there up to {1}?",
        ),
    ),
    "digits": Family(
        draw=lambda rng: (rng.randrange(1_000, 10_000), rng.randrange(3, 7)),
        answer=lambda a, b: sum(map(int, str(a**b))),
        phrasings=("What is the sum of the digits of {0}^{1}?",),
    ),
}


def is_held_out(family: str, operands: Sequence[int]) -> bool:
    """Whether these operands belong to evaluation; blind to the order of commuting ones."""
    canonical = sorted(operands) if FAMILIES[family].commuting else operands
    text = f"{family} {' '.join(map(str, canonical))}"
    return zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0


def operands_of(
    seed: int, index: int, families: Sequence[str] = tuple(FAMILIES), held_out: bool = False
) -> tuple[str, tuple[int, ...], random.Random]:
    """(family, operands, the generator they came from) of problem `index` of `seed`.

    Families take turns, so any run of problems is balanced. UserError for an unknown
    or empty list of families.
    """
    unknown = [name for name in families if name not in FAMILIES]
    if unknown or not families:
        found = repr(unknown[0]) if unknown else "an empty list"
        raise UserError(f"arithmetic families: found {found}; choose among {', '.join(FAMILIES)}")
    family = families[index % len(families)]
    rng = random.Random(f"{family} {seed} {index} {held_out}")
    while True:
        operands = FAMILIES[family].draw(rng)
        if is_held_out(family, operands) == held_out:
            return family, operands, rng


def problem(
    seed: int, index: int, families: Sequence[str] = tuple(FAMILIES), held_out: bool = False
) -> Problem:
    """Problem `index` of the stream `seed`; its id reads like "product-3-17".

    Held-out problems (ids like "product-held-3-17") share no operands with the others.
    """
    family, operands, rng = operands_of(seed, index, families, held_out)
    kind = FAMILIES[family]
    return Problem(
        id=f"{family}-held-{seed}-{index}" if held_out else f"{family}-{seed}-{index}",
        question=rng.choice(kind.phrasings).format(*operands),
        answer=str(kind.answer(*operands)),
        source=family,
    )


def problems(
    seed: int,
    start: int,
    count: int,
    families: Sequence[str] = tuple(FAMILIES),
    held_out: bool = False,
) -> list[Problem]:
    """Problems start .. start + count - 1 of the stream `seed`."""
    return [problem(seed, i, families, held_out) for i in range(start, start + count)]
