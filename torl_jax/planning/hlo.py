"""A compiled program's text (`compiled.as_text()`) as computations of instructions.

Only what a count of work needs is read: shapes with their layout (tiles and memory
space), operands, called computations and a few attributes. The text rather than the
protocol buffer, because jax ships no schema of the latter; a scanned model's program is
a few megabytes whatever its depth.

    %dot.1 = f32[8,64]{1,0:T(8,128)S(1)} dot(%a, %b), lhs_contracting_dims={1}, ...
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
    "s32": 32, "u32": 32, "s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64,
    "c64": 64, "c128": 128, "token": 0, "opaque": 0,
}  # fmt: skip

_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,<= ]*)\](?:\{([\d,]*)((?::[^{}]*)?)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_NAME = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_END = re.compile(r"\}(?!\})")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_REFERENCE = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array's shape; `order` is minor to major, `tile` major to minor, `space` 0 for HBM."""

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes of the elements themselves."""
        return self.size * bits(self.dtype) // 8

    @property
    def moved(self) -> int:
        """Bytes that lie in HBM, the padding of tiles included; 0 in another memory."""
        if self.space:
            return 0
        sizes = [self.dims[axis] for axis in self.order]
        # A tile of one axis spans a small array whole: its padding is no traffic to speak of.
        if len(self.tile) > 1 and len(sizes) >= len(self.tile):
            for i, tile in enumerate(reversed(self.tile)):
                sizes[i] = -(-sizes[i] // tile) * tile
            return math.prod(sizes) * bits(self.dtype) // 8
        return self.bytes


def bits(dtype: str) -> int:
    """Bits of one element; every eight-bit float is named f8..."""
    return 8 if dtype.startswith("f8") else BITS[dtype]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`results` are the arrays of the (flattened) result; `rest` the attributes as text."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    nested: tuple[int, ...]  # arrays in each element of a tuple result
    operands: tuple[str, ...]
    arguments: str
    rest: str
    root: bool

    def attribute(self, key: str) -> str:
        """The value of `key=...`; "" if absent."""
        return self.attributes.get(key, "")

    @functools.cached_property
    def attributes(self) -> Mapping[str, str]:
        """All of `key=value, ...`."""
        pairs = (part.partition("=") for part in split(self.rest))
        return {key.strip(): value for key, _, value in pairs}

    def called(self, key: str) -> tuple[str, ...]:
        """Names of the computations of attribute `key`."""
        return tuple(_REFERENCE.findall(self.attribute(key)))

    @functools.cached_property
    def op_name(self) -> str:
        """Where in the traced program it comes from, e.g. jit(update)/while/body/dot_general."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in schedule order."""

    name: str
    instructions: Mapping[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.root)

    @functools.cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return tuple(sorted(found, key=lambda i: int(i.arguments)))

    @functools.cached_property
    def users(self) -> Mapping[str, tuple[Instruction, ...]]:
        """The instructions that read each one."""
        out: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                out[operand].append(instruction)
        return {name: tuple(users) for name, users in out.items()}


@dataclasses.dataclass(frozen=True)
class Module:
    """All computations; `entry` is the program."""

    computations: Mapping[str, Computation]
    entry: Computation


def of(compiled: Any) -> Module:
    """The program of a `jax.stages.Compiled`. ValueError where its backend gives no text."""
    text = compiled.as_text()
    if text is None:
        raise ValueError("this backend gives no text of its programs")
    return parse(text)


def parse(text: str) -> Module:
    """The program of `compiled.as_text()`. ValueError where the text is no such program."""
    computations, entry = {}, None
    for name, is_entry, lines in _blocks(text):
        instructions = [_instruction(line) for line in lines]
        computations[name] = Computation(name, {i.name: i for i in instructions})
        entry = name if is_entry else entry
    if entry is None:
        raise ValueError("no ENTRY computation in the program's text")
    return Module(computations, computations[entry])


def _blocks(text: str) -> Iterator[tuple[str, bool, list[str]]]:
    lines = iter(text.splitlines())
    for line in lines:
        found = _HEADER.match(line)
        if found:
            body: list[str] = []
            for inner in lines:
                if _NAME.match(inner):
                    body.append(inner)
                elif _END.match(inner):
                    break
                else:
                    # A kernel's own notes may hold line ends.
                    body[-1] += inner
            yield found[2], bool(found[1]), body


def _instruction(line: str) -> Instruction:
    found = _NAME.match(line)
    if not found:
        raise ValueError(f"no instruction: {line[:80]!r}")
    start = found.end()
    # A tuple's type has brackets of its own, and comments that name its places.
    end = _closing(line, start) + 1 if line[start] == "(" else _type_end(line, start)
    kind, opcode = line[start:end], _OPCODE.match(line, end)
    if not opcode:
        raise ValueError(f"no operation: {line[:80]!r}")
    close = _closing(line, opcode.end() - 1)
    arguments = line[opcode.end() : close]
    return Instruction(
        name=found[2],
        opcode=opcode[1],
        results=arrays(kind),
        nested=tuple(len(arrays(part)) for part in elements(kind)),
        operands=tuple(_REFERENCE.findall(arguments)) if opcode[1] != "constant" else (),
        arguments=arguments,
        rest=line[close + 1 :].lstrip(", "),
        root=bool(found[1]),
    )


@functools.lru_cache(maxsize=4096)
def arrays(kind: str) -> tuple[Array, ...]:
    """The arrays of a type, tuples flattened."""
    return tuple(_array(*groups) for groups in _ARRAY.findall(kind))


def _array(dtype: str, dims: str, order: str, layout: str) -> Array:
    tile, space = _TILE.search(layout), _SPACE.search(layout)
    return Array(
        dtype=dtype,
        dims=_numbers(dims.replace("<=", "")),
        order=_numbers(order),
        tile=_numbers(tile[1]) if tile else (),
        space=int(space[1]) if space else 0,
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def elements(kind: str) -> list[str]:
    """The types in a tuple's type; a lone type is its only element."""
    return split(kind[1:-1]) if kind.startswith("(") else [kind]


def split(text: str) -> list[str]:
    """The parts between commas that stand outside brackets and quotes."""
    out, start = [], 0
    for i, depth in _outside(text, 0):
        if depth == 0 and text[i] == ",":
            out.append(text[start:i])
            start = i + 1
    return [part for part in (*out, text[start:]) if part.strip()]


def _outside(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Each place outside quotes, with the depth of brackets after it."""
    depth, quoted = 0, False
    for i in range(start, len(text)):
        char = text[i]
        if char == '"' and text[i - 1] != "\\":
            quoted = not quoted
        if not quoted:
            depth += (char in "([{") - (char in ")]}")
            yield i, depth


def _type_end(line: str, start: int) -> int:
    """Where an array's type ends: at the first blank outside brackets."""
    for i, depth in _outside(line, start):
        if depth == 0 and line[i] == " ":
            return i
    raise ValueError(f"no operation: {line[:80]!r}")


def _closing(line: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`."""
    for i, depth in _outside(line, start):
        if depth == 0:
            return i
    raise ValueError(f"brackets do not close: {line[:80]!r}")
