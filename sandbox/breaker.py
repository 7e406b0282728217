"""A circuit breaker: stops asking an endpoint that fails, and finds out when it is back.

    closed     jobs pass; FAILURES failures in a row open it
    open       nothing passes for a while, which doubles each time it opens again
    half-open  one job passes: it closes the breaker, or opens it again

It has no clock and no lock of its own: the caller passes the time, in seconds.
"""

FAILURES = 3
REST = 1.0  # seconds
MOST_REST = 30.0


class Breaker:
    """For one endpoint. `allow` is asked before every job, and what it grants is reported back."""

    def __init__(
        self, failures: int = FAILURES, rest: float = REST, most_rest: float = MOST_REST
    ) -> None:
        self._failures = failures
        self._first_rest = self._rest = rest
        self._most_rest = most_rest
        self._in_a_row = 0
        self._opened: float | None = None
        self._trying = False

    def state(self, now: float) -> str:
        """closed, open or half-open."""
        if self._opened is None:
            return "closed"
        return "open" if now < self._opened + self._rest else "half-open"

    def rests(self, now: float) -> float:
        """Seconds from now until a job may be tried; 0 where one may be at once."""
        return 0.0 if self._opened is None else max(0.0, self._opened + self._rest - now)

    def ready(self, now: float) -> bool:
        """Whether `allow` would say yes."""
        return self.state(now) == "closed" or (self.state(now) == "half-open" and not self._trying)

    def allow(self, now: float) -> bool:
        """Whether a job may be sent; if so, `success`, `failure` or `neither` must follow."""
        if not self.ready(now):
            return False
        self._trying = self.state(now) == "half-open"
        return True

    def success(self) -> None:
        self._in_a_row, self._opened, self._trying = 0, None, False
        self._rest = self._first_rest

    def failure(self, now: float) -> None:
        self._in_a_row += 1
        if self._opened is not None:
            if self._trying:  # what was sent before it opened says nothing new
                self._rest = min(2 * self._rest, self._most_rest)
                self._opened, self._trying = now, False
        elif self._in_a_row >= self._failures:
            self._opened = now

    def neither(self) -> None:
        """The job came to no verdict on the endpoint."""
        self._trying = False
