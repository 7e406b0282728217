"""Do two formulas clearly differ at a point? Then they are not equal, whatever algebra says.

    apart(a, b) = |a(p) - b(p)| > CLEAR (1 + |a(p)| + |b(p)|)

at one point p, at which each symbol has a number of its own. math-verify simplifies a - b to
learn that it is not nought, which takes ten times as long. Only sums, products and small powers
of numbers and symbols are looked at: evaluating them always ends, and has no rules of its own
(a percentage, which may equal its number, is no such formula; nor is a lone symbol, which is
compared by name).
"""

import cmath
from collections.abc import Sequence
from typing import TypeGuard

import sympy

CLEAR = 1e-3  # far from where decimals are rounded, and from what evaluating may get wrong
EXPONENT = 100
LEAVES = (sympy.Number, sympy.NumberSymbol, sympy.Symbol, type(sympy.I))


def apart(one: object, other: object) -> bool:
    """Whether they are formulas that cannot be equal; False says nothing."""
    if not (_formula(one) and _formula(other)):
        return False
    names = sorted({str(symbol) for each in (one, other) for symbol in each.free_symbols})
    first, second = (_value(each, names) for each in (one, other))
    if first is None or second is None:
        return False
    return abs(first - second) > CLEAR * (1 + abs(first) + abs(second))


def _formula(found: object) -> TypeGuard[sympy.Expr]:
    """Whether it is a formula of the plain kind, and no lone symbol."""
    if not isinstance(found, sympy.Expr) or isinstance(found, sympy.Symbol):
        return False
    return all(map(_plain, sympy.preorder_traversal(found)))


def _plain(node: object) -> bool:
    if isinstance(node, sympy.Pow):
        power = node.exp
        return isinstance(power, sympy.Rational) and bool(abs(power) <= EXPONENT)
    return isinstance(node, (sympy.Add, sympy.Mul, *LEAVES))


def _value(formula: sympy.Expr, names: Sequence[str]) -> complex | None:
    """The formula where the nth name is 117/101 + n 61/101; None where it is no number there."""
    point: dict[sympy.Basic, sympy.Basic | float] = {
        symbol: sympy.Rational(117 + 61 * names.index(str(symbol)), 101)
        for symbol in formula.free_symbols
    }
    try:
        value = complex(formula.evalf(subs=point))
    except (ArithmeticError, TypeError, ValueError):
        return None
    return value if cmath.isfinite(value) else None
