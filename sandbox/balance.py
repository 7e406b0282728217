"""Which endpoint gets which job, how often a job is tried, and when to give up.

Everything here runs in one event loop, the client's.
"""

import asyncio
import collections
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.endpoint import GRACE, REMOTE_LEVELS, Endpoint, Failed, Reported, Resting
from sandbox.orders import Body
from sandbox.results import Result, SandboxError

ATTEMPTS = 4  # of a job, where endpoints fail
FIRST_PAUSE = 0.25  # seconds before the second attempt, doubling
MOST_PAUSE = 8.0
TICK = 0.1  # seconds between looks at what has come to rest

log = logging.getLogger("sandbox.client")


@dataclass
class Turn:
    """A job that waits for an endpoint; not `avoid` if there is another."""

    endpoint: "asyncio.Future[Endpoint]"
    since: float
    avoid: Endpoint | None


@dataclass(frozen=True)
class Seat:
    """A session at an endpoint."""

    endpoint: Endpoint
    key: str


class Balance:
    """`patience`: seconds without any answer at all after which waiting jobs fail."""

    def __init__(self, endpoints: Sequence[Endpoint], patience: float) -> None:
        self._endpoints = endpoints
        self._patience = patience
        self._turns: collections.deque[Turn] = collections.deque()
        self._seats: set[Seat] = set()
        self._heard = time.monotonic()  # when a result came last
        self._longest = 0.0  # the longest that any answer may take
        self._broken = ""

    @property
    def running(self) -> int:
        return sum(endpoint.running for endpoint in self._endpoints)

    async def tend(self) -> None:
        """Looks at endpoints that are not in use, and at jobs that wait; for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                for endpoint in self._endpoints:
                    group.create_task(self._look_after(endpoint))
                while True:
                    await asyncio.sleep(TICK)
                    self._dispatch()
                    self._give_up()
        except Exception as error:
            self._broken = f"the client failed: {error!r}"
            self._give_up()  # a fault of ours must not leave anybody waiting
            raise

    async def run(self, body: Body, seconds: float) -> Result:
        """Has a program run. Raises SandboxError after ATTEMPTS failures."""
        self._longest = max(self._longest, seconds)
        failures = 0
        avoid = None
        while True:
            endpoint = await self._turn(avoid)
            try:
                result = await endpoint.run("/run_code", body, seconds)
            except Failed as error:
                endpoint.fail(str(error))
                avoid, failures = endpoint, failures + 1
                if failures == ATTEMPTS:
                    raise SandboxError(f"{failures} attempts failed, the last: {error}") from error
            except Resting as resting:
                endpoint.breaker.neither()
                endpoint.rest(resting.seconds)
                continue
            except BaseException:
                endpoint.breaker.neither()
                raise
            else:
                endpoint.breaker.success()
                self._heard = time.monotonic()
                return result
            finally:
                endpoint.running -= 1
                self._dispatch()
            await asyncio.sleep(_pause(failures))

    async def report(self) -> dict[str, Any]:
        """Sandbox.report, for the lowest endpoint in use. Raises SandboxError where none is."""
        await self._some(lambda endpoint: endpoint.usable, time.monotonic(), whole=True)
        used = [endpoint for endpoint in self._endpoints if endpoint.usable]
        lowest = min(used, key=lambda endpoint: REMOTE_LEVELS.index(endpoint.level))
        others = [_trouble(endpoint) for endpoint in self._endpoints if not endpoint.usable]
        why = lowest.report.get("why", "the endpoint does not say")
        return {
            "level": lowest.level,
            "why": "; ".join(filter(None, [why, *others])),
            "plan": lowest.report.get("plan", ""),
            "protections": lowest.report.get("protections", {}),
            "endpoints": {
                endpoint.url: endpoint.report if endpoint.usable else _trouble(endpoint)
                for endpoint in self._endpoints
            },
        }

    async def sit(self, body: Body) -> Seat:
        """Opens a session where the fewest are. Raises SandboxError."""
        failures, since = 0, time.monotonic()
        while True:
            if all(endpoint.usable and not endpoint.ours for endpoint in self._endpoints):
                raise SandboxError("SandboxFusion keeps no sessions, and no other endpoint is here")
            await self._some(lambda endpoint: endpoint.ready() and endpoint.ours, since)
            ready = [found for found in self._endpoints if found.ready() and found.ours]
            endpoint = min(ready, key=lambda found: found.sessions / found.places)
            try:
                reply = await endpoint.post("/session", body, GRACE)
                seat = Seat(endpoint, _key(endpoint, reply))
            except Resting as resting:
                endpoint.rest(resting.seconds)
                continue
            except Failed as error:
                endpoint.fail(str(error))
                failures += 1
                if failures == ATTEMPTS:
                    raise SandboxError(f"no session could be opened: {error}") from error
                await asyncio.sleep(_pause(failures))
                continue
            endpoint.sessions += 1
            self._seats.add(seat)
            return seat

    async def run_cell(self, seat: Seat, body: Body, seconds: float) -> Result:
        """One cell. Asked again with the same request id, the endpoint runs it only once."""
        failures = 0
        while True:
            try:
                result = await seat.endpoint.run(f"/session/{seat.key}/run", body, seconds)
                self._heard = time.monotonic()
                return result
            except Reported as error:
                raise SandboxError(f"the session is lost: {error}") from error
            except Resting as resting:
                await asyncio.sleep(resting.seconds * random.uniform(0.5, 1.0))
            except Failed as error:
                failures += 1
                if failures == ATTEMPTS:
                    raise SandboxError(f"the session is lost: {error}") from error
                await asyncio.sleep(_pause(failures))

    async def leave(self, seat: Seat) -> None:
        """Closes a session. Where the endpoint does not hear of it, it expires there."""
        try:
            await seat.endpoint.delete(f"/session/{seat.key}")
        except (Failed, Resting, SandboxError) as error:
            log.info("a session was not closed: %s", error)
        if seat in self._seats:
            self._seats.discard(seat)
            seat.endpoint.sessions -= 1

    async def leave_all(self) -> None:
        await asyncio.gather(*map(self.leave, list(self._seats)))

    async def _look_after(self, endpoint: Endpoint) -> None:
        pause, told = FIRST_PAUSE, ""
        while True:
            if not endpoint.usable:
                await endpoint.look()
                if endpoint.refusal and endpoint.refusal != told:
                    log.warning("endpoint is not used: %s", endpoint.refusal)
                    told = endpoint.refusal
                self._dispatch()
                pause = FIRST_PAUSE if endpoint.usable else min(2 * pause, MOST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _turn(self, avoid: Endpoint | None) -> Endpoint:
        """Waits for a place at an endpoint, and takes it."""
        turn = Turn(asyncio.get_running_loop().create_future(), time.monotonic(), avoid)
        self._turns.append(turn)
        self._dispatch()
        return await turn.endpoint

    def _dispatch(self) -> None:
        """Gives places to those who wait, in order."""
        while self._turns:
            if self._turns[0].endpoint.done():  # given up
                self._turns.popleft()
                continue
            avoid = self._turns[0].avoid
            free = [found for found in self._endpoints if found.ready() and found.free]
            if not free:
                return
            best = min(free, key=lambda found: (found is avoid, found.load, random.random()))
            best.take()
            self._turns.popleft().endpoint.set_result(best)

    def _give_up(self) -> None:
        """Fails the jobs that wait where nobody is left who could do them."""
        for turn in self._turns:
            words = self._hopeless(turn.since)
            if words and not turn.endpoint.done():
                turn.endpoint.set_exception(SandboxError(words))

    async def _some(
        self, wanted: Callable[[Endpoint], bool], since: float, whole: bool = False
    ) -> None:
        """Waits until an endpoint is as `wanted`; `whole`: and all have been looked at."""
        while True:
            settled = not whole or all(endpoint.looked for endpoint in self._endpoints)
            if settled and any(map(wanted, self._endpoints)):
                return
            if words := self._hopeless(since):
                raise SandboxError(words)
            await asyncio.sleep(TICK / 5)

    def _hopeless(self, since: float) -> str:
        """Why a job that waits since then should wait no more; empty where it should."""
        if self._broken:
            return self._broken
        troubles = "; ".join(map(_trouble, self._endpoints))
        if all(endpoint.up and endpoint.refusal for endpoint in self._endpoints):
            return troubles
        waited = time.monotonic() - max(since, self._heard)
        if waited > self._patience + (self._longest if self.running else 0.0):
            return f"no endpoint has answered for {waited:.0f} s: {troubles}"
        return ""


def _trouble(endpoint: Endpoint) -> str:
    return endpoint.refusal or endpoint.trouble or f"{endpoint.url}: busy"


def _key(endpoint: Endpoint, reply: Body) -> str:
    if not isinstance(key := reply.get("session"), str):
        raise Failed(f"{endpoint.url}: {reply.get('message') or 'reply names no session'}")
    return key


def _pause(failures: int) -> float:
    return min(MOST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
