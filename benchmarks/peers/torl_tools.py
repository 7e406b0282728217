"""Our sampling with tool calls: the rollout, its protocol and its desk, over the engine.

A model of random weights would never write a call, so the last token of a turn is replaced by one.
The device stops a row there by its budget, as it stops one elsewhere at a token that may end a
call; all that follows is the rollout's own. Tools answer at once.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

import jax
import numpy as np

from benchmarks.peers import spec
from benchmarks.peers.torl_model import SHAPE, Ids
from torl_jax.episode import Author, Call, End, Observation, Problem
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.protocols.text import StopFinder
from torl_jax.rollout import Rollout
from torl_jax.sampler.decode import Rows
from torl_jax.sampler.engine import Chunk, Engine
from torl_jax.sampler.sampling import Settings
from torl_jax.sampler.slots import Slot

CALL = spec.VOCAB - 1
CALLED = "<call>"
SETTINGS = {
    "tools: samples": spec.BATCH,
    "tools: path": "rollout, protocol, desk, engine",
    "tools: turns": "slots that go on; answers are read by extend",
    "tools: log-probs": "yes",
}


class Words(Ids):
    """Numbers, and the call."""

    def pieces(self, tokens: Iterable[int]) -> list[bytes]:
        """As `Ids`, the call by its name."""
        return [CALLED.encode() if t == CALL else f"{t} ".encode() for t in tokens]


class Calling(Engine):
    """Rows write a call where `ends` has one: places in the response, by the problem's key."""

    ends: dict[int, list[int]]

    def decode(self) -> list[Chunk]:
        """As `Engine`, with the last token of a turn replaced."""
        return [self._called(chunk) for chunk in super().decode()]

    def _called(self, chunk: Chunk) -> Chunk:
        slot = chunk.slot
        if len(slot.tokens) - slot.prompt not in self.ends[slot.problem][:-1]:
            return chunk
        slot.tokens[-1] = CALL
        return dataclasses.replace(chunk, tokens=(*chunk.tokens[:-1], CALL))

    def _rows(self, batch: Sequence[Slot | None]) -> Rows:
        rows = super()._rows(batch)
        left_B = [self._left(slot) if slot is not None and slot.live else 0 for slot in batch]
        return dataclasses.replace(rows, budget_B=np.asarray(left_B, np.int32))

    def _left(self, slot: Slot) -> int:
        """Tokens to the end of the turn."""
        written = len(slot.tokens) - slot.prompt
        return next(end for end in self.ends[slot.problem] if end > written) - written


class Markup:
    """A protocol of calls without text; problems are numbered `ROUND NUMBER`."""

    def prompt(self, problem: Problem) -> str:
        """The prompt of that number in that round."""
        return problem.question

    def stops(self, calls_made: int) -> tuple[str, ...]:
        """The call."""
        return (CALLED,) if calls_made < spec.CALLS else ()

    def finder(self, calls_made: int) -> StopFinder:
        """The rollout's usual one."""
        return StopFinder(self.stops(calls_made))

    def end(self, stop: str, calls_made: int) -> End | None:
        """A call never ends an episode."""
        del stop, calls_made

    def call(self, turn_text: str) -> Call | None:
        """All that the turn says."""
        return Call(turn_text)

    def insertion(self, turn_text: str, observation: Observation | None) -> str:
        """What the tool says, and no more."""
        del turn_text
        return "" if observation is None else observation.text


class Answering:
    """Tools that answer at once."""

    def open(self, problem: Problem) -> "Answered":
        """One for each episode."""
        return Answered(*map(int, problem.id.split()))


class Answered:
    """The answers of `spec`, one after the other."""

    def __init__(self, round_: int, sample: int) -> None:
        self.answers = (spec.answer(round_, sample, call) for call in itertools.count())

    def submit(self, call: Call) -> "Future[Observation]":
        """The next one."""
        del call
        future: Future[Observation] = Future()
        future.set_result(Observation(spec.text(next(self.answers)), passed=True, status="ok"))
        return future

    def close(self) -> None:
        """Nothing to close."""


class Tools:
    """BATCH samples with CALLS calls each, all in slots of their own."""

    def __init__(self, shape: ModelConfig = SHAPE) -> None:
        response = spec.NEW + spec.CALLS * spec.ANSWER
        nothing_V = np.zeros(spec.VOCAB, bool)
        self.engine = Calling(
            Transformer(shape), slots=spec.BATCH, capacity=spec.PROMPT + response, segment=32,
            extend_rows=8, end_V=nothing_V, stop_SV=np.zeros((1, spec.VOCAB), np.uint16),
            vocab=CALL, ladder=(16, spec.PROMPT),
        )  # fmt: skip
        self.rollout = Rollout(
            self.engine, Words(), Markup(), Answering(), max_prompt=spec.PROMPT,
            max_response=response,
        )  # fmt: skip
        self.params = initialise(shape, jax.random.key(0))

    def even(self, round_: int) -> int:
        """All call at the same places."""
        return self.run(round_, uneven=False)

    def uneven(self, round_: int) -> int:
        """Each at places of its own."""
        return self.run(round_, uneven=True)

    def run(self, round_: int, uneven: bool) -> int:
        """From prompts to whole episodes; how many tokens were sampled."""
        problems = [
            Problem(id=f"{round_} {i}", question=spec.text(prompt), answer="")
            for i, prompt in enumerate(spec.prompts(round_))
        ]
        turns = spec.turns(round_, uneven)
        self.engine.ends = {p.key: spec.ends(t) for p, t in zip(problems, turns, strict=True)}
        self.engine.load(self.params, jax.random.key(round_), Settings.of())
        self.episodes = self.rollout.collect(problems, 1).episodes
        return sum(episode.count(Author.POLICY) for episode in self.episodes)
