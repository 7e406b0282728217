"""The problems of a run: read, unlike those held out, gradable, and of a length that fits.

    found = problems.read(cfg)
    found = problems.gradable(cfg, found, workdir, first_start)
    found = problems.told(found, system)
    found = problems.fitting(cfg, found, rollout)

What is dropped on the way is counted in `notes`, for people.
"""

import dataclasses
import functools
import json
import os
from typing import Literal

from etils import epath
from rich.console import Console

from torl_jax import benchmarks as published
from torl_jax import config, logs, record
from torl_jax.data import arithmetic, check, clean, requests, sources, stream
from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.parallel import multihost
from torl_jax.rewards.answer import Grader
from torl_jax.rollout import Rollout, admissible

# Synthetic training problems before they repeat; more than any quickstart run takes.
TRAIN_PROBLEMS = 20_000
# Held-out problems are the same in every run, whatever its seed.
EVAL_SEED = 1
RECORD = "problems.json"


@dataclasses.dataclass(frozen=True)
class Problems:
    """Disjoint lists, and what a person should know of them."""

    training: list[Problem]
    held_out: list[Problem]
    notes: list[str] = dataclasses.field(default_factory=list)


def check_paths(cfg: config.Data) -> None:
    """UserError for a file that is not there or of no known kind."""
    for key, path in (("path", cfg.path), ("eval_path", cfg.eval_path)):
        if path:
            try:
                sources.check(path)
            except UserError as error:
                raise UserError(f"config.data.{key}: {error}") from None


def read(cfg: config.Config) -> Problems:
    """What the config names; training problems are cleaned of those that are like one held out,
    of the whole `eval_path` or of `path` itself, or like one of a benchmark.
    """
    data, sets = cfg.data, benchmarks(cfg)
    if data.source != "file":
        return _invented(cfg)
    if not data.path:
        raise UserError(
            "no data: set --config.data.path=FILE (parquet, jsonl, json or csv) or to a data set "
            "on the hub (OWNER/NAME:FILE)"
        )
    found = sources.read(data.path, "auto", data.bad_rows, data.columns)
    found, notes = clean.dedup(found, data.dedup)
    if data.eval_path:
        training, held_out = found, _read_held_out(data)
    else:
        training, held_out = stream.split(found, data.eval_problems, cfg.run.seed)
        if same := len(found) - len(training) - len(held_out):
            notes.append(f"{same} training problems dropped: they ask a held-out question")
    asked = list(held_out)
    for each in sets:
        asked += [dataclasses.replace(problem, source=each.name) for problem in each.problems]
    training, near = clean.decontaminate(training, asked, data.decontaminate)
    return Problems(training, held_out[: data.eval_problems], [*notes, *near])


def _read_held_out(data: config.Data) -> list[Problem]:
    try:
        return sources.read(data.eval_path, "auto", data.bad_rows)
    except UserError as error:
        raise UserError(
            f"config.data.eval_path: {error}; or set --config.data.eval_path= (nothing), which "
            "holds out problems of config.data.path"
        ) from error


def _invented(cfg: config.Config) -> Problems:
    data = cfg.data
    if data.path or data.eval_path:
        raise UserError(
            f"config.data.path or eval_path is given, but config.data.source is {data.source!r}, "
            "which reads no file: add --config.data.source=file"
        )
    if data.source == "tools":
        return Problems(
            requests.problems(cfg.run.seed, 0, TRAIN_PROBLEMS),
            requests.problems(EVAL_SEED, 0, data.eval_problems, held_out=True),
        )
    families = data.families or tuple(arithmetic.FAMILIES)
    return Problems(
        arithmetic.problems(cfg.run.seed, 0, TRAIN_PROBLEMS, families),
        arithmetic.problems(EVAL_SEED, 0, data.eval_problems, families, held_out=True),
    )


def benchmarks(cfg: config.Config) -> list[published.Benchmark]:
    """The benchmarks of `config.eval.benchmarks`; files are read once a process."""
    return list(_benchmarks(cfg.eval.benchmarks, cfg.data.bad_rows))


@functools.cache
def _benchmarks(
    names: tuple[str, ...], bad_rows: Literal["error", "skip"]
) -> tuple[published.Benchmark, ...]:
    return tuple(published.read(names, bad_rows=bad_rows)) if names else ()


