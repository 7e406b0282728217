"""Bytes that one HLO instruction moves between HBM and the chip, each time it runs.

An operand is read once, a result written once, if it lies in HBM at all. A slice is read,
not the array it is cut from; an update in place writes the update. Inside a fusion this
holds for each parameter by what uses it, and for the result by what made it.
"""

from torl_jax.planning.hlo import Array, Computation, Instruction, Module

_COLLECTIVES = """
all-gather all-reduce all-to-all collective-broadcast collective-permute ragged-all-to-all
reduce-scatter
"""
COLLECTIVES = frozenset(_COLLECTIVES.split())
# A name for what is there already.
_FREE = """
parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id opt-barrier
domain add-dependency
"""
FREE = frozenset(_FREE.split())
VIEWS = frozenset(["bitcast", "reshape"])
SLICES = frozenset(["dynamic-slice", "slice", "gather"])
# Notes of the TPU compiler: they move nothing themselves.
MARKS = (
    "AllocateBuffer", "AssumeGatherIndicesInBound", "AsyncCollectiveDone", "AsyncCollectiveStart",
    "GatherScatterIndicesBitpacked",
)  # fmt: skip


def moved(instruction: Instruction, computation: Computation, module: Module) -> int:
    """Bytes of one run, without what a loop, branch or call runs inside."""
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done") or is_mark(instruction):
        return 0
    opcode = opcode.removesuffix("-start")
    if opcode in SLICES:
        return 2 * _pieces(instruction)
    if opcode == "dynamic-update-slice":
        return 2 * operand(instruction, computation, 1).moved
    if opcode == "scatter":
        # The places are read, changed and written; then the updates themselves.
        return 3 * _updates(instruction, computation)
    if opcode == "copy" and instruction.opcode == "copy-start":
        return sum(array.moved for array in instruction.results[:2])
    if opcode == "fusion":
        inner = module.computations[instruction.called("calls")[0]]
        reads = sum(
            min(read(inner, parameter.name, module), _all(computation, name))
            for parameter, name in zip(inner.parameters, instruction.operands, strict=True)
        )
        return reads + written(inner, inner.root, module, instruction.results)
    if instruction.opcode.endswith("-start"):
        # (operands, results, contexts): the aliases of the operands are no second read.
        return sum(array.moved for array in instruction.results)
    reads = sum(_all(computation, name) for name in dict.fromkeys(instruction.operands))
    return reads + sum(array.moved for array in instruction.results)


def is_mark(instruction: Instruction) -> bool:
    """True for a custom call that only tells the compiler something."""
    target = instruction.attribute("custom_call_target").strip('"')
    return instruction.opcode == "custom-call" and target in MARKS


def operand(instruction: Instruction, computation: Computation, index: int) -> Array:
    """The first array of an operand."""
    return computation.instructions[instruction.operands[index]].results[0]


def read(inner: Computation, name: str, module: Module) -> int:
    """Bytes of the value `name` of a fused computation that the computation reads."""
    whole, total = sum(array.moved for array in inner.instructions[name].results), 0
    for user in inner.users[name]:
        positions = [i for i, operand in enumerate(user.operands) if operand == name]
        if user.opcode in VIEWS:
            total += read(inner, user.name, module)
        elif user.opcode in SLICES and positions == [0]:
            total += _sliced(user, whole)
        elif user.opcode == "dynamic-update-slice" and positions == [0]:
            continue
        elif user.opcode == "scatter" and positions == [0]:
            total += _updates(user, inner)
        elif user.opcode == "fusion":
            deeper = module.computations[user.called("calls")[0]]
            for parameter in (deeper.parameters[i].name for i in positions):
                total += read(deeper, parameter, module)
                if _handed_on(deeper, parameter):
                    total += read(inner, user.name, module)
        # A value handed through, and a collective's, which is counted on its own.
        elif user.opcode == "tuple" or user.opcode in COLLECTIVES or is_mark(user):
            continue
        else:
            return whole
    return min(total, whole)


def _handed_on(inner: Computation, name: str) -> bool:
    """True where the computation's result is this value, seen in another shape or as it is."""
    if inner.root.name == name:
        return True
    return any(_handed_on(inner, u.name) for u in inner.users[name] if u.opcode in VIEWS)


def written(
    inner: Computation, maker: Instruction, module: Module, results: tuple[Array, ...]
) -> int:
    """Bytes that a fused computation writes for the value made by `maker`.

    `results`: the fusion's own, which know the memory that they lie in.
    """
    whole = sum(array.moved for array in results)
    if maker.opcode == "tuple":
        total, start = 0, 0
        for name in maker.operands:
            source = inner.instructions[name]
            end = start + len(source.results)
            total += written(inner, source, module, results[start:end])
            start = end
        return total
    if maker.opcode in VIEWS:
        return min(whole, written(inner, inner.instructions[maker.operands[0]], module, results))
    if maker.opcode == "dynamic-update-slice":
        return min(whole, operand(maker, inner, 1).bytes)
    if maker.opcode == "scatter":
        return min(whole, _updates(maker, inner))
    if maker.opcode in COLLECTIVES or maker.opcode == "parameter" or is_mark(maker):
        return 0
    if maker.opcode == "fusion":
        deeper = module.computations[maker.called("calls")[0]]
        return written(deeper, deeper.root, module, results)
    return whole


def _all(computation: Computation, name: str) -> int:
    return sum(array.moved for array in computation.instructions[name].results)


def _pieces(instruction: Instruction) -> int:
    """Bytes of a slice; an asynchronous one has it as the second part of its result."""
    if not instruction.opcode.endswith("-start"):
        return sum(array.moved for array in instruction.results)
    first = instruction.nested[0]
    return instruction.results[first].bytes


def _sliced(user: Instruction, whole: int) -> int:
    return min(whole, user.results[0].bytes)


def _updates(instruction: Instruction, computation: Computation) -> int:
    count = len(instruction.operands) // 2
    return sum(operand(instruction, computation, count + 1 + i).bytes for i in range(count))
