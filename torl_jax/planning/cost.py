"""The work of a compiled program on one device: FLOPs, HBM traffic, collectives.

XLA's own cost analysis counts the body of a loop once. Here a body is counted as often as
it runs: by the compiler's note where there is one, else by the loop's condition, else by
what the caller knows (`Facts`). A loop whose trips nobody knows is an error.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping

from torl_jax.planning import flops, traffic
from torl_jax.planning.hlo import Array, Computation, Instruction, Module
from torl_jax.planning.trips import traced_name, trips


@dataclasses.dataclass(frozen=True)
class Collective:
    """Runs of a kind of collective, and bytes that a device sends in them."""

    count: float = 0.0
    bytes: float = 0.0

    def plus(self, other: "Collective", times: float = 1.0) -> "Collective":
        """The sum of both."""
        return Collective(self.count + other.count * times, self.bytes + other.bytes * times)


@dataclasses.dataclass
class Cost:
    """FLOPs, HBM bytes and collectives by kind, of one device."""

    flops: float = 0.0
    bytes: float = 0.0
    collectives: dict[str, Collective] = dataclasses.field(default_factory=dict)

    @property
    def sent(self) -> float:
        """Bytes of all collectives."""
        return sum(collective.bytes for collective in self.collectives.values())

    def add(self, other: "Cost", times: float = 1.0) -> None:
        """Adds `times` runs of `other`."""
        self.flops += other.flops * times
        self.bytes += other.bytes * times
        for kind, found in other.collectives.items():
            mine = self.collectives.get(kind, Collective())
            self.collectives[kind] = mine.plus(found, times)


# A kernel's (FLOPs, bytes) from its operands' and results' arrays.
Rule = Callable[[tuple[Array, ...], tuple[Array, ...]], tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the text of a program does not tell.

    trips: runs of the loop of this traced name or scope (`trips.trips`). branches: which branch
    of the conditional of this traced name is taken (else the costliest). kernels: rules for
    custom calls whose op_name or kernel name contains the key (else their own estimate).
    """

    trips: Mapping[str, float] = dataclasses.field(default_factory=dict)
    branches: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kernels: Mapping[str, Rule] = dataclasses.field(default_factory=dict)


def count(module: Module, facts: Facts | None = None) -> Cost:
    """The cost of one run of the program. UnknownTrips where a loop's trips are unknown."""
    return _Counter(module, facts or Facts()).run(module.entry)


