"""Evaluates a policy's tool calling on API-Bank and Bamboogle, as ToolRL does.

  python -m torl_jax.evaluate_tools --checkpoint=runs/toolrl --benchmarks=api_bank=DIR
  python -m torl_jax.evaluate_tools --checkpoint=OWNER/NAME --benchmarks=bamboogle=data.json \\
      --search=https://google.serper.dev/search --judge=https://api.openai.com/v1

`--checkpoint` is a working directory, one of its checkpoints, a Hugging Face folder or a name on
the hub; its tokenizer has a chat template. api_bank=DIR holds the level files (level-1.json, ...),
bamboogle=FILE the questions. For BFCL see torl_jax.toolbench.bfcl and docs/toolrl.md.

Bamboogle needs `--search`, a URL in Serper's shape (key in SERPER_API_KEY) or a recorded file, and
`--judge`, an OpenAI-compatible URL (key in OPENAI_API_KEY), a recorded file, or `exact`, which
looks for the gold answer's words and is not what the paper did. A question whose search or
judgment fails is left out and told; the same command asks again.

Greedy, one reply an item. A prompt longer than `--max_prompt` counts as wrong and is told. `--out`
gets results.md, results.json and every reply (generations-*.jsonl); the same command goes on where
a killed one stopped.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags
from rich.console import Console

from torl_jax import cli, config, parts, policy, record, toolexam
from torl_jax.errors import UserError
from torl_jax.evaluation import Mode, too_long
from torl_jax.exam import say
from torl_jax.interrupt import StopSignal
from torl_jax.journal import Journal, settle
from torl_jax.logs import finite, strict_json
from torl_jax.protocols.chat import ChatTemplate
from torl_jax.scoreboard import Answered, Sheet, Standing
from torl_jax.sitting import alone, check_room, fingerprint, stoppable
from torl_jax.toolbench import api_bank, bamboogle, judge, published, suite, tables
from torl_jax.toolbench.suite import Servers, Suite

# Tokens; together the 4,096 that the paper's evaluation lets a prompt and its reply have.
MAX_PROMPT, MAX_RESPONSE = 3072, 1024
LEFT_TOLD = 3  # questions left out that are named


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for."""

    checkpoint: str
    benchmarks: Mapping[str, str]  # by name: a folder or file
    out: epath.Path
    servers: Servers = dataclasses.field(default_factory=Servers)
    temperature: float = 0.0
    seed: int = 0
    max_items: int = 0
    max_prompt: int = MAX_PROMPT
    max_response: int = MAX_RESPONSE
    slots: int | None = None

    @classmethod
    def of(cls, values: Any) -> "Options":
        """From the flags; UserError for what is missing."""
        if not values.checkpoint or not values.benchmarks:
            raise UserError("give --checkpoint=PATH and --benchmarks=NAME=PATH,...; see --help")
        word = re.sub(r"[^\w.@-]+", "-", values.checkpoint).strip("-.")
        return cls(
            checkpoint=values.checkpoint,
            benchmarks=suite.chosen(values.benchmarks),
            out=record.folder(values.out or f"evaluations/{word}-tools"),
            servers=Servers(
                search=values.search,
                judge=values.judge,
                judge_model=values.judge_model,
                literal=values.literal,
                trained=suite.trained(values.system),
            ),
            temperature=values.temperature,
            seed=values.seed,
            max_items=values.max_items,
            max_prompt=values.max_prompt,
            max_response=values.max_response,
            slots=values.slots,
        )


def changed(cfg: config.Config, options: Options) -> config.Config:
    """The recipe for evaluation: ToolRL's protocol in single steps, on this host's devices."""
    raw = config.to_dict(cfg)
    raw["protocol"] |= {"markup": "toolrl", "calls": 0}
    raw["sampler"] |= {
        "max_prompt": options.max_prompt,
        "max_response": options.max_response,
        "span": "host",
        "deadline": 0.0,
    }
    if options.slots:
        raw["sampler"]["slots"] = options.slots
    # Nothing is learnt here, but a recipe's rows must hold its episodes.
    longest = options.max_prompt + options.max_response
    raw["learner"]["row_tokens"] = max(raw["learner"]["row_tokens"], longest)
    return config.parse(raw)


