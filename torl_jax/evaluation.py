"""Evaluation: how policies are sampled on held-out problems, and what comes of it.

`run` evaluates within training, on all hosts; `collect` evaluates on this host alone and
hands over each problem as soon as its samples are graded. Both sample by a Mode, under
keys that depend on (seed, problem, sample) alone, and make the same figures of it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from torl_jax.benchmarks import MEAN, Benchmark
from torl_jax.crew import Crew
from torl_jax.episode import End, Episode, Problem, Score
from torl_jax.metrics import rollout_stats
from torl_jax.protocols.base import Protocol
from torl_jax.rewards import integers
from torl_jax.rewards.answer import Grade, Grader
from torl_jax.rewards.boxes import last_box
from torl_jax.rewards.outcome import Answers, Outcome
from torl_jax.rollout import Rollout, admissible
from torl_jax.sampler.engine import Engine
from torl_jax.sampler.sampling import Settings
from torl_jax.scoreboard import Answered, Sample, Standing, standings

RIGHT = ("accuracy", "boxed_accuracy")
SHARED = ("code_ratio", "pass_ratio", "response_length")


@dataclasses.dataclass(frozen=True)
class Mode:
    """How many samples a problem, and how they are drawn; the default is greedy."""

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0

    def load(self, engine: Engine, params, seed: int) -> None:
        """Makes `engine` sample `params` so."""
        settings = Settings.of(temperature=self.temperature, top_p=self.top_p)
        engine.load(params, jax.random.key(seed), settings)


def run(
    crew: Crew,
    params,
    problems: Sequence[Problem],
    *,
    seed: int,
    sampled: bool,
    step: int = 0,
    samples: int = 1,
    benchmarks: Sequence[Benchmark] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, float], list[Episode], list[Score]]:
    """Metrics under `eval/` and the greedy episodes with their scores.

    An answer is right by the crew's reward; `boxed_accuracy` is without its shape.
    `eval/accuracy` is sampled at temperature 1, `samples` a problem (absent with
    sampled=False), `eval/greedy_accuracy` greedy; a source's own accuracy follows its name.
    Benchmarks have `eval/NAME/accuracy` and so on, `eval/mean/accuracy` is their unweighted
    mean; a prompt that does not fit counts as wrong there (`eval/NAME/too_long`). With
    benchmarks alone, eval/accuracy is that mean. All hosts must call it alike.

    There is no deadline: a mean over the quick ones would not be the policy's. Raises
    Interrupted where `stopped` comes true.
    """
    row: dict[str, float] = {}
    harvest, grader = None, crew.grader
    fit = {b.name: admissible(crew.rollout, b.problems)[0] for b in benchmarks}
    asked = [*problems, *(problem for own in fit.values() for problem in own)]
    for prefix, mode in (("", Mode(samples, 1.0)), ("greedy_", Mode())):
        if prefix == "" and not sampled:
            continue
        mode.load(crew.rollout.engine, params, seed)
        harvest = crew.collect(asked, mode.samples, step, stopped)
        graded: dict[str, list[tuple[Episode, Score]]] = {}
        for episode, score in zip(harvest.episodes, harvest.scores, strict=True):
            graded.setdefault(episode.problem.id, []).append((episode, score))
        markup = crew.rollout.protocol
        if problems:
            row |= _held_out(prefix, [graded[problem.id] for problem in problems], markup)
        if grader is not None and benchmarks:
            found = {
                b.name: [
                    answered(grader, graded[problem.id], markup)
                    if problem.id in graded
                    else too_long(problem, mode.samples)
                    for problem in b.problems
                ]
                for b in benchmarks
            }
            row |= _benchmarks(prefix, standings(found, seed), alone=not problems)
    assert harvest is not None
    return row, harvest.episodes, harvest.scores


def _held_out(
    prefix: str, groups: Sequence[Sequence[tuple[Episode, Score]]], markup: Protocol
) -> dict[str, float]:
    def stats(some: Sequence[Sequence[tuple[Episode, Score]]]) -> dict[str, float]:
        pairs = [pair for group in some for pair in group]
        return rollout_stats([e for e, _ in pairs], [s for _, s in pairs], markup)

    whole = stats(groups)
    rewards = [name for name in whole if name.startswith("rollout/reward")]
    names = [*(f"rollout/{name}" for name in (*RIGHT, *SHARED)), *rewards]
    row = {name.replace("rollout/", f"eval/{prefix}"): whole[name] for name in names}
    sources = [group[0][0].problem.source for group in groups]
    for source in sorted(set(sources) - {""}):
        own = [group for group, its in zip(groups, sources, strict=True) if its == source]
        row[f"eval/{prefix}accuracy_{source}"] = stats(own)["rollout/accuracy"]
    return row


def _benchmarks(prefix: str, found: Mapping[str, Standing], alone: bool) -> dict[str, float]:
    named = {name: standing for name, standing in found.items() if "/" not in name}
    row: dict[str, float] = {}
    for name, standing in named.items():
        figures = {"accuracy": standing.accuracy, "boxed_accuracy": standing.boxed}
        figures |= {key: standing.behaviour[key] for key in SHARED}
        for k in list(standing.pass_at)[1:]:
            figures |= {f"pass_at_{k}": standing.pass_at[k], f"maj_at_{k}": standing.maj_at[k]}
        row |= {f"eval/{name}/{prefix}{key}": value for key, value in figures.items()}
        row |= {f"eval/{name}/{prefix}lost": float(standing.aborted)}
        row |= {f"eval/{name}/too_long": float(standing.too_long)}
    if alone:
        over = named.get(MEAN) or next(iter(named.values()))
        row[f"eval/{prefix}accuracy"] = over.accuracy
        row[f"eval/{prefix}boxed_accuracy"] = over.boxed
        row |= {f"eval/{prefix}{key}": over.behaviour[key] for key in SHARED}
    return row


# A problem's graded episodes with what they voted for.
Settled = tuple[Sequence[Episode], Sequence[Score], Answered]


def collect(
    rollout: Rollout,
    grader: Grader,
    worth: Outcome,
    problems: Sequence[Problem],
    samples: int,
    *,
    on_finish: Callable[[Episode], object],
    on_settled: Callable[[Settled], object],
    stopped: Callable[[], bool],
) -> None:
    """`samples` episodes of each problem, by the weights and the Mode that are loaded.

    `worth` says what is right beside the box: the recipe's shape, or any.
    `on_finish` sees each episode as it ends; `on_settled`, in one other thread, each problem
    whose samples are all graded. Interrupted, once `stopped` is true, comes after whatever
    was finished is settled.
    """
    waiting: dict[str, list[tuple[Episode, Future[Score]]]] = {}
    settling: list[Future[None]] = []
    reward = Answers(grader, worth)

    def settle(pairs: Sequence[tuple[Episode, Future[Score]]]) -> None:
        ordered = sorted(pairs, key=lambda pair: pair[0].sample)
        graded = [(episode, score.result()) for episode, score in ordered]
        reduced = answered(grader, graded, rollout.protocol)
        on_settled(([e for e, _ in graded], [s for _, s in graded], reduced))

    def finish(episode: Episode) -> None:
        # A full disk or a grader that does not start must not be found out at the very end.
        for done in [future for future in settling if future.done()]:
            settling.remove(done)
            done.result()
        pairs = waiting.setdefault(episode.problem.id, [])
        pairs.append((episode, reward.submit(episode)))
        on_finish(episode)
        if len(pairs) == samples:
            settling.append(settler.submit(settle, waiting.pop(episode.problem.id)))

    try:
        with ThreadPoolExecutor(1) as settler:
            rollout.collect(problems, samples, on_finish=finish, stopped=stopped)
    finally:
        for future in settling:
            future.result()


def answered(grader: Grader, graded: Sequence[tuple[Episode, Score]], markup: Protocol) -> Answered:
    """A problem's graded episodes, reduced to what is counted."""
    answers = [final(episode) for episode, _ in graded]
    groups = votes(grader.submit, answers, [score.correct for _, score in graded])
    problem = graded[0][0].problem
    samples = [
        Sample.of(episode, score, vote, markup)
        for (episode, score), vote in zip(graded, groups, strict=True)
    ]
    return Answered(problem.id, problem.source, tuple(samples))


