"""An endless, seeded stream of problems whose whole state is one number.

Epoch e is a permutation drawn from (seed, e); the cursor counts the problems
taken so far, so a stream at cursor k goes on exactly as one that took k.

Where a take crosses from one epoch into the next, a problem could come twice
into one batch. To prevent that, the first third of each epoch holds nothing of
the last third of the epoch before; so takes of up to a third of the problems are
plain slices. A larger take passes over what it already has.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from torl_jax.episode import Problem
from torl_jax.errors import UserError


class Stream:
    """Problems without end, in a new order each epoch.

    `cursor` is how many were taken, of problems whose fingerprint was `before` (empty: not
    known). Raises UserError where there are no problems, or no longer the same ones.
    """

    def __init__(
        self, problems: Sequence[Problem], seed: int, cursor: int = 0, before: str = ""
    ) -> None:
        if not problems:
            raise UserError("there are no problems to stream: give a data file with some")
        if before and before != (now := fingerprint(problems)):
            raise UserError(
                f"the training problems have changed since the checkpoint (fingerprint {before}, "
                f"now {now} of {len(problems)} problems), so its place among them means nothing; "
                "restore the data, or choose another --workdir"
            )
        if cursor < 0:
            raise ValueError(f"cursor {cursor} is negative")
        self._problems = problems
        self._seed = seed
        self._cached: tuple[int, np.ndarray] | None = None
        self.cursor = cursor

    @functools.cached_property
    def fingerprint(self) -> str:
        """That of the problems."""
        return fingerprint(self._problems)

    @property
    def epoch(self) -> float:
        """How many times all problems were seen."""
        return self.cursor / len(self._problems)

    def take(self, count: int) -> list[Problem]:
        """The next `count` problems, all different where there are that many."""
        taken: dict[int, None] = {}  # an ordered set
        at, total = self.cursor, len(self._problems)
        if count > total:
            picks = [self._pick(at + n) for n in range(count)]
        else:
            while len(taken) < count:
                taken[self._pick(at)] = None
                at += 1
            picks = list(taken)
        self.cursor += count
        return [self._problems[i] for i in picks]

    def _pick(self, position: int) -> int:
        """Which problem stands at a position of the stream."""
        epoch, offset = divmod(position, len(self._problems))
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._order(epoch))
        return int(self._cached[1][offset])

    def _order(self, epoch: int) -> np.ndarray:
        """int [problems]: the epoch's permutation, its head free of the last tail."""
        total = len(self._problems)
        order, third = shuffled(total, self._seed, epoch), total // 3
        if epoch == 0 or third == 0:
            return order
        tail = shuffled(total, self._seed, epoch - 1)[total - third :]
        late = np.isin(order, tail)
        clash = np.flatnonzero(late[:third])
        # Swapped with the middle only: the tail stays as drawn, so that no epoch's
        # order hangs on those before the last.
        free = third + np.flatnonzero(~late[third : total - third])[: len(clash)]
        order[clash], order[free] = order[free], order[clash]
        return order


def split(
    problems: Sequence[Problem], eval_count: int, seed: int
) -> tuple[list[Problem], list[Problem]]:
    """(train, held out): `eval_count` problems drawn by `seed`, both in file order.

    A training problem that asks a held-out question word for word is dropped.
    Raises UserError where nothing would be left to train on.
    """
    if not 0 <= eval_count < len(problems):
        raise UserError(
            f"{eval_count} problems cannot be held out of {len(problems)}: give 0 to "
            f"{len(problems) - 1}"
        )
    held = set(shuffled(len(problems), seed, 0)[:eval_count].tolist())
    held_out = [p for n, p in enumerate(problems) if n in held]
    questions = {p.question for p in held_out}
    train = [p for n, p in enumerate(problems) if n not in held and p.question not in questions]
    if not train:
        raise UserError(
            f"holding out {eval_count} of {len(problems)} problems leaves no other "
            "question to train on: hold out fewer"
        )
    return train, held_out


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """int [count]: a permutation that depends on nothing but its arguments.

    Sorts raw random words: numpy promises to keep those, not its own shuffle.
    """
    words = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(count)
    return np.argsort(words, kind="stable")


def fingerprint(problems: Sequence[Problem]) -> str:
    """16 hex digits of what the problems are, in their order: a cursor means nothing in others."""
    digest = hashlib.sha256()
    for problem in problems:
        texts = [problem.id, problem.question, problem.answer]
        if problem.system:
            # No length spells this mark, so that no problem's system message is another's id.
            digest.update(b"\xff" * 8)
            texts.append(problem.system)
        for text in texts:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]
