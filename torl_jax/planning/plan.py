"""A recipe's plan on a topology, and what to change where it does not fit."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

from torl_jax import config
from torl_jax.errors import UserError
from torl_jax.parallel import mesh as meshes
from torl_jax.planning import estimate, programs, topology
from torl_jax.planning.measure import Measured, measure
from torl_jax.planning.programs import ANNOTATE, DECODE, EXTEND, HANDOFF, UPDATE, Load, Run
from torl_jax.planning.topology import Slice

# Compilations that a search for a recipe that fits may take.
TRIES = 12
# Smaller memory first.
REMAT = ("full", "dots", "none")

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was compiled, and the step that follows from it.

    model_flops, model_bytes: of an update and of a decode step, by arithmetic (see `Run`).
    """

    cfg: config.Config
    target: Slice
    parameters: int
    load: Load
    samplers: int
    model_flops: float
    model_bytes: float
    programs: dict[str, Measured]

    @property
    def flops_ratio(self) -> float:
        """FLOPs of the compiled update over those of arithmetic."""
        return self.programs[UPDATE].flops / self.model_flops

    @property
    def bytes_ratio(self) -> float:
        """HBM bytes of a compiled decode step over weights and live cache."""
        return self.programs[DECODE].bytes / self.cfg.sampler.segment / self.model_bytes

    @property
    def fits(self) -> bool:
        """Whether every program runs beside what the others hold."""
        return all(program.fits(self.target.chip) for program in self.programs.values())

    @property
    def step(self) -> estimate.Step:
        """The expected step; only of a plan that fits."""
        return estimate.step(self.cfg, self.load, self.programs, self.target.chip, self.samplers)


class Planner:
    """Compiles recipes for one topology, each program once for the settings that it depends on."""

    def __init__(
        self,
        target: Slice,
        prompt: float | None = None,
        response: float | None = None,
        tell: Tell = lambda line: None,
    ) -> None:
        self.target, self.prompt, self.response, self.tell = target, prompt, response, tell
        self.devices = topology.devices(target)
        self.host_devices = topology.devices(target.host)
        self.known: dict[str, Measured] = {}

    def plan(self, cfg: config.Config) -> Plan:
        """Compiles all programs of `cfg`; UserError where model or mesh do not fit together."""
        shape, vocab = programs.architecture(cfg.model)
        shape.check_positions(cfg.sampler.longest)
        run = Run(cfg, shape, vocab, self.devices, self.host_devices)
        load = estimate.expected(cfg, self.prompt, self.response)
        return Plan(
            cfg=cfg,
            target=self.target,
            parameters=shape.parameter_count,
            load=load,
            samplers=run.samplers,
            model_flops=run.model_flops(load),
            model_bytes=run.model_bytes(load),
            programs={name: self.program(run, name, load) for name in programs.NAMES},
        )

    def program(self, run: Run, name: str, load: Load) -> Measured:
        """One program, from memory where its own settings were met before."""
        cfg = run.cfg
        shared = (name, self.target.name, cfg.model, cfg.mesh, cfg.optimizer)
        over = (cfg.sampler.span, cfg.sampler.fsdp, cfg.sampler.tp)
        own = {HANDOFF: over, EXTEND: (cfg.sampler,), DECODE: (cfg.sampler,)}
        # Overrides are a dict, which has no hash.
        key = repr((*shared, *own.get(name, (cfg.learner, cfg.rl, cfg.sampler.temperature))))
        if key not in self.known:
            self.tell(f"compiling {name} for {self.target.name}")
            self.known[key] = measure(run, name, load)
        # What others hold may have changed all the same.
        return dataclasses.replace(self.known[key], held=run.held(name))

    def proposal(self, plan: Plan) -> Plan | None:
        """The first of `changes` that fits, compiled; None where none of TRIES does."""
        for cfg in itertools.islice(self.changes(plan), TRIES):
            self.tell(f"trying {' '.join(flags(plan.cfg, cfg))}")
            try:
                tried = self.plan(cfg)
            except UserError as error:
                self.tell(f"not possible: {error}")
                continue
            if tried.fits:
                return tried
        return None

    def changes(self, plan: Plan) -> Iterator[config.Config]:
        """Recipes that take less memory, the smallest change first.

        Fewer slots where only sampling lacks memory; else remat, then fewer rows a
        microbatch (more accumulation), then both with fewer slots.
        """
        cfg, chip = plan.cfg, self.target.chip
        lacking = {name for name, program in plan.programs.items() if not program.fits(chip)}
        training = meshes.make(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tp, self.devices)
        rows = halves(cfg.learner.microbatch_rows, meshes.ways(training))
        slots = halves(cfg.sampler.slots, 1)
        remats = REMAT[: REMAT.index(cfg.learner.remat) + 1][::-1]
        if not lacking & {UPDATE, ANNOTATE}:
            rows, remats = rows[:1], remats[:1]
        for slot, row, remat in sorted(
            itertools.product(range(len(slots)), range(len(rows)), range(len(remats))),
            key=lambda change: (change[0] + change[1] + change[2], change[0], change[1]),
        ):
            if slot + row + remat:
                yield changed(cfg, remats[remat], rows[row], slots[slot])


def halves(size: int, ways: int) -> list[int]:
    """`size` and its halves, as long as they are multiples of `ways`."""
    out = [size]
    while out[-1] % 2 == 0 and out[-1] // 2 % ways == 0 and out[-1] > 1:
        out.append(out[-1] // 2)
    return out


def changed(cfg: config.Config, remat: str, rows: int, slots: int) -> config.Config:
    """`cfg` with another use of memory."""
    raw = config.to_dict(cfg)
    raw["learner"] |= {"remat": remat, "microbatch_rows": rows}
    raw["sampler"] |= {"slots": slots}
    return config.parse(raw)


def flags(before: config.Config, after: config.Config) -> list[str]:
    """The command line's words that turn `before` into `after`."""
    old, new = config.to_dict(before), config.to_dict(after)
    return [
        f"--config.{section}.{key}={value}"
        for section in new
        for key, value in new[section].items()
        if value != old[section][key]
    ]
