"""Asks a trained policy a question and shows the tool calls as they happen.

  python -m torl_jax.solve --checkpoint=runs/quickstart "What is 347*28+91?"

With no question it reads them from the terminal, one a line. `--checkpoint` is a
working directory, one of its checkpoints, or a Hugging Face folder; for a folder
that carries no recipe, `--config` names one (it gives the prompt and the budgets).

A ToolRL policy is asked in the question's own words, and calls tools only where its recipe
has live ones; `torl_jax.serve --tools=FILE` puts others before it, in the dialogue that it was
trained on.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator

import jax
from absl import flags
from ml_collections import config_flags
from rich.console import Console
from rich.text import Text

from torl_jax import cli, compilation, parts, transcript, workshop
from torl_jax.episode import Author, Problem, Segment
from torl_jax.errors import UserError
from torl_jax.policy import load
from torl_jax.rollout import Rollout
from torl_jax.sampler.sampling import Settings


def questions(argv: list[str], console: Console) -> Iterator[str]:
    """The question given, or those typed until end of file."""
    if argv:
        if not " ".join(argv).strip():
            raise UserError("the question is empty; give one, or none to be asked for them")
        yield " ".join(argv)
        return
    while True:
        try:
            typed = console.input("[bold]question> [/bold]" if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        if typed.strip():
            yield typed.strip()


def ask(rollout: Rollout, question: str, system: str, number: int, console: Console) -> None:
    """Prints one transcript; its segments appear as soon as they are written."""
    # What is not text in the terminal's encoding arrives as surrogates, which nothing can encode.
    question = question.encode(errors="replace").decode()
    problem = Problem(f"question-{number}", question, answer="", system=system)
    (episode,) = rollout.collect([problem], 1).episodes
    last = episode.segments[-1]
    console.print("" if last.text.endswith("\n") else "\n", end="")
    ran = sum(turn.observation is not None for turn in episode.turns)
    written = episode.count(Author.POLICY)
    note = f"[{episode.end}; {written} tokens; tool calls: {ran}]" + f" {episode.error}".rstrip()
    console.print(Text(note, style="dim"))


def main(argv: list[str]) -> None:
    """The entry point."""
    values = flags.FLAGS
    if not values.checkpoint:
        raise UserError("give --checkpoint=WORKDIR (or a model folder); see --help")
    compilation.keep()
    policy = load(values.checkpoint, cli.chosen_config())
    if policy.note:
        print(policy.note, file=sys.stderr)
    policy.shape.check_positions(
        policy.cfg.sampler.longest,
        mend="give a recipe with fewer by --config, or take a model with more",
    )
    sampler = dataclasses.replace(policy.cfg.sampler, slots=1, extend_rows=1, segment=8)
    workers = dataclasses.replace(policy.cfg.sandbox, workers=1)
    cfg = dataclasses.replace(policy.cfg, sampler=sampler, sandbox=workers)
    console = Console()

    def show(segment: Segment) -> None:
        console.print(transcript.paint(segment), end="", soft_wrap=True)

    with contextlib.closing(workshop.open(cfg)) as shop:
        rollout = parts.rollout(cfg, parts.transformer(cfg, policy.shape), shop.env, show)
        params = jax.tree.map(
            lambda x: jax.numpy.asarray(x, rollout.engine.model.dtype), policy.params
        )
        line = f"markup: {cfg.protocol.markup}; {shop.line}"
        console.print(Text(f"[{line}]", style="dim"))
        for number, question in enumerate(questions(argv, console)):
            settings = Settings.of(temperature=values.temperature)
            rollout.engine.load(params, jax.random.key(values.seed), settings)
            try:
                ask(rollout, question, shop.system, number, console)
            except UserError as error:
                if argv:
                    raise
                console.print(Text(f"error: {error}", style="red"))


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Working directory, checkpoint, or model folder.")
    flags.DEFINE_float("temperature", 0.0, "Sampling temperature; 0 is greedy.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "Of the sampling, at temperatures above 0.", lower_bound=0)
    config_flags.DEFINE_config_file("config", None, "Recipe for a folder that carries none.")
    cli.run(main, __doc__ or "")
