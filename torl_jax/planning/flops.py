"""Floating-point operations of one HLO instruction, by XLA's own rules.

As in XLA's HloCostAnalysis: two a multiply-add of a dot or convolution, one an element of
an arithmetic result; transcendental functions and moves are none. TPU programs hold their
matrix products as convolutions with padded or dilated windows; what falls on padding or
on a hole is no work.
"""

import functools
import math
import re

import numpy as np

from torl_jax.planning.hlo import Array, Computation, Instruction

_ARITHMETIC = """
abs add and ceil clamp clz compare complex convert divide floor imag is-finite maximum minimum
multiply negate not or popcnt real remainder round-nearest-afz round-nearest-even select
shift-left shift-right-arithmetic shift-right-logical sign subtract xor
"""
ARITHMETIC = frozenset(_ARITHMETIC.split())
_WINDOW = re.compile(r"(\w+)=([\dx_\-]+)")


def direct(instruction: Instruction, computation: Computation) -> float:
    """Work of the instruction itself, without what it calls."""
    opcode, results = instruction.opcode, instruction.results
    if opcode in ARITHMETIC:
        return float(sum(result.size for result in results))
    if opcode == "dot":
        return _dot(instruction, _operand(instruction, computation, 0))
    if opcode == "convolution":
        lhs = _operand(instruction, computation, 0)
        return _convolution(instruction, lhs, _operand(instruction, computation, 1))
    if opcode == "sort":
        keys = results[0].size
        return float(keys * math.ceil(math.log2(max(keys, 2))))
    return 0.0


def applications(instruction: Instruction, computation: Computation) -> float:
    """How often the computation that a reduction applies (`to_apply`) runs."""
    if instruction.opcode in ("reduce", "all-reduce", "all-reduce-start", "reduce-scatter"):
        read = _operand(instruction, computation, 0).size
        if instruction.opcode != "reduce":
            return float(sum(result.size for result in instruction.results))
        return float(max(read - instruction.results[0].size, 0))
    if instruction.opcode in ("reduce-window", "map"):
        window = _window(instruction.attribute("window")).get("size", (1,))
        return float(instruction.results[0].size * math.prod(window))
    if instruction.opcode == "scatter":
        count = len(instruction.operands) // 2
        return float(_operand(instruction, computation, count + 1).size)
    return 0.0


def _operand(instruction: Instruction, computation: Computation, index: int) -> Array:
    return computation.instructions[instruction.operands[index]].results[0]


def _dot(instruction: Instruction, lhs: Array) -> float:
    axes = re.findall(r"\d+", instruction.attribute("lhs_contracting_dims"))
    return 2.0 * instruction.results[0].size * math.prod(lhs.dims[int(axis)] for axis in axes)


def _convolution(instruction: Instruction, lhs: Array, rhs: Array) -> float:
    left, kernel, out = re.split("_|->", instruction.attribute("dim_labels"))
    window = _window(instruction.attribute("window"))
    places = 1
    spatial = [label for label in kernel if label.isdigit()]
    for label in spatial:
        i = int(label)
        places *= _places(
            lhs.dims[left.index(label)],
            rhs.dims[kernel.index(label)],
            instruction.results[0].dims[out.index(label)],
            stride=window.get("stride", ())[i : i + 1] or (1,),
            low=window.get("pad_low", ())[i : i + 1] or (0,),
            holes=window.get("lhs_dilate", ())[i : i + 1] or (1,),
            spread=window.get("rhs_dilate", ())[i : i + 1] or (1,),
        )
    # The kernel's own input width is already that of one feature group.
    groups = int(instruction.attribute("batch_group_count") or 1)
    batch = lhs.dims[left.index("b")] // groups
    return 2.0 * batch * rhs.dims[kernel.index("i")] * rhs.dims[kernel.index("o")] * places


def _window(text: str) -> dict[str, tuple[int, ...]]:
    """{"size": (2, 2), "pad_low": (0, 1), ..} of `{size=2x2 pad=0_0x1_1}`."""
    out: dict[str, tuple[int, ...]] = {}
    for key, value in _WINDOW.findall(text):
        parts = value.split("x")
        if key == "pad":
            out["pad_low"] = tuple(int(part.split("_")[0]) for part in parts)
        else:
            out[key] = tuple(int(part) for part in parts)
    return out


@functools.cache
def _places(size: int, kernel: int, out: int, *, stride, low, holes, spread) -> int:
    """Pairs of output and kernel places whose input is a real element."""
    where = np.arange(out) * stride[0] - low[0]
    total = 0
    for k in range(kernel):
        at = where + k * spread[0]
        total += int(np.sum((at >= 0) & (at % holes[0] == 0) & (at < size * holes[0])))
    return total