class _Counter:
    def __init__(self, module: Module, facts: Facts) -> None:
        self.module, self.facts = module, facts
        self.known: dict[str, Cost] = {}
        self.work: dict[str, float] = {}

    def run(self, computation: Computation) -> Cost:
        """One run of a computation whose instructions run one by one."""
        if computation.name not in self.known:
            total = Cost()
            for instruction in computation.instructions.values():
                total.add(self.one(instruction, computation))
            self.known[computation.name] = total
        return self.known[computation.name]

    def one(self, instruction: Instruction, computation: Computation) -> Cost:
        """One run of an instruction, with all that it calls."""
        opcode, cost = instruction.opcode, Cost()
        if opcode == "while":
            times = trips(instruction, computation, self.module, self.facts.trips)
            for key in ("body", "condition"):
                (name,) = instruction.called(key)
                cost.add(self.run(self.module.computations[name]), times)
        elif opcode == "conditional":
            cost.add(self.branch(instruction))
        elif opcode in ("call", "async-start"):
            (name,) = instruction.called("to_apply") or instruction.called("calls")
            cost.add(self.run(self.module.computations[name]))
        elif opcode == "custom-call" and not traffic.is_mark(instruction):
            cost.flops, cost.bytes = self.kernel(instruction, computation)
        else:
            cost.flops = self.fused(instruction, computation)
            cost.bytes = traffic.moved(instruction, computation, self.module)
            self.collect(instruction, computation, cost)
        return cost

    def branch(self, instruction: Instruction) -> Cost:
        """The branch that is known to be taken, else the one that moves most."""
        names = instruction.called("branch_computations") or (
            *instruction.called("false_computation"),
            *instruction.called("true_computation"),
        )
        costs = [self.run(self.module.computations[name]) for name in names]
        taken = self.facts.branches.get(traced_name(instruction))
        if taken is not None:
            return costs[taken]
        return max(costs, key=lambda cost: (cost.bytes, cost.flops))

    def kernel(self, instruction: Instruction, computation: Computation) -> tuple[float, float]:
        """A kernel by its rule, else by its own estimate, else by its operands and results."""
        operands = tuple(
            array
            for name in instruction.operands
            for array in computation.instructions[name].results
        )
        for key, rule in self.facts.kernels.items():
            if key in instruction.op_name or f'kernel_name="{key}' in instruction.rest:
                return rule(operands, instruction.results)
        plain = sum(array.moved for array in (*operands, *instruction.results))
        estimate = re.search(r'"cost_estimate":(\{[^{}]*\})', instruction.rest)
        if not estimate:
            return 0.0, float(plain)
        found = json.loads(estimate[1])
        return float(found.get("flops", 0)), float(found.get("bytes_accessed", plain))

    def fused(self, instruction: Instruction, computation: Computation) -> float:
        """FLOPs of an instruction and of what is fused into it."""
        inner = 0.0
        if instruction.opcode == "fusion":
            (name,) = instruction.called("calls")
            inner = self.total(name)
        elif times := flops.applications(instruction, computation):
            # Of a reduction's computation only the arithmetic counts, as in XLA.
            inner = times * sum(self.total(name) for name in instruction.called("to_apply"))
        return inner + flops.direct(instruction, computation)

    def total(self, name: str) -> float:
        """FLOPs of one run of a fused computation."""
        if name not in self.work:
            inner = self.module.computations[name]
            self.work[name] = sum(self.fused(i, inner) for i in inner.instructions.values())
        return self.work[name]

    def collect(self, instruction: Instruction, computation: Computation, cost: Cost) -> None:
        """Adds the collectives of an instruction, or of a fusion that carries one."""
        if instruction.opcode == "fusion":
            (name,) = instruction.called("calls")
            inner = self.module.computations[name]
            for deeper in inner.instructions.values():
                if not _in_flight(deeper, inner):
                    self.collect(deeper, inner, cost)
        kind = instruction.opcode.removesuffix("-start")
        if kind in traffic.COLLECTIVES:
            if kind == "all-reduce" and computation.root.opcode == "dynamic-slice":
                kind = "reduce-scatter"  # as the TPU compiler writes it
            bytes_ = sent(instruction, kind, computation)
            cost.add(Cost(collectives={kind: Collective(1.0, bytes_)}))


def _in_flight(instruction: Instruction, computation: Computation) -> bool:
    """True for a collective that another fusion started: each one beside it repeats it."""
    started = any(
        "AsyncCollectiveStart" in user.attribute("custom_call_target")
        for user in computation.users[instruction.name]
    )
    return "chain_id" in instruction.attribute("frontend_attributes") and not started


def sent(instruction: Instruction, kind: str, computation: Computation) -> float:
    """Bytes a device sends, in the ring algorithms: (n-1)/n of the array, twice to all-reduce."""
    operands = sum(
        array.bytes
        for name in instruction.operands
        for array in computation.instructions[name].results
    )
    n = group_size(instruction)
    if kind == "all-gather":
        # A device's own part goes round the ring: n - 1 times.
        return float(operands * (n - 1))
    if kind in ("collective-permute", "collective-broadcast"):
        return float(operands)
    share = operands * (n - 1) / n
    return 2 * share if kind == "all-reduce" else share


def group_size(instruction: Instruction) -> int:
    """Devices in a group, from any of the three ways in which groups are written."""
    text = instruction.attribute("replica_groups")
    mesh = re.match(r"mesh\[(.*?)\]\s*\{(.*?)\}", text)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        size = 1
        for axis in re.findall(r"'([^']+)'", mesh[2]):
            size *= int(sizes[axis])
        return size
    iota = re.match(r"\[(\d+),(\d+)\]<=", text)
    if iota:
        return int(iota[2])
    first = re.match(r"\{\{([\d,]+)\}", text)
    return len(first[1].split(",")) if first else 1
