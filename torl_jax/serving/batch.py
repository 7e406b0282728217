"""The thread that owns the engine: rows of all requests decode side by side.

    job = batch.submit(order, deliver)      from any thread; raises Full, Ending, Dead
    deliver(Piece | Done | Broken)          is called in the engine's thread
    batch.cancel(job)                       its slots are free after the running segment

Only this thread touches jax. Requests, cancellations and the answers of tools reach it
through one inbox, which it looks into between two decode segments. Rows join free slots in
the order in which requests came; a request's samples share one reading of their prompt.
What a row says depends on its prompt, its settings, its seed and its number alone.

Where tools are executed a row goes through `rollout.Rollout`'s steps: its turn ends at the
protocol's stop string, what was decoded past it is taken back, the call is carried out
while the others decode on, and the observation is written into the row.
"""

import dataclasses
import functools
import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from torl_jax.envs.base import Environment, Tool
from torl_jax.episode import Observation, Problem
from torl_jax.protocols.base import Finder, Protocol
from torl_jax.protocols.text import StopFinder, Tokenizer
from torl_jax.sampler.engine import Chunk, Engine
from torl_jax.sampler.sampling import Settings
from torl_jax.sampler.slots import Slot
from torl_jax.serving.text import Typist

log = logging.getLogger("torl_jax.serve")


class Full(Exception):
    """As many requests wait as may."""


class Ending(Exception):
    """No more requests are taken."""


class Dead(Exception):
    """The engine has failed."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be sampled: n rows of each prompt, at most `budget` tokens each.

    `seed`: any whole number. `execute`: calls are carried out, by the batch's protocol.
    """

    prompts: tuple[tuple[int, ...], ...]
    n: int
    budget: int
    settings: Settings
    seed: int
    stops: tuple[str, ...] = ()
    execute: bool = False

    @property
    def key(self) -> int:
        """32 bits of the seed, for random keys."""
        return int.from_bytes(hashlib.blake2b(str(self.seed).encode(), digest_size=4).digest())


@dataclasses.dataclass(frozen=True)
class Piece:
    """Text that choice `index` (prompt x n + sample) has just said."""

    index: int
    text: str


@dataclasses.dataclass(frozen=True)
class Done:
    """A choice has ended: "stop" (with the string, if one did it) or "length"; its tokens."""

    index: int
    reason: str
    stop: str | None
    tokens: int


@dataclasses.dataclass(frozen=True)
class Broken:
    """The whole request has failed, through no fault of the caller's."""

    error: str
    ending: bool = False  # the server was told to stop


Deliver = Callable[[Piece | Done | Broken], object]


@dataclasses.dataclass(eq=False)
class Job:
    """A request in the batch. All but the first two fields are the engine thread's."""

    order: Order
    deliver: Deliver
    waiting: deque[tuple[int, int]]  # (prompt, sample) without a slot yet
    rows: "list[Row]" = dataclasses.field(default_factory=list)
    over: bool = False


@dataclasses.dataclass(eq=False)
class Row:
    """A choice that has a slot; `turn`: the tokens of the policy's open turn."""

    job: Job
    index: int
    slot: Slot
    typist: Typist
    finder: Finder  # of the protocol's stops
    turn: list[int] = dataclasses.field(default_factory=list)
    turns: int = 0  # that asked for a tool
    tool: Tool | None = None
    over: bool = False


@dataclasses.dataclass(frozen=True)
class Live:
    """What carries out calls where a request asks for it."""

    protocol: Protocol
    env: Environment


