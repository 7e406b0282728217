"""The engine: continuous batching over slots with segmented decoding.

    slot = engine.admit(prompt, ...)      a row joins; its prompt is read once a group
    for chunk in engine.decode(): ...     up to `segment` tokens for every live row
    engine.feed(slot, tokens)             a tool's output enters by one extend
    engine.rewind(slot, n)                overshoot past a stop is taken back
    slot.live = False, later True         a row that waits costs the others nothing
    engine.release(slot)                  its slot is refilled at the next admit

The host owns all small state (`slots.py`); the device holds parameters and the
cache and runs the pure programs of `decode.py`. What a row samples depends on
the run's key, its problem, its sample number and the place in its response
alone, not on its slot, its neighbours or the order in which tools answer.

The engine works on its model's mesh, or on one device without. There the slots are
split W ways, and one call of `extend` takes as many rows of each way.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np

from torl_jax.model.cache import Cache
from torl_jax.model.transformer import Transformer
from torl_jax.parallel import mesh as meshes
from torl_jax.parallel.sharding import replicated
from torl_jax.sampler.decode import Marks, Rows, Sampled, decode_segment, extend, fork
from torl_jax.sampler.sampling import Settings
from torl_jax.sampler.slots import NOBODY, Slot, Table

# Fewer rows than these are not worth a program of their own.
LEAST = 16


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Tokens that one slot has just sampled, with their log-probs (nats)."""

    slot: Slot
    tokens: tuple[int, ...]
    logps: tuple[float, ...]


@dataclasses.dataclass
class Tally:
    """What the engine has done since `reset_tally`."""

    read_tokens: int = 0  # written by extend: prompts and tool output
    forked_rows: int = 0
    decoded_tokens: int = 0  # sampled, overshoot included
    rewound_tokens: int = 0  # overshoot
    slot_steps: int = 0  # decode steps x rows that were decoded
    segments: int = 0
    seconds: float = 0.0  # on the device or waiting for it

    def __add__(self, later: "Tally") -> "Tally":
        names = [field.name for field in dataclasses.fields(Tally)]
        return Tally(*(getattr(self, name) + getattr(later, name) for name in names))


def batch_sizes(slots: int, ways: int) -> tuple[int, ...]:
    """Numbers of rows that segments are compiled for: all, a half, a quarter, an eighth.

    Small ones gain nothing, and on a mesh each way has as many rows.
    """
    sizes = [slots >> k for k in range(4)]
    fit = [size for size in sizes[1:] if size >= LEAST and size % ways == 0]
    return tuple(sorted({slots, *fit}))