def final(episode: Episode) -> str | None:
    """What the last box in the policy's words holds; None where our own failure cut it off."""
    return None if episode.end is End.ABORT else last_box(*episode.policy_texts)


def too_long(problem: Problem, samples: int) -> Answered:
    """What is counted of a problem whose prompt does not fit."""
    return Answered(problem.id, problem.source, (Sample(False),) * samples, too_long=True)


# Grader.submit: (an answer taken for gold, a response) to its grade.
Compare = Callable[[str, str], Future[Grade]]


def votes(
    compare: Compare, answers: Sequence[str | None], correct: Sequence[bool]
) -> list[int | None]:
    """Which group of equal answers each sample belongs to; None where it gave none.

    All right answers are one group: each equals the gold answer. A wrong one joins the
    first group whose first answer the grader takes for equal; whole numbers are compared
    as such. A comparison that fails counts as unequal.
    """
    firsts: list[str] = []  # of each group, in the order of their numbers
    known: dict[str, int] = {}
    right: int | None = None
    found: list[int | None] = []
    for answer, is_right in zip(answers, correct, strict=True):
        text = (answer or "").strip()
        if not text and not is_right:
            found.append(None)
            continue
        group = right if is_right else known.get(text)
        if group is None and not is_right:
            group = _equal(compare, firsts, text, apart_from=right)
        if group is None:
            group = len(firsts)
            firsts.append(text)
        if is_right:
            right = group
        else:
            known[text] = group
        found.append(group)
    return found


def _equal(
    compare: Compare, firsts: Sequence[str], text: str, apart_from: int | None
) -> int | None:
    asked = []
    for group, first in enumerate(firsts):
        if group == apart_from:
            continue
        known = integers.same(first, text)
        if known:
            return group
        if known is None:
            asked.append((group, compare(first, f"\\boxed{{{text}}}")))
    return next((group for group, grade in asked if grade.result().correct), None)
