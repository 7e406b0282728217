"""How often the body of a while loop runs.

condition: get-tuple-element(state, i) < bound      body: state[i] + step
"""

import re
from collections.abc import Mapping

from torl_jax.planning.hlo import Computation, Instruction, Module

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class UnknownTrips(ValueError):
    """A loop whose trip count is data and that the caller did not give."""


def trips(
    loop: Instruction, outer: Computation, module: Module, given: Mapping[str, float]
) -> float:
    """The trips of `loop`, an instruction of `outer`.

    `given` comes last: by the loop's `traced_name`, or by the scope that it stands in.
    """
    noted = _KNOWN.search(loop.rest)
    if noted:
        return int(noted[1])
    counted = _counted(loop, outer, module)
    if counted is not None:
        return counted
    name = traced_name(loop)
    for known in (name, name.split("/")[-2:][0]):
        if known in given:
            return given[known]
    raise UnknownTrips(
        f"the trips of the loop {name!r} ({loop.name}) are data; "
        f"given: {', '.join(given) or 'none'}"
    )


def traced_name(instruction: Instruction) -> str:
    """Its place in the traced function, e.g. while/body/cond, whatever that function is called."""
    return re.sub(r"^jit\([^)]*\)/", "", instruction.op_name)


def _counted(loop: Instruction, outer: Computation, module: Module) -> int | None:
    condition = module.computations[loop.called("condition")[0]]
    body = module.computations[loop.called("body")[0]]
    test = _Value(condition, condition.root.name, module, ()).unfused()
    if test.instruction.opcode != "compare":
        return None
    direction = test.instruction.attribute("direction")
    left, right = test.operand(0), test.operand(1)
    place = left.element()
    if place is None:
        left, right = right, left
        place = left.element()
        direction = {"GT": "LT", "GE": "LE"}.get(direction, "")
    if place is None or direction not in ("LT", "LE", "NE"):
        return None
    (state,) = loop.operands
    start = _initial(state, place, outer, module)
    bound = right.number()
    if bound is None and (other := right.element()) is not None and _kept(body, other):
        bound = _initial(state, other, outer, module)
    step = _step(body, place, module)
    if start is None or bound is None or not step or step < 0:
        return None
    end = bound + 1 if direction == "LE" else bound
    return max(-(-(end - start) // step), 0)


class _Value:
    """A value of a computation, seen through moves, fusions and calls."""

    def __init__(self, computation, name: str, module: Module, stack: tuple) -> None:
        self.computation, self.module, self.stack = computation, module, stack
        self.instruction: Instruction = computation.instructions[name]

    def operand(self, index: int) -> "_Value":
        name = self.instruction.operands[index]
        return _Value(self.computation, name, self.module, self.stack).unfused()

    def unfused(self) -> "_Value":
        """The same value, at the instruction that makes it."""
        i = self.instruction
        if i.opcode in ("fusion", "call"):
            inner = self.module.computations[(i.called("calls") or i.called("to_apply"))[0]]
            return _Value(inner, inner.root.name, self.module, (*self.stack, self)).unfused()
        if i.opcode == "parameter" and self.stack:
            caller = self.stack[-1]
            name = caller.instruction.operands[int(i.arguments)]
            return _Value(caller.computation, name, self.module, caller.stack).unfused()
        if i.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
            return self.operand(0)
        return self

    def number(self) -> int | None:
        """A constant's value."""
        if self.instruction.opcode != "constant":
            return None
        text = self.instruction.arguments
        return int(text) if re.fullmatch(r"-?\d+", text) else None

    def element(self) -> int | None:
        """Which place of the loop's state it is."""
        if self.instruction.opcode != "get-tuple-element":
            return None
        source = self.computation.instructions[self.instruction.operands[0]]
        if source.opcode != "parameter":
            return None
        return int(self.instruction.attribute("index"))


def _initial(state: str, place: int, outer: Computation, module: Module) -> int | None:
    made = outer.instructions[state]
    if made.opcode != "tuple":
        return None
    return _Value(outer, made.operands[place], module, ()).unfused().number()


def _kept(body: Computation, place: int) -> bool:
    """True where the body hands this place of the state through."""
    value = body.instructions[body.root.operands[place]]
    return value.opcode == "get-tuple-element" and value.attribute("index") == str(place)


def _step(body: Computation, place: int, module: Module) -> int | None:
    """What the body adds to this place; the addition may be written as several."""
    value = _Value(body, body.root.operands[place], module, ()).unfused()
    total = 0
    while value.instruction.opcode == "add":
        left, right = value.operand(0), value.operand(1)
        number, rest = (left.number(), right) if right.number() is None else (right.number(), left)
        if number is None:
            return None
        total, value = total + number, rest
    return total if value.element() == place else None