def evaluate(options: Options, fallback: config.Config | None, stop: StopSignal) -> None:
    """Samples what is missing, writes the results, prints the tables.

    Raises Interrupted where somebody asked to stop; what was finished is on disk.
    """
    console = Console(highlight=False)
    with contextlib.ExitStack() as stack:
        asked = suite.read(options.benchmarks, options.servers, options.max_items)
        stack.callback(asked.close)
        found = policy.load(options.checkpoint, fallback)
        cfg = changed(found.cfg, options)
        long, longest = toolexam.fitting(cfg, asked)
        check_room(found.shape, longest, options.max_response)
        stack.enter_context(alone(options.out))
        settle(options.out, settings(options, cfg, found.params, asked))
        journals = {
            name: stack.enter_context(Journal(options.out, name, 0, 1))
            for name in options.benchmarks
        }
        exam = Exam(options, cfg, found, asked, journals, long, longest)
        for line in [*asked.notes(), *exam.before()]:
            say(console, line)
        left_out = exam.sit(console, stop)
        report(exam, left_out, console)


def settings(options: Options, cfg: config.Config, params: dict, asked: Suite) -> dict[str, Any]:
    """What the replies and their verdicts depend on."""
    template = ChatTemplate.of(parts.tokenizer(cfg.model).folder)
    return {
        "checkpoint": options.checkpoint,
        "weights": fingerprint(params),
        "seed": options.seed,
        "temperature": options.temperature,
        "template": suite.digest(template.text),
        "config.model.dtype": cfg.model.dtype,
        "config.sampler.max_prompt": options.max_prompt,
        "config.sampler.max_response": options.max_response,
        **asked.fingerprints(),
    }


@dataclasses.dataclass(frozen=True)
class Exam:
    """What is asked of whom, and where it is written; `long`: items whose prompts do not fit."""

    options: Options
    cfg: config.Config
    found: policy.Policy
    asked: Suite
    journals: Mapping[str, Journal]
    long: frozenset[str]
    longest: int

    @property
    def bank(self) -> list[api_bank.Item]:
        """API-Bank's items that fit."""
        return [item for item in self.asked.bank if item.problem.id not in self.long]

    @property
    def questions(self) -> list[bamboogle.Item]:
        """Bamboogle's that fit."""
        return [item for item in self.asked.questions if item.name not in self.long]

    @property
    def done(self) -> int:
        """Items that need no more sampling."""
        return sum(len(journal.answered) for journal in self.journals.values())

    def before(self) -> list[str]:
        """What is there already."""
        total = len(self.bank) + len(self.questions)
        return [f"{self.done} of {total} items were done before"] if self.done else []

    def sit(self, console: Console, stop: StopSignal) -> dict[str, str]:
        """Samples what is missing; why questions are left out, by id."""
        asked, options, total = self.asked, self.options, len(self.bank) + len(self.questions)
        if self.done == total:
            return {}
        mode, most = Mode(1, options.temperature), max(len(self.bank), len(self.questions))
        rollout = toolexam.rollout(self.cfg, self.found, mode, options.seed, most, self.longest)
        with toolexam.Progress(console, total, self.done) as progress:
            if self.bank:
                journal = self.journals[api_bank.NAME]
                toolexam.sit_api_bank(
                    rollout, self.bank, journal, progress.tell, lambda: stop.caught
                )
            if asked.web is None or asked.referee is None:
                return {}
            loop = toolexam.Bamboogle(
                rollout,
                self.questions,
                self.journals[bamboogle.NAME],
                asked.web,
                asked.referee,
                system=asked.system,
                literal=options.servers.literal,
                told=progress.tell,
                stopped=lambda: stop.caught,
            )
            loop.run()
        return loop.left_out

    def answered(self, name: str) -> list[Answered]:
        """A benchmark's items in order, without those left out; what does not fit is wrong."""
        problems = [p for p in self.asked.first if p.id.startswith(f"{name}:")]
        known = self.journals[name].answered
        return [
            too_long(problem, 1) if problem.id in self.long else known[problem.id]
            for problem in problems
            if problem.id in self.long or problem.id in known
        ]

    def after(self, left_out: Mapping[str, str]) -> list[str]:
        """What a person should know of the figures."""
        lines = self.asked.notes()
        for name in self.journals:
            if count := sum(map(tables.fits_not, self.answered(name))):
                lines.append(
                    f"{name}: {count} items count as wrong, a prompt of theirs is longer than "
                    f"--max_prompt={self.options.max_prompt} tokens"
                )
        if left_out:
            named = "; ".join(f"{i}: {why}" for i, why in list(left_out.items())[:LEFT_TOLD])
            lines.append(
                f"bamboogle: {len(left_out)} questions are left out, their search or judgment "
                f"failed ({named}); run it again for them"
            )
        if isinstance(self.asked.referee, judge.Exact):
            lines.append("bamboogle: judged by the gold answer's words, not as the paper does")
        return lines


