"""Compiles a recipe's programs for a topology, and says what they take and whether they fit.

    python -m torl_jax.plan --config=configs/torl_7b.py --topology=v5p:2x2x4

No TPU is needed: libtpu compiles for slices that are not there; `--topology=cpu:8` does
without libtpu. Exit code 0 where the recipe fits, 1 where it does not, 2 for bad input.
"""

import sys

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from torl_jax import cli
from torl_jax.errors import UserError
from torl_jax.planning import report, topology
from torl_jax.planning.plan import Planner


def main(argv: list[str]) -> None:
    """The entry point."""
    if argv:
        raise UserError(f"unexpected argument {argv[0]!r}; flags begin with --, see --help")
    options = flags.FLAGS
    if not options.topology:
        raise UserError(f"no topology: give --topology=NAME; known: {', '.join(topology.KNOWN)}")
    target = topology.parse(options.topology)
    cfg = cli.chosen_config()
    if cfg is None:
        raise UserError("no config: give --config=configs/torl_7b.py")
    topology.prepare(target)
    progress = Console(stderr=True)
    planner = Planner(
        target,
        prompt=options.prompt_tokens,
        response=options.response_tokens,
        tell=lambda line: progress.print(line, style="dim", highlight=False),
    )
    plan = planner.plan(cfg)
    proposal = None if plan.fits else planner.proposal(plan)
    name = " ".join(word for word in sys.argv[1:] if "config" in word).removeprefix("--config=")
    if options.json:
        print(report.to_json(plan, proposal, name))
    elif options.markdown:
        print(report.markdown(plan, proposal, name))
    else:
        report.show(plan, proposal, name, Console(width=None if sys.stdout.isatty() else 180))
    sys.exit(0 if plan.fits else 1)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Config file, FILE or FILE:ARGUMENT.")
    flags.DEFINE_string("topology", None, "What to plan for, such as v5p:2x2x4 or cpu:8.")
    flags.DEFINE_float(
        "prompt_tokens", None, "Mean tokens of a prompt (default: half of the longest)."
    )
    flags.DEFINE_float(
        "response_tokens", None, "Mean tokens of a response (default: half of the longest)."
    )
    flags.DEFINE_bool("json", False, "Print an object for scripts.")
    flags.DEFINE_bool("markdown", False, "Print a section for docs/plans.md.")
    cli.run(main, __doc__ or "", with_config=True)
