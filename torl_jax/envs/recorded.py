"""Replays observations by their code: for tests, and to reproduce a run without tools."""

from collections.abc import Mapping
from concurrent.futures import Future

from torl_jax.episode import Call, Observation, Problem


class UnknownCallError(KeyError):
    """No observation was recorded for this code."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the message quoted


class RecordedEnv:
    """Answers each call with what `observations` holds for its exact code."""

    def __init__(self, observations: Mapping[str, Observation]) -> None:
        self._observations = observations

    def open(self, problem: Problem) -> "RecordedEnv":
        """Itself: it keeps nothing of an episode."""
        return self

    def close(self) -> None:
        """Nothing: nothing was kept."""

    def submit(self, call: Call) -> "Future[Observation]":
        """A finished future. Raises UnknownCallError at once for code not recorded."""
        if call.text not in self._observations:
            raise UnknownCallError(
                f"no observation is recorded for the code {call.text!r} "
                f"({len(self._observations)} others are)"
            )
        future: Future[Observation] = Future()
        future.set_result(self._observations[call.text])
        return future
