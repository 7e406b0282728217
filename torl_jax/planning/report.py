"""A plan as a table for people, as Markdown, and as JSON for scripts."""

import json
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from torl_jax.planning import estimate
from torl_jax.planning.chips import GIB
from torl_jax.planning.measure import Measured
from torl_jax.planning.plan import Plan, flags
from torl_jax.planning.programs import DECODE, UPDATE

HEADS = (
    "program", "arguments", "temporaries", "outputs", "others hold", "in use", "of HBM",
    "TFLOP", "GB moved", "at least", "bound by", "collectives", "GB sent", "compiled",
)  # fmt: skip
SHORT = {
    "all-gather": "ag", "all-reduce": "ar", "reduce-scatter": "rs", "all-to-all": "aa",
    "collective-permute": "cp", "collective-broadcast": "cb", "ragged-all-to-all": "ra",
}  # fmt: skip


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """The table's lines; memory in GiB a device, work of one run of the program a device."""
    return [_row(plan, program) for program in plan.programs.values()]


def _row(plan: Plan, program: Measured) -> tuple[str, ...]:
    chip = plan.target.chip
    share = f"{program.needed / GIB / chip.usable_gib:.0%}" if chip.known else "?"
    if program.wanted:
        refused = f"{program.wanted / GIB:.1f} refused"
        shown = ("-", refused, "-", _gib(program.held), _gib(program.needed), share)
        return (program.name, *shown, *("-",) * 6, f"{program.seconds:.0f} s")
    times = program.roofline(chip)
    return (
        program.name,
        _gib(program.argument),
        _gib(program.temporary + program.code),
        _gib(program.output),
        _gib(program.held),
        _gib(program.needed),
        share,
        f"{program.flops / 1e12:.3g}",
        f"{program.bytes / 1e9:.3g}",
        _time(program.least(chip)) if times else "?",
        max(times, key=lambda name: times[name]) if times else "?",
        _collectives(program),
        f"{program.sent / 1e9:.3g}",
        f"{program.seconds:.0f} s",
    )


def _collectives(program: Measured) -> str:
    found = sorted(program.collectives.items(), key=lambda item: -item[1].bytes)
    return " ".join(f"{c.count:.0f} {SHORT[kind]}" for kind, c in found) or "none"


def _gib(size: float) -> str:
    return f"{size / GIB:.3g}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def title(plan: Plan, name: str) -> str:
    """What was planned, in a line."""
    target = plan.target
    return (
        f"{name} on {target.name}: {plan.parameters / 1e9:.3g} B parameters, {target.chips} "
        f"chips, {target.devices} devices, {target.hosts} hosts"
    )


def summary(plan: Plan) -> list[str]:
    """The expected step and how the compiled work compares with arithmetic."""
    lines = []
    step = plan.step
    if step.seconds:
        shares = ", ".join(
            f"{phase.name} {phase.seconds / step.seconds:.0%} ({_time(phase.seconds)}, "
            f"{phase.runs:g} runs)"
            for phase in step.phases
            if phase.runs
        )
        lines += [
            f"step: {step.seconds:.1f} s at least, so at most {step.tokens_per_second:,.0f} "
            f"response tokens a second ({step.tokens:,.0f} a step)",
            f"time: {shares}",
        ]
    if not any(plan.programs[name].wanted for name in (UPDATE, DECODE)):
        lines += [
            f"update: {plan.flops_ratio:.2f} x the FLOPs of 6 N tokens + causal attention",
            f"decode: {plan.bytes_ratio:.2f} x the bytes of weights + live cache a step",
        ]
    return lines


def expectation(plan: Plan, proposal: Plan | None) -> list[str]:
    """The summary of what can be run: the plan, or what is proposed in its place."""
    if plan.fits:
        return summary(plan)
    return [] if proposal is None else summary(proposal)


