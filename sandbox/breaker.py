"""A circuit breaker: stops asking an endpoint that fails, and finds out when it is back.

    closed     jobs pass; FAILURES failures in a row open it
    open       nothing passes for a while, which doubles each time it opens again
    half-open  one job passes, the trial: it closes the breaker, or opens it again

It has no clock and no lock of its own: the caller passes the time, in seconds.
"""

FAILURES = 3
REST = 1.0  # seconds
MOST_REST = 30.0


class Breaker:
    """For one endpoint. `allow` is asked before every job, and its ticket comes back with
    `success`, `failure` or `neither`. What was sent before the breaker opened, or before the
    present trial, says nothing new: such tickets are passed over.
    """

    def __init__(
        self, failures: int = FAILURES, rest: float = REST, most_rest: float = MOST_REST
    ) -> None:
        self._failures = failures
        self._first_rest = self._rest = rest
        self._most_rest = most_rest
        self._in_a_row = 0
        self._opened: float | None = None
        self._trying = False
        self._ticket = 1  # the one that counts

    def state(self, now: float) -> str:
        """closed, open or half-open."""
        if self._opened is None:
            return "closed"
        return "open" if now < self._opened + self._rest else "half-open"

    def ready(self, now: float) -> bool:
        """Whether `allow` would say yes."""
        return self.state(now) == "closed" or (self.state(now) == "half-open" and not self._trying)

    def allow(self, now: float) -> int:
        """A ticket where a job may be sent, else 0."""
        if not self.ready(now):
            return 0
        if self.state(now) == "half-open":
            self._trying = True
            self._ticket += 1
        return self._ticket

    def success(self, ticket: int) -> None:
        if ticket == self._ticket:
            self._in_a_row, self._opened, self._trying = 0, None, False
            self._rest = self._first_rest

    def failure(self, ticket: int, now: float) -> None:
        if ticket != self._ticket:
            return
        self._in_a_row += 1
        if self._opened is not None:
            self._rest = min(2 * self._rest, self._most_rest)
        elif self._in_a_row < self._failures:
            return
        self._opened, self._trying = now, False
        self._ticket += 1

    def neither(self, ticket: int) -> None:
        """The job came to no verdict on the endpoint."""
        if ticket == self._ticket:
            self._trying = False
