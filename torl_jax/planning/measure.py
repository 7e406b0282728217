"""Compiles one program of a run and says what it takes: memory, work, time at least."""

import dataclasses
import re
import time

import jax

from torl_jax.planning import cost, hlo
from torl_jax.planning.chips import GIB, Chip
from torl_jax.planning.cost import Collective
from torl_jax.planning.programs import Load, Run

# "Ran out of memory on HBM, ... (111.87G) exceeds available HBM (15.75G)", or
# "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. ..."
_REFUSED = re.compile(r"\(?([\d.]+)([KMGT])\)? (?:exceeds available|of [\d.]+[KMGT] hbm)", re.ASCII)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One program on one device; bytes unless said otherwise.

    argument, output, temporary, code: as the compiler says, of the output only what takes
    no argument's place. held: what else lives meanwhile. wanted: what a program that the
    compiler refused asks for, and then nothing else is known. seconds: of compilation.
    """

    name: str
    held: int
    seconds: float
    argument: int = 0
    output: int = 0
    temporary: int = 0
    code: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    collectives: dict[str, Collective] = dataclasses.field(default_factory=dict)
    wanted: float = 0.0

    @property
    def sent(self) -> float:
        """Bytes of all collectives that the device sends."""
        return sum(collective.bytes for collective in self.collectives.values())

    @property
    def needed(self) -> float:
        """Bytes of memory while it runs."""
        own = self.wanted or self.argument + self.output + self.temporary + self.code
        return own + self.held

    def fits(self, chip: Chip) -> bool:
        """Whether it runs beside what is held; True where the chip's memory is not known."""
        if self.wanted:
            return False
        return not chip.known or self.needed <= chip.usable_gib * GIB

    def roofline(self, chip: Chip) -> dict[str, float]:
        """Seconds that compute, memory and network take at their peaks; {} where unknown."""
        if not chip.known:
            return {}
        return {
            "compute": self.flops / (chip.flops / chip.devices),
            "memory": self.bytes / (chip.hbm_bandwidth / chip.devices),
            "network": self.sent / (chip.ici_bandwidth / chip.devices),
        }

    def least(self, chip: Chip) -> float:
        """Seconds of one run at least: the longest of the three. 0 where unknown."""
        return max(self.roofline(chip).values(), default=0.0)


def measure(run: Run, name: str, load: Load) -> Measured:
    """Compiles program `name` of `run`. A lack of memory is an answer, any other error is not."""
    begin = time.perf_counter()
    held = run.held(name)
    try:
        compiled = run.lower(name).compile()
    except jax.errors.JaxRuntimeError as error:
        found = _REFUSED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not found:
            raise
        wanted = float(found[1]) * _UNITS[found[2]]
        return Measured(name, held, time.perf_counter() - begin, wanted=wanted)
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    work = cost.count(hlo.of(compiled), run.facts(name, load))
    return Measured(
        name=name,
        held=held,
        seconds=seconds,
        argument=memory.argument_size_in_bytes,
        output=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=work.flops,
        bytes=work.bytes,
        collectives=work.collectives,
    )
