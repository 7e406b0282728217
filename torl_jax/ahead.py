"""Rollouts one batch ahead of training.

    ahead.start(step + 1)            samples in a thread of its own, while this one trains
    rolled = ahead.take(step)        what was started for `step`, or sampled now

At most one rollout is under way, so what a step trains on is at most one update older than the
weights that it trains (ZeroTIR, arXiv 2505.07773: a queue of one). Nothing else may touch the
sampler meanwhile: `settle` waits for it.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Calls `sample(step)`, in advance where asked to; a context manager."""

    def __init__(self, sample: Callable[[int], T]) -> None:
        self._sample = sample
        self._thread = ThreadPoolExecutor(1, "rollout")
        self._step = -1
        self._started: Future[T] | None = None

    def __enter__(self) -> "Ahead[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for what is under way: an interrupted rollout ends at its next segment."""
        self._thread.shutdown()

    @property
    def busy(self) -> bool:
        """Whether a rollout was started and has not been taken."""
        return self._started is not None

    def start(self, step: int) -> None:
        """Begins with the rollout of `step`; the one before must have been taken."""
        if self._started is not None:
            raise RuntimeError(f"the rollout of step {self._step} has not been taken")
        self._step, self._started = step, self._thread.submit(self._sample, step)

    def settle(self) -> None:
        """Waits until nothing samples; what failed is raised by `take`."""
        if self._started is not None:
            self._started.exception()

    def take(self, step: int) -> T:
        """The rollout of `step`; raises what it raised."""
        if self._started is None:
            return self._sample(step)
        if self._step != step:
            raise RuntimeError(f"step {step} is to be taken, {self._step} was started")
        started, self._started = self._started, None
        return started.result()
