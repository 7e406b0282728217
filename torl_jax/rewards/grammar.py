"""LaTeX read in two stages, as ANTLR's manual advises: several times as fast, the same trees.

ANTLR's SLL mode decides without the rules that it came through; its result is the full
mode's or a syntax error. The library knows the full mode only, which takes 20 ms for an
interval, since what it decides by context it works out anew each time. So each text is
read in SLL mode first, and in the full one where that fails.
"""

import math_verify.parser
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2

FULL = latex2sympy2.latex2sympy


class _Quick(latex2sympy2._Latex2Sympy):
    def create_parser(self, latex_str: str) -> latex2sympy2.PSParser:
        parser = super().create_parser(latex_str)
        parser._interp.predictionMode = PredictionMode.SLL
        return parser


def read(latex: str, *, is_real: bool, convert_degrees: bool, normalization_config: None) -> object:
    """As the library's `latex2sympy`, of which math-verify asks no more than this."""
    try:
        return _Quick(is_real=is_real, convert_degrees=convert_degrees).parse(latex)
    except Exception:  # the library raises no other for a syntax error
        return FULL(
            latex,
            is_real=is_real,
            convert_degrees=convert_degrees,
            normalization_config=normalization_config,
        )


def hasten() -> None:
    """Has math-verify read so, in this process."""
    # It offers no other place to say it.
    math_verify.parser.latex2sympy = read