class Engine:
    """Slots over one model; see the module's docstring for its life."""

    def __init__(
        self,
        model: Transformer,
        *,
        slots: int,
        capacity: int,
        segment: int,
        extend_rows: int,
        end_V: np.ndarray,
        stop_SV: np.ndarray,
        vocab: int,
        ladder: Sequence[int],
        compact: bool = True,
    ) -> None:
        """`capacity`: tokens a row; `vocab`: ids from here on are never sampled.

        `ladder`: lengths that `extend` is compiled for; longer texts take several calls.
        `extend_rows`: rows of one such call, at least one of each way. `compact`: where few
        rows live, they are decoded among themselves; where rows are long, in plain XLA, so are
        these. How many live hangs on when tools answer, and products of other sizes may round
        otherwise: without it the last bits of what a row samples do not depend on the clock
        either.
        """
        self.model, self.capacity, self.vocab = model, capacity, vocab
        self.segment, mesh = segment, model.mesh
        self.ways = 1 if mesh is None else meshes.ways(mesh)
        self.extend_rows = -(-extend_rows // self.ways) * self.ways
        self.ladder = tuple(sorted({min(step, capacity) for step in ladder}))
        self.batch_sizes = batch_sizes(slots, self.ways) if compact else (slots,)
        several = len(self.batch_sizes) > 1
        self.decoder = model.clone(by_length=True) if several else model
        self.marks = jax.device_put(
            Marks(end_V=end_V, stop_SV=stop_SV), None if mesh is None else replicated(mesh)
        )
        self.cache = Cache.zeros(model.config, slots, capacity, model.dtype, mesh)
        self.table = Table(slots)
        self.tally = Tally()
        self.settings = Settings.of()
        self.seed_2 = np.zeros(2, np.uint32)
        self.params = None

    def load(self, params, key: jax.Array, settings: Settings) -> None:
        """New weights, key and sampling settings; what was read under old weights is void."""
        if any(slot.taken for slot in self.table.slots):
            raise RuntimeError("weights are loaded between rollouts: some slots are still taken")
        # As numbers: a key on one device could not be used on a mesh of several hosts.
        self.params, self.seed_2 = params, np.asarray(jax.random.key_data(key))
        self.settings = settings
        self.table = Table(len(self.table.slots))

    def warm_up(self) -> None:
        """Compiles every program by running it on nobody's rows; needs `load` first."""
        B, R = len(self.table.slots), self.extend_rows
        none_R, zero_R = np.full(R, B, np.int32), np.zeros(R, np.int32)  # B: nobody's slot
        for step in self.ladder:
            tokens_RT = np.zeros((R, step), np.int32)
            self.cache = extend(
                self.params, self.cache, none_R, zero_R, zero_R, tokens_RT, model=self.model
            )
        for span in {*self.ladder, self.capacity}:
            self.cache = fork(self.cache, zero_R, none_R, span=span, mesh=self.model.mesh)
        for size in self.batch_sizes:
            jax.block_until_ready(self._segment([None] * size))
        self.reset_tally()

    def reset_tally(self) -> Tally:
        """The tally so far; counting starts again from zero."""
        tally, self.tally = self.tally, Tally()
        return tally

    @property
    def free(self) -> int:
        """Slots that `admit` can take."""
        return self.table.free

    def admit(
        self,
        prompt: Sequence[int],
        *,
        problem: int,
        sample: int,
        budget: int,
        watch: bool,
        settings: Settings | None = None,
    ) -> Slot:
        """Takes a free slot for a new row; `budget`: most tokens after the prompt.

        `watch`: its first turn may end with a stop string. `settings` are the row's own
        (scalars); None: those of `load`.
        """
        if len(prompt) + budget > self.capacity:
            raise ValueError(f"{len(prompt)} + {budget} tokens exceed the capacity {self.capacity}")
        slot = self.table.take(prompt, problem, sample, budget)
        slot.settings = settings
        slot.watch(watch)
        # The slot may hold a prompt that rows admitted before have still to copy.
        self._fork([other for other in self.table.slots if other.fork_from == slot.index])
        return slot

    def feed(self, slot: Slot, tokens: Sequence[int]) -> None:
        """Appends tokens that the policy did not write; they are read before the next segment."""
        slot.feed(tokens)

    def rewind(self, slot: Slot, count: int) -> None:
        """Takes the row's last `count` tokens back."""
        slot.rewind(count)
        self.tally.rewound_tokens += count

    def release(self, slot: Slot) -> None:
        """Frees the slot; what its row has read stays until the slot is taken again."""
        self.table.release(slot)

    def decode(self) -> list[Chunk]:
        """Reads what is unread, then runs one segment; one chunk a row that was live."""
        start = time.perf_counter()
        self._read()
        batch = self._batch()
        sampled = jax.device_get(self._segment(batch))
        chunks = []
        for row, slot in enumerate(batch):
            if slot is None or not slot.live:
                continue
            count = int(sampled.count_B[row])
            tokens = tuple(sampled.tokens_BT[row, :count].tolist())
            logps = tuple(sampled.logp_BT[row, :count].tolist())
            slot.tokens.extend(tokens)
            slot.cached += count
            slot.stop = int(sampled.stop_B[row])
            chunks.append(Chunk(slot, tokens, logps))
            self.tally.decoded_tokens += count
        self.tally.slot_steps += int(sampled.steps) * len(batch)
        self.tally.segments += 1
        self.tally.seconds += time.perf_counter() - start
        return chunks

    def _batch(self) -> Sequence[Slot | None]:
        """The rows of a segment: all slots in order, or fewer, with every one that is live."""
        slots = self.table.slots
        own = len(slots) // self.ways
        each = [
            [slot for slot in slots[way * own : (way + 1) * own] if slot.live]
            for way in range(self.ways)
        ]
        most = max(map(len, each))
        size = next(size for size in self.batch_sizes if size >= most * self.ways)
        if size == len(slots):
            return slots
        return [
            slot for live in each for slot in [*live, *[None] * (size // self.ways - len(live))]
        ]

    def _segment(self, batch: Sequence[Slot | None]) -> Sampled:
        self.cache, sampled = decode_segment(
            self.params,
            self.cache,
            self._rows(batch),
            self.marks,
            self._settings(batch),
            self.seed_2,
            model=self.decoder,
            steps=self.segment,
            vocab=self.vocab,
        )
        return sampled

    def _rows(self, batch: Sequence[Slot | None]) -> Rows:
        own = len(self.table.slots) // self.ways
        nobody = Slot(own)
        slots = [slot or nobody for slot in batch]
        # numpy arrays reach the device with the call; each is a few bytes a slot.
        ints = {
            "slot_B": [own if slot is nobody else slot.index % own for slot in slots],
            "len_B": [slot.cached for slot in slots],
            "pending_B": [slot.tokens[-1] if slot.taken else 0 for slot in slots],
            "place_B": [len(slot.tokens) - slot.prompt for slot in slots],
            "budget_B": [slot.remaining for slot in slots],
            "stop_B": [slot.stop for slot in slots],
            "sample_B": [slot.sample for slot in slots],
        }
        return Rows(
            **{name: np.asarray(values, np.int32) for name, values in ints.items()},
            problem_B=np.asarray([slot.problem for slot in slots], np.uint32),
            live_B=np.asarray([slot.live for slot in slots], bool),
        )

    def _settings(self, batch: Sequence[Slot | None]) -> Settings:
        """Each row's own; what nobody will read is drawn plainly: truncation has to sort."""
        plain = Settings.of()
        return Settings.rows(
            [(slot.settings or self.settings) if slot and slot.live else plain for slot in batch]
        )

    def _read(self) -> None:
        """Brings every taken row's cache up to its pending token."""
        slots = self.table.slots
        while True:
            waiting = [s for s in slots if s.fork_from != NOBODY]
            self._fork([s for s in waiting if slots[s.fork_from].cached >= s.prompt - 1])
            # Of rows that copy a prompt some have more to read behind it.
            unread = [s for s in slots if s.taken and s.unread and s.fork_from == NOBODY]
            if not unread:
                return
            for step in self.ladder:
                # A row's step depends on its own tokens alone, never on its neighbours'.
                fits = [s for s in unread if self._step(s.unread) == step]
                for group in self._groups(fits):
                    self._extend(group, step)

    def _step(self, count: int) -> int:
        return next((step for step in self.ladder if step >= count), self.ladder[-1])

    def _groups(self, slots: list[Slot]) -> list[list[tuple[int, Slot]]]:
        """Calls of `extend`: each slot with its row, which is one of the slot's own way."""
        each, own = self.extend_rows // self.ways, len(self.table.slots) // self.ways
        groups: list[list[tuple[int, Slot]]] = []
        taken = [0] * self.ways
        for slot in slots:
            way = slot.index // own
            call, row = divmod(taken[way], each)
            taken[way] += 1
            if call == len(groups):
                groups.append([])
            groups[call].append((way * each + row, slot))
        return groups

    def _extend(self, group: list[tuple[int, Slot]], step: int) -> None:
        R, own = self.extend_rows, len(self.table.slots) // self.ways
        index_R = np.full(R, own, np.int32)
        start_R, count_R = np.zeros(R, np.int32), np.zeros(R, np.int32)
        tokens_RT = np.zeros((R, step), np.int32)
        for r, slot in group:
            count = min(slot.unread, step)
            index_R[r], start_R[r], count_R[r] = slot.index % own, slot.cached, count
            tokens_RT[r, :count] = slot.tokens[slot.cached : slot.cached + count]
            slot.cached += count
        self.cache = extend(
            self.params, self.cache, index_R, start_R, count_R, tokens_RT, model=self.model
        )
        self.tally.read_tokens += int(count_R.sum())

    def _fork(self, slots: list[Slot]) -> None:
        R = self.extend_rows
        for i in range(0, len(slots), R):
            some = slots[i : i + R]
            source_R, target_R = np.zeros(R, np.int32), np.full(R, len(self.table.slots), np.int32)
            source_R[: len(some)] = [slot.fork_from for slot in some]
            target_R[: len(some)] = [slot.index for slot in some]
            span = max(self._span(slot.prompt - 1) for slot in some)
            self.cache = fork(self.cache, source_R, target_R, span=span, mesh=self.model.mesh)
            for slot in some:
                slot.cached, slot.fork_from = slot.prompt - 1, NOBODY
            self.tally.forked_rows += len(some)

    def _span(self, count: int) -> int:
        return next((step for step in self.ladder if step >= count), self.capacity)