def gradable(cfg: config.Config, found: Problems, workdir: epath.Path, again: bool) -> Problems:
    """Without the training problems whose gold answer is unequal to itself, or with them, by
    choice. Held-out ones stay: a benchmark is whole. Gold calls that cannot be read end any
    run that meets them, so they go from both lists, also where bad ones are kept.

    Where the run goes on (`again`) it does with what was found at its start, in
    workdir/problems.json: a comparison that took too long may not, the next time. Gold calls
    are always looked at. UserError where other problems are held out than then.
    """
    if cfg.data.source != "file":
        return found
    path, now = workdir / RECORD, stream.fingerprint(found.held_out) if found.held_out else ""
    before = json.loads(path.read_text()) if again and path.exists() else None
    if before and before["held_out"] != now:
        raise UserError(
            f"the held-out problems have changed since {workdir} was begun (fingerprint "
            f"{before['held_out']}, now {now}), and its curve would be of both; restore them, "
            "or choose another --workdir"
        )
    if before and cfg.reward.kind == "answer":
        bad = [[check.BadGold(**gold) for gold in golds] for golds in before["bad_answers"]]
    else:
        bad = [_bad(cfg, asked) for asked in (found.training, found.held_out)]
        if multihost.first():
            golds = [[dataclasses.asdict(gold) for gold in each] for each in bad]
            text = json.dumps({"held_out": now, "bad_answers": golds}, indent=1)
            record.replace(path, text.encode())
    training, some = _without(cfg, "training", found.training, bad[0])
    held_out, more = _without(cfg, "held-out", found.held_out, bad[1])
    return Problems(training, held_out, [*found.notes, *some, *more])


def _without(
    cfg: config.Config, name: str, asked: list[Problem], bad: list[check.BadGold]
) -> tuple[list[Problem], list[str]]:
    """(the problems of one list that stay, notes on the bad ones). Raises as `check.usable`."""
    choice, out = cfg.data.bad_answers, bad
    if name == "held-out" or choice == "keep":
        calls = cfg.reward.kind == "toolrl"
        out = [gold for gold in bad if calls and gold.reason != check.UNEQUAL]
    left = check.usable(asked, out, "exclude" if choice == "keep" else choice)
    stay = [gold for gold in bad if gold not in out]
    notes = [
        f"{len(golds)} {name} problems {fate}: their gold answers cannot be graded ({RECORD}; "
        f"{golds[0].id}: {golds[0].gold[:60]!r} {golds[0].reason})"
        for fate, golds in (("dropped", out), ("kept", stay))
        if golds
    ]
    return left, notes


def _bad(cfg: config.Config, asked: list[Problem]) -> list[check.BadGold]:
    """The problems with a bad gold; each host looks at its share."""
    if cfg.reward.kind == "toolrl":
        return check.calls(asked, cfg.toolrl.gold_thoughts, live=cfg.protocol.calls > 0)
    own = [asked[i] for i in multihost.share(range(len(asked)))]
    console = Console(stderr=True, quiet=not multihost.first())
    workers = max(cfg.reward.workers, os.cpu_count() or 1)
    with (
        Grader(workers, cfg.reward.timeout) as grader,
        logs.progress_bar(console) as progress,
    ):
        task = progress.add_task("gold answers", total=None)
        bad = check.golds(
            own, grader, lambda count, total: progress.update(task, completed=count, total=total)
        )
    return [gold for part in multihost.exchange(bad) for gold in part]


def told(found: Problems, system: str) -> Problems:
    """With `system` as the system message of each problem that has none."""

    def tell(problems: list[Problem]) -> list[Problem]:
        return [p if p.system else dataclasses.replace(p, system=system) for p in problems]

    return Problems(tell(found.training), tell(found.held_out), found.notes)


def fitting(cfg: config.Config, found: Problems, rollout: Rollout) -> Problems:
    """Those whose prompts fit; ToRL drops the others likewise."""
    kept, notes = [], list(found.notes)
    limit = f"config.sampler.max_prompt={rollout.max_prompt} tokens"
    for name, problems in (("training", found.training), ("held-out", found.held_out)):
        fit, dropped = admissible(rollout, problems)
        if problems and not fit:
            raise UserError(f"all {len(problems)} {name} prompts are longer than {limit}; raise it")
        if dropped:
            count = f"{len(dropped)} of {len(problems)} {name} problems"
            notes.append(f"{count} dropped: prompt longer than {limit}")
        kept.append(fit)
    if len(kept[0]) < cfg.rl.problems_per_step:
        raise UserError(
            f"{len(kept[0])} training problems; config.rl.problems_per_step asks for "
            f"{cfg.rl.problems_per_step}"
        )
    return Problems(kept[0], kept[1], notes)
