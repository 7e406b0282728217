"""Slots: the host's book of who sits where in the cache and what it has read.

A slot knows the tokens of its row and how many of them the cache holds. All but
the last must be in the cache before decoding; the last is the pending one. A
freed slot keeps its tokens until it is taken again, so a later sample of the
same problem finds the prompt already read, in its own slot or in another's.
"""

import dataclasses
from collections.abc import Sequence

from torl_jax.sampler.sampling import Settings
from torl_jax.stops import DEAF

NOBODY = -1


@dataclasses.dataclass
class Slot:
    """One row of the cache.

    tokens: all tokens of the row, prompt included. cached: how many of them the
    cache holds. prompt: how many of them are prompt. budget: most tokens after
    the prompt. fork_from: the slot whose row is to be copied before the first use, or
    NOBODY. stop: how far the turn has come in a stop string (`stops.py`). settings: how
    the row is sampled, None: as the engine's others.
    """

    index: int
    tokens: list[int] = dataclasses.field(default_factory=list)
    cached: int = 0
    prompt: int = 0
    budget: int = 0
    problem: int = 0
    sample: int = 0
    taken: bool = False
    live: bool = False
    stop: int = DEAF
    fork_from: int = NOBODY
    settings: Settings | None = None

    @property
    def unread(self) -> int:
        """Tokens that must be written to the cache before the row can decode."""
        return max(len(self.tokens) - 1 - self.cached, 0)

    @property
    def remaining(self) -> int:
        """Tokens that the budget still allows."""
        return self.prompt + self.budget - len(self.tokens)

    def watch(self, stops: bool) -> None:
        """A turn begins, which stop strings may end, or none."""
        self.stop = 0 if stops else DEAF

    def feed(self, tokens: Sequence[int]) -> None:
        """Adds tokens that somebody else wrote (a tool's output)."""
        if len(tokens) > self.remaining:
            raise ValueError(f"slot {self.index}: {len(tokens)} tokens exceed its budget")
        self.tokens.extend(tokens)

    def rewind(self, count: int) -> None:
        """Takes back the last `count` tokens (overshoot past a stop)."""
        if count:
            del self.tokens[-count:]
            # What the cache holds past this is dead: it is never read, only overwritten.
            self.cached = min(self.cached, len(self.tokens) - 1)


class Table:
    """All slots; hands out free ones so that prompts are read as seldom as possible."""

    def __init__(self, size: int) -> None:
        self.slots = [Slot(i) for i in range(size)]
        self.free = size  # how many slots are free
        # The slots whose row begins with a prompt, free ones too; looked up, since an admission
        # that went through all of them would keep the device waiting.
        self._holders: dict[tuple[int, ...], set[int]] = {}

    def take(self, prompt: Sequence[int], problem: int, sample: int, budget: int) -> Slot:
        """A free slot for a row that starts with `prompt`.

        Prefers a free slot that has read this prompt; else one that will copy it
        from a slot that has, or will have; else one that must read it.
        """
        wanted = len(prompt) - 1
        # The very prompt: a longer row's beginning was read in other steps, to other last bits.
        held = self._holders.get(tuple(prompt), set())
        holders = [self.slots[index] for index in sorted(held)]
        ready = [slot for slot in holders if slot.cached >= wanted]
        reading = [slot for slot in holders if slot.taken and slot.fork_from == NOBODY]
        own = next((slot for slot in ready if not slot.taken), None)
        # A free slot that holds this prompt stays as it is for the samples that follow.
        others = (slot for slot in self.slots if not slot.taken and slot.index not in held)
        slot = own or next(others, None) or next(slot for slot in holders if not slot.taken)
        source = next((s for s in ready + reading if s is not slot), None)
        self._hold(slot, prompt)
        self.free -= 1
        self.slots[slot.index] = Slot(
            index=slot.index,
            tokens=list(prompt),
            cached=wanted if own else 0,
            prompt=len(prompt),
            budget=budget,
            problem=problem,
            sample=sample,
            taken=True,
            live=True,
            fork_from=NOBODY if own or source is None else source.index,
        )
        return self.slots[slot.index]

    def release(self, slot: Slot) -> None:
        """Frees the slot; what its row has read stays until the slot is taken again."""
        if slot.taken:
            slot.taken = slot.live = False
            self.free += 1

    def _hold(self, slot: Slot, prompt: Sequence[int]) -> None:
        """Notes that `slot`'s row begins with this prompt from now on."""
        last = tuple(slot.tokens[: slot.prompt])
        if last in self._holders:
            self._holders[last].discard(slot.index)
            if not self._holders[last]:
                del self._holders[last]
        self._holders.setdefault(tuple(prompt), set()).add(slot.index)