class Batch:
    """Continuous batching of requests over one loaded engine; see the module's docstring."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        live: Live | None,
        *,
        queue: int,
        on_death: Callable[[], object] = lambda: None,
    ) -> None:
        """`queue`: requests that may wait for a slot. `on_death` is called in the thread."""
        self._engine, self._tokenizer, self._live = engine, tokenizer, live
        self._queue, self._on_death = queue, on_death
        self._inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._line: deque[Job] = deque()
        self._rows: dict[int, Row] = {}  # by slot
        self._over = False
        self._lock = threading.Lock()  # of the fields that follow
        self._open: set[Job] = set()
        self._unseated: set[Job] = set()  # with choices that have no slot yet
        self._ending = False
        self.failure = ""  # why the engine is dead, in one line
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def slots(self) -> int:
        """Choices that can be sampled at a time."""
        return len(self._engine.table.slots)

    @property
    def load(self) -> tuple[int, int]:
        """(choices with a slot, requests that wait for one)."""
        return len(self._rows), len(self._unseated)

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return not self._open

    def submit(self, order: Order, deliver: Deliver) -> Job:
        """Takes a request. Raises Full, Ending, Dead."""
        if order.execute and self._live is None:
            raise ValueError("there is nothing here that carries out calls")
        pairs = ((p, g) for p in range(len(order.prompts)) for g in range(order.n))
        job = Job(order, deliver, deque(pairs))
        with self._lock:
            if self.failure:
                raise Dead(self.failure)
            if self._ending:
                raise Ending("the server is ending")
            if len(self._unseated) >= self._queue:
                raise Full(f"{self._queue} requests wait already, no more are taken")
            self._open.add(job)
            self._unseated.add(job)
        self._inbox.put(functools.partial(self._line.append, job))
        return job

    def cancel(self, job: Job) -> None:
        """Ends a request whose answer nobody reads any more; nothing if it is over."""
        self._inbox.put(functools.partial(self._drop, job))

    def refuse(self) -> None:
        """Takes no more requests; those that are open go on."""
        with self._lock:
            self._ending = True

    def close(self, seconds: float) -> None:
        """Breaks off what is open, and ends the thread within `seconds`."""
        self.refuse()
        self._inbox.put(self._stop)
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while not self._over:
                self._work()
            self._break_all(Broken("the server is ending", ending=True))
        # Whatever it was: those who wait must hear of it, and nobody may be taken in any more.
        except BaseException as error:
            log.exception("the engine has failed")
            with self._lock:
                self.failure = " ".join(f"{type(error).__name__}: {error}".split())
            self._on_death()
            self._break_all(Broken(f"the engine has failed: {self.failure}"))

    def _work(self) -> None:
        """A look into the inbox, and one decode segment."""
        while self._stuck() or not self._inbox.empty():
            self._inbox.get()()
        self._seat()
        if any(row.slot.live for row in self._rows.values()):
            for chunk in self._engine.decode():
                self._read(self._rows[chunk.slot.index], chunk)

    def _stuck(self) -> bool:
        """Whether nothing can be done until something comes."""
        able = (self._line and self._engine.free) or any(r.slot.live for r in self._rows.values())
        return not able and not self._over

    def _stop(self) -> None:
        self._over = True

    def _seat(self) -> None:
        """Gives free slots to those who wait, first come first served."""
        while self._line and self._engine.free:
            job = self._line[0]
            prompt, sample = job.waiting.popleft()
            order = job.order
            slot = self._engine.admit(
                order.prompts[prompt],
                problem=order.key,
                sample=sample,
                budget=order.budget,
                watch=bool(self._stops(order, 0)),
                settings=order.settings,
            )
            index = prompt * order.n + sample
            row = Row(job, index, slot, Typist(order.stops), self._finder(order, 0))
            self._rows[slot.index] = row
            job.rows.append(row)
            if not job.waiting:
                self._line.popleft()
                with self._lock:
                    self._unseated.discard(job)

    def _stops(self, order: Order, turns: int) -> tuple[str, ...]:
        return self._live.protocol.stops(turns) if self._live and order.execute else ()

    def _finder(self, order: Order, turns: int) -> Finder:
        running = self._live if order.execute else None
        return running.protocol.finder(turns) if running else StopFinder(())

    def _read(self, row: Row, chunk: Chunk) -> None:
        """Takes in what a row has just sampled."""
        ended = bool(chunk.tokens) and chunk.tokens[-1] in self._tokenizer.eos_ids
        words = chunk.tokens[:-1] if ended else chunk.tokens
        pieces = self._tokenizer.pieces(words)
        call = row.finder.feed(pieces)
        kept = len(pieces) if call is None else call.tokens - len(row.turn)
        text, stop = row.typist.type(pieces[:kept])
        self._say(row, text)
        if stop is not None:
            self._engine.rewind(row.slot, len(chunk.tokens) - (stop.tokens - len(row.turn)))
            self._finish(row, "stop", stop.text)
        elif call is not None:
            self._engine.rewind(row.slot, len(chunk.tokens) - kept)
            row.turn.extend(chunk.tokens[:kept])
            self._say(row, row.typist.end())
            self._ask(row, call.text)
        elif ended:
            self._end(row, "stop")
        elif row.slot.remaining <= 0:
            self._end(row, "length")
        else:
            row.turn.extend(words)

    def _ask(self, row: Row, stop: str) -> None:
        """The protocol's stop ended the turn: carry out what it asks for, or go on without."""
        assert self._live is not None
        if self._live.protocol.end(stop, row.turns) is not None:
            self._finish(row, "stop", stop)
            return
        call = self._live.protocol.call(self._tokenizer.decode(row.turn))
        if call is None:
            self._resume(row)
            return
        row.slot.live = False
        if row.tool is None:
            row.tool = self._live.env.open(Problem(f"request-{id(row.job)}", "", ""))
        row.tool.submit(call).add_done_callback(
            lambda future: self._inbox.put(functools.partial(self._observe, row, future))
        )

    def _observe(self, row: Row, future: "Future[Observation]") -> None:
        """The tool has answered: its text enters the row."""
        if row.over:
            return
        assert self._live is not None
        if (error := future.exception()) is not None:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            log.error("a tool call failed: %s", line)
            row.job.deliver(Broken(f"the tool failed: {line}"))
            self._drop(row.job)
            return
        turn = self._tokenizer.decode(row.turn)
        text = self._live.protocol.insertion(turn, future.result())
        # A program's output must not become control tokens.
        tokens = self._tokenizer.encode(text, special=False)
        if len(tokens) >= row.slot.remaining:
            # No room to read the output and answer: half an observation is never shown.
            self._finish(row, "length", None)
            return
        self._say(row, text)
        self._engine.feed(row.slot, tokens)
        self._resume(row)

    def _resume(self, row: Row) -> None:
        """The next turn begins."""
        if row.slot.remaining <= 0:
            self._finish(row, "length", None)
            return
        row.turns += 1
        order = row.job.order
        row.turn, row.typist = [], Typist(order.stops)
        row.finder = self._finder(order, row.turns)
        row.slot.watch(bool(self._stops(order, row.turns)))
        row.slot.live = True

    def _say(self, row: Row, text: str) -> None:
        if text:
            row.job.deliver(Piece(row.index, text))

    def _end(self, row: Row, reason: str) -> None:
        """Without a stop string: what was withheld is none."""
        self._say(row, row.typist.end())
        self._finish(row, reason, None)

    def _finish(self, row: Row, reason: str, stop: str | None) -> None:
        self._leave(row)
        job = row.job
        job.deliver(Done(row.index, reason, stop, len(row.slot.tokens) - row.slot.prompt))
        if not job.waiting and all(each.over for each in job.rows):
            job.over = True
            with self._lock:
                self._open.discard(job)

    def _leave(self, row: Row) -> None:
        """Frees the slot and closes the tool."""
        if not row.over:
            row.over = True
            del self._rows[row.slot.index]
            self._engine.release(row.slot)
            if row.tool is not None:
                row.tool.close()

    def _drop(self, job: Job) -> None:
        """Nothing more of this request is sampled or told."""
        if not job.over:
            job.over = True
            if job in self._line:
                self._line.remove(job)
            for row in job.rows:
                self._leave(row)
            with self._lock:
                self._open.discard(job)
                self._unseated.discard(job)

    def _break_all(self, broken: Broken) -> None:
        with self._lock:
            # Also those that the thread has never seen; nobody joins them any more.
            self._ending = True
            jobs = list(self._open)
        for job in jobs:
            job.deliver(broken)
        for job in jobs:
            self._drop(job)