def report(exam: Exam, left_out: Mapping[str, str], console: Console) -> None:
    """results.json, results.md, and the same tables here."""
    options, size = exam.options, exam.found.shape.parameter_count
    model = published.nearest(size)
    figures: dict[str, Any] = {}
    sheets: list[Sheet] = []
    if bank := exam.answered(api_bank.NAME) if exam.asked.bank else []:
        levels = tables.by_level(bank, options.seed)
        figures[api_bank.NAME] = {level: s.row() for level, s in levels.items()}
        sheets.append(tables.api_bank_sheet(levels, api_bank.whole(exam.asked.bank), model))
    if exam.asked.questions:
        own = exam.answered(bamboogle.NAME)
        figures[bamboogle.NAME] = {
            **(Standing.of(own, bamboogle.NAME, options.seed).row() if own else {}),
            "searches": finite(tables.searches(own)),
            "left_out": len(left_out),
        }
        whole = len(exam.asked.questions) == bamboogle.SIZE
        sheets.append(tables.bamboogle_sheet(own, len(left_out), whole, model, options.seed))
    head, notes = headline(options, size, model), exam.after(left_out)
    document = {
        "checkpoint": options.checkpoint,
        "parameters": size,
        "seed": options.seed,
        "temperature": options.temperature,
        "nearest": model,
        "notes": notes,
        **figures,
    }
    text = ["# Evaluation of tool calls", *head, *(sheet.markdown() for sheet in sheets)]
    text.append("\n".join(f"- {note}" for note in notes))
    pretty = json.dumps(json.loads(strict_json(document)), indent=2)
    record.replace(options.out / "results.json", pretty.encode() + b"\n")
    record.replace(options.out / "results.md", ("\n\n".join(text).rstrip() + "\n").encode())
    for line in head:
        say(console, line)
    for sheet in sheets:
        console.print()
        console.print(sheet.rich())
    for note in notes[len(exam.asked.notes()) :]:
        say(console, note)
    say(console, f"wrote {options.out}/results.md, results.json and generations-*.jsonl")


def headline(options: Options, size: int, model: str) -> Sequence[str]:
    """What was evaluated how, and what stands beside it."""
    drawn = f"temperature {options.temperature:g}" if options.temperature else "greedy"
    head = [f"{options.checkpoint}: {size:,} parameters; {drawn}; seed {options.seed}"]
    if options.servers.judge and bamboogle.NAME in options.benchmarks:
        by = options.servers.judge
        head.append(f"Bamboogle: judged by {by}, calls read as {options.servers.literal} literals")
    if model:
        head.append(
            f"{model}: as ToolRL reports it (arXiv 2504.13958), of its models the nearest to "
            f"{size:,} parameters; rerun: one by others (Mario928/toolrl-verl-reproduction)"
        )
    return head


def main(argv: list[str]) -> None:
    """The entry point."""
    if argv:
        raise UserError(f"unexpected argument {argv[0]!r}; flags begin with --, see --help")
    options = Options.of(flags.FLAGS)
    saved = f"finished items are in {options.out}, the same command goes on"
    stoppable(lambda stop: evaluate(options, cli.chosen_config(), stop), saved)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Working directory, checkpoint, model folder or name.")
    flags.DEFINE_list("benchmarks", [], "api_bank=DIR, bamboogle=FILE.")
    flags.DEFINE_string("search", "", "For Bamboogle: a URL in Serper's shape, or a record.")
    flags.DEFINE_string("judge", "", "For Bamboogle: an OpenAI-compatible URL, a record, exact.")
    flags.DEFINE_string("judge_model", "gpt-4o", "The judge's name at its URL.")
    flags.DEFINE_enum(
        "literal", "python", list(bamboogle.LITERALS), "How Bamboogle reads the line of a call."
    )
    flags.DEFINE_string(
        "system", "", "Data or text file whose system message Bamboogle takes; default: ours."
    )
    flags.DEFINE_float("temperature", 0.0, "0 is greedy.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "Of the sampling and the bootstrap.", lower_bound=0)
    flags.DEFINE_string("out", None, "Folder to write; default evaluations/CHECKPOINT-tools.")
    flags.DEFINE_integer("max_items", 0, "First items of each level or set, 0: all.", lower_bound=0)
    flags.DEFINE_integer("slots", None, "Episodes sampled at once.", lower_bound=1)
    flags.DEFINE_integer("max_prompt", MAX_PROMPT, "Tokens.", lower_bound=1)
    flags.DEFINE_integer("max_response", MAX_RESPONSE, "Tokens of a reply.", lower_bound=1)
    config_flags.DEFINE_config_file("config", None, "Recipe for a folder that carries none.")
    cli.run(main, __doc__ or "")