def verdict(plan: Plan, proposal: Plan | None) -> list[str]:
    """Whether it fits, else what to change."""
    chip = plan.target.chip
    if plan.fits:
        return ["fits" if chip.known else "compiles; whether it fits is not known for this chip"]
    lacking = ", ".join(
        f"{p.name} needs {p.needed / GIB:.1f} of {chip.usable_gib:g} GiB"
        for p in plan.programs.values()
        if not p.fits(chip)
    )
    if proposal is None:
        return [
            f"does not fit: {lacking}",
            "no smaller microbatch, remat or slot count fits: take more chips, split the weights "
            "further (--config.mesh.fsdp, --config.mesh.tp, --config.sampler.tp) or put the "
            "optimiser's state into the hosts' memory (--config.optimizer.offload)",
        ]
    words = " ".join(flags(plan.cfg, proposal.cfg))
    return [f"does not fit: {lacking}", f"fits with {words} (compiled)"]


def notes(plan: Plan) -> list[str]:
    """Every assumption."""
    return estimate.assumptions(plan.cfg, plan.load, plan.target.chip, plan.samplers)


def show(plan: Plan, proposal: Plan | None, name: str, console: Console) -> None:
    """Prints the plan for a person."""
    table = Table(title=title(plan, name), box=box.SIMPLE_HEAD, title_justify="left")
    for i, head in enumerate(HEADS):
        # A cut number is worse than a wrapped line.
        table.add_column(head, justify="left" if i in (0, 10, 11) else "right", no_wrap=i != 11)
    for row in rows(plan):
        table.add_row(*row)
    console.print(table)
    console.print("memory in GiB and work of one run, each of one device")
    text = [
        *verdict(plan, proposal),
        *expectation(plan, proposal),
        "assumed:",
        *(f"- {n}" for n in notes(plan)),
    ]
    for line in text:
        console.print(line, highlight=False, markup=False)


def markdown(plan: Plan, proposal: Plan | None, name: str) -> str:
    """The plan as a section of docs/plans.md."""
    lines = [f"## {title(plan, name)}", "", *_table(HEADS, rows(plan)), ""]
    lines += [f"- {line}" for line in [*verdict(plan, proposal), *expectation(plan, proposal)]]
    lines += ["", "Assumed:", "", *(f"- {note}" for note in notes(plan)), ""]
    return "\n".join(lines)


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *body)]
    return [lines[0], "|" + "---|" * len(heads), *lines[1:]]


def to_json(plan: Plan, proposal: Plan | None, name: str) -> str:
    """The plan for scripts: bytes, FLOPs and seconds as plain numbers."""
    chip, runs = plan.target.chip, plan if plan.fits else proposal
    step = runs.step if runs else None
    return json.dumps(
        {
            "config": name,
            "topology": plan.target.name,
            "fits": plan.fits,
            "programs": [_program(program, plan) for program in plan.programs.values()],
            "hbm_bytes": chip.usable_gib * GIB,
            "step_seconds": (step and step.seconds) or None,
            "tokens_per_second": (step and step.tokens_per_second) or None,
            "phases": {phase.name: phase.seconds for phase in step.phases} if step else {},
            "flops_ratio": plan.flops_ratio,
            "bytes_ratio": plan.bytes_ratio,
            "proposal": None if proposal is None else flags(plan.cfg, proposal.cfg),
            "assumptions": notes(plan),
        },
        indent=2,
    )


def _program(program: Measured, plan: Plan) -> dict:
    chip = plan.target.chip
    return {
        "name": program.name,
        "fits": program.fits(chip),
        "argument_bytes": program.argument,
        "temporary_bytes": program.temporary + program.code,
        "output_bytes": program.output,
        "held_bytes": program.held,
        "needed_bytes": program.needed,
        "flops": program.flops,
        "hbm_bytes": program.bytes,
        "roofline_seconds": program.least(chip) or None,
        "collectives": {
            kind: {"count": found.count, "bytes": found.bytes}
            for kind, found in program.collectives.items()
        },
        "compile_seconds": program.seconds,
    }
