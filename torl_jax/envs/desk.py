"""Where a rollout hands in its calls, and hears what has happened meanwhile.

    desk.submit(ticket, problem, call)
    news = desk.news(wait=True)
    desk.leave(ticket)

All that depends on time comes to a rollout through `news`: which calls have been
answered, whether the deadline has passed, whether somebody asked to stop. So hosts
that sample in lock-step need to agree here and nowhere else. A ticket is an episode's:
its calls go to one tool, opened with the first and closed when it leaves.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait

from torl_jax.envs.base import Environment, Tool
from torl_jax.episode import Call, Observation, Problem

Ticket = tuple[int, int]  # a problem's place in the rollout, and the sample's number
PATIENCE = 0.2  # seconds between two looks at the clock and at who wants to stop


@dataclasses.dataclass(frozen=True)
class Failed:
    """A call that our own failure left without an observation."""

    error: str


@dataclasses.dataclass(frozen=True)
class News:
    """Answers since the last news; `late`: the deadline has passed; `waited`: seconds."""

    answers: tuple[tuple[Ticket, Observation | Failed], ...]
    late: bool
    stop: bool
    waited: float


class Desk:
    """For a host that samples alone."""

    def __init__(
        self,
        env: Environment,
        *,
        seconds: float = math.inf,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """`seconds` from now until the deadline."""
        self._env, self._stopped = env, stopped
        self._end = time.monotonic() + seconds
        self._calls: dict[Future[Observation], Ticket] = {}
        self._tools: dict[Ticket, Tool] = {}

    def submit(self, ticket: Ticket, problem: Problem, call: Call) -> None:
        """Has `call` carried out; its answer will come under `ticket`."""
        if ticket not in self._tools:
            self._tools[ticket] = self._env.open(problem)
        self._calls[self._tools[ticket].submit(call)] = ticket

    def leave(self, ticket: Ticket) -> None:
        """The episode of `ticket` is over: its tool is closed, its answer no longer awaited."""
        if (tool := self._tools.pop(ticket, None)) is not None:
            self._calls = {
                future: whose for future, whose in self._calls.items() if whose != ticket
            }
            tool.close()

    def close(self) -> None:
        """All leave."""
        for ticket in list(self._tools):
            self.leave(ticket)

    def news(self, wait: bool) -> News:
        """What there is; with `wait`, once there is something."""
        begin = time.monotonic()
        while True:
            found = self._look(PATIENCE if wait else 0.0)
            if not wait or found.answers or found.late or found.stop:
                return dataclasses.replace(found, waited=time.monotonic() - begin if wait else 0.0)

    def _look(self, patience: float) -> News:
        if patience:
            remaining = max(self._end - time.monotonic(), 0.0)
            wait(self._calls, min(patience, remaining), return_when=FIRST_COMPLETED)
        done = [future for future in self._calls if future.done()]
        answers = tuple((self._calls.pop(future), answer(future)) for future in done)
        return News(answers, time.monotonic() >= self._end, self._stopped(), 0.0)


class SharedDesk(Desk):
    """For hosts that sample in lock-step: calls are shared out, news are everybody's."""

    def __init__(
        self,
        env: Environment,
        *,
        index: int,
        count: int,
        exchange: Callable[[News], list[News]],
        seconds: float = math.inf,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """This host is `index` of `count`; `exchange` gives every host's value, in order."""
        super().__init__(env, seconds=seconds, stopped=stopped)
        self._index, self._count, self._exchange = index, count, exchange

    def submit(self, ticket: Ticket, problem: Problem, call: Call) -> None:
        """Has `call` carried out if the episode is this host's."""
        if sum(ticket) % self._count == self._index:
            super().submit(ticket, problem, call)

    def _look(self, patience: float) -> News:
        everybody = self._exchange(super()._look(patience))
        return News(
            tuple(sorted((a for news in everybody for a in news.answers), key=lambda a: a[0])),
            any(news.late for news in everybody),
            any(news.stop for news in everybody),
            0.0,
        )


def answer(future: "Future[Observation]") -> Observation | Failed:
    """What a finished call has brought."""
    failure = future.exception()
    if failure is not None:
        return Failed(f"{type(failure).__name__}: {failure}")
    return future.result()
