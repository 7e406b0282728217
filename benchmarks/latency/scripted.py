"""The real engine and the real rollout, with a policy whose calls come where a script has them.

The model is real and so is each token, but the last of a turn: there stands the call, or the
end of the text. The device stops there as it does at a token that may end a stop string.
"""

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import jax
import numpy as np

from benchmarks.latency.workload import ANSWER, KINDS, PROMPT, Script
from torl_jax.episode import Call, End, Observation, Problem
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.protocols.text import StopFinder
from torl_jax.sampler.decode import Rows
from torl_jax.sampler.engine import Chunk, Engine
from torl_jax.sampler.sampling import Settings
from torl_jax.sampler.slots import Slot

VOCAB = 512
EOS = VOCAB - 1
CALLS = {kind: VOCAB - 2 - i for i, kind in enumerate(KINDS)}
SPELLED = {token: f"<{kind}>" for kind, token in CALLS.items()} | {EOS: "<end>"}
DONE = Observation("done", passed=True, status="ok")
SHAPE = ModelConfig(
    vocab_size=VOCAB, d_model=64, layers=2, heads=2, kv_heads=1, head_dim=32, d_mlp=128, tied=True
)


def problems(count: int) -> list[Problem]:
    """Numbered ones."""
    return [Problem(id=str(k), question="", answer="") for k in range(count)]


class Words:
    """A tokenizer: each id is a word of its own."""

    eos_ids = (EOS,)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of words like "w12"."""
        del special
        return [int(word[1:]) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        """The words, and what was called in the end."""
        return " ".join(SPELLED.get(token, f"w{token}") for token in tokens)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Each word's."""
        return [(SPELLED.get(token, f"w{token}") + " ").encode() for token in tokens]


class Markup:
    """A protocol of calls without text."""

    def prompt(self, problem: Problem) -> str:
        """PROMPT words of the problem's own."""
        return " ".join(f"w{(problem.key + i * i) % 300}" for i in range(PROMPT))

    def stops(self, calls_made: int) -> tuple[str, ...]:
        """Any call."""
        del calls_made
        return tuple(SPELLED[token] for token in CALLS.values())

    def finder(self, calls_made: int) -> StopFinder:
        """The engine's usual one."""
        return StopFinder(self.stops(calls_made))

    def end(self, stop: str, calls_made: int) -> End | None:
        """A call never ends an episode."""
        del stop, calls_made

    def call(self, turn_text: str) -> Call | None:
        """The kind of tool."""
        return Call(turn_text.rsplit("<", 1)[1].removesuffix(">"))

    def insertion(self, turn_text: str, observation: Observation | None) -> str:
        """ANSWER words."""
        del turn_text, observation
        return " ".join(f"w{i}" for i in range(ANSWER))


class Delays:
    """An environment whose answers take as long as the script says, `pace` times that."""

    def __init__(self, pace: float) -> None:
        self.pace = pace

    def open(self, problem: Problem) -> "Delays":
        """No state."""
        del problem
        return self

    def submit(self, call: Call) -> "Future[Observation]":
        """An answer, later."""
        answer: Future[Observation] = Future()
        answer.set_running_or_notify_cancel()
        seconds = KINDS[call.text][1] * self.pace
        timer = threading.Timer(seconds, answer.set_result, (DONE,))
        timer.daemon = True
        timer.start()
        return answer

    def close(self) -> None:
        """Nothing to close."""


class Scripted(Engine):
    """The only sample of problem k (`problems`) writes what scripts[k] says."""

    def __init__(
        self, scripts: Sequence[Script], *, slots: int, segment: int, compact: bool
    ) -> None:
        longest = PROMPT + max(s.tokens + ANSWER * len(s.calls) for s in scripts)
        nothing_V = np.zeros(VOCAB, bool)
        super().__init__(
            Transformer(SHAPE), slots=slots, capacity=longest, segment=segment, extend_rows=8,
            end_V=nothing_V, stop_SV=np.zeros((1, VOCAB), np.uint16), vocab=min(CALLS.values()),
            ladder=(16, 64), compact=compact,
        )  # fmt: skip
        self.scripts = scripts
        self.number = {problem.key: k for k, problem in enumerate(problems(len(scripts)))}
        self.load(initialise(SHAPE, jax.random.key(0)), jax.random.key(1), Settings.of())
        self.warm_up()
        self.begin()

    def begin(self) -> None:
        """All episodes stand at their first token."""
        self.turn = [0] * len(self.scripts)
        self.left = [script.turns[0] for script in self.scripts]
        self.reset_tally()

    def read(self) -> None:
        """Reads what is unread and waits until it is read."""
        self._read()
        jax.block_until_ready(self.cache)

    def decode(self) -> list[Chunk]:
        """As `Engine`, with a turn's last token replaced by the script's."""
        return [self._scripted(chunk) for chunk in super().decode()]

    def _scripted(self, chunk: Chunk) -> Chunk:
        slot, k = chunk.slot, self.number[chunk.slot.problem]
        self.left[k] -= len(chunk.tokens)
        if self.left[k]:
            return chunk
        script, turn = self.scripts[k], self.turn[k]
        last = EOS if turn == len(script.calls) else CALLS[script.calls[turn]]
        slot.tokens[-1] = last
        if turn < len(script.calls):
            self.turn[k] += 1
            self.left[k] = script.turns[turn + 1]
        return dataclasses.replace(chunk, tokens=(*chunk.tokens[:-1], last))

    def _rows(self, batch: Sequence[Slot | None]) -> Rows:
        rows = super()._rows(batch)
        left_B = [
            self.left[self.number[slot.problem]] if slot is not None and slot.taken else 0
            for slot in batch
        ]
        return dataclasses.replace(
            rows, budget_B=np.minimum(rows.budget_B, np.asarray(left_B, np.int32))
        )
