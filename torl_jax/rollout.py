"""Door 1: engine x protocol x environment -> finished episodes.

The loop decodes one segment for all live rows, then looks at what they wrote:
a stop string in a row's turn ends the turn, what was decoded past it is taken
back, and the call goes to the environment while every other row decodes on.
When its observation arrives the text is appended as the TOOL's (never trained),
read by one extend, and the row is live again. Freed slots are refilled at once.

A problem always yields exactly G episodes. One that meets a failure of our own is sampled
anew: its random numbers are the same, so it comes to the same call again, as if nothing had
failed. After `retries` of that it ends in ABORT, and so does what is unfinished at the deadline;
or it is LATE, and a later rollout goes on with it: its tokens are read anew, under that
rollout's weights, and what follows is sampled by them.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from torl_jax.envs.base import Environment
from torl_jax.envs.desk import Desk, Failed, News
from torl_jax.episode import LATE, Author, Call, End, Episode, Observation, Problem, Segment, Turn
from torl_jax.errors import Interrupted, UserError
from torl_jax.protocols.base import Finder, Protocol
from torl_jax.protocols.text import Tokenizer
from torl_jax.sampler.engine import Chunk, Engine
from torl_jax.sampler.slots import Slot


@dataclasses.dataclass
class Draft:
    """An episode being written: closed segments, and the turn that is open."""

    index: int  # of the problem in this rollout
    problem: Problem
    sample: int
    slot: Slot
    stops: Finder
    segments: list[Segment] = dataclasses.field(default_factory=list)
    turns: list[Turn] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)
    logps: list[float] = dataclasses.field(default_factory=list)
    versions: list[int] = dataclasses.field(default_factory=list)
    version: int | None = None  # of the weights that sample; None: nobody asked
    lost: tuple[str, ...] = ()  # see Episode
    call: Call | None = None  # waits for its observation
    open: bool = True


@dataclasses.dataclass(frozen=True)
class Carry:
    """What a rollout goes on with: episodes by (problem id, sample), finished ones among them.

    `version`: updates that the weights have seen which sample now.
    """

    version: int
    begun: Mapping[tuple[str, int], Episode] = dataclasses.field(default_factory=dict)


# A draft that is done, why, and for ABORT and LATE what happened.
Ended = tuple[Draft, End, str]


@dataclasses.dataclass(frozen=True)
class Collected:
    """Episodes in the order (problem, sample), and the seconds spent waiting for tools alone."""

    episodes: list[Episode]
    tool_seconds: float


class Rollout:
    """Samples episodes; holds no state between two `collect`s but its parts."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        protocol: Protocol,
        env: Environment,
        *,
        max_prompt: int,
        max_response: int,
        retries: int = 0,
        desk: Callable[..., Desk] = Desk,
        on_segment: Callable[[Segment], object] = lambda segment: None,
    ) -> None:
        """Lengths in tokens.

        `desk(env, seconds=, stopped=)` makes what calls are handed in at; `on_segment` sees
        each segment of each episode as it is closed, once more where it is sampled anew.
        """
        self.engine, self.tokenizer, self.protocol, self.env = engine, tokenizer, protocol, env
        self.max_prompt, self.max_response, self.retries = max_prompt, max_response, retries
        self.desk = desk
        self.on_segment = on_segment

    def prompt(self, problem: Problem) -> tuple[int, ...]:
        """The prompt's tokens; UserError where they are more than `max_prompt`."""
        tokens = tuple(self.tokenizer.encode(self.protocol.prompt(problem)))
        if len(tokens) > self.max_prompt:
            raise UserError(
                f"the prompt of problem {problem.id} has {len(tokens)} tokens; "
                f"config.sampler.max_prompt is {self.max_prompt}: raise it or drop the problem"
            )
        return tokens

    def collect(
        self,
        problems: Sequence[Problem],
        group_size: int,
        on_finish: Callable[[Episode], object] = lambda episode: None,
        stopped: Callable[[], bool] = lambda: False,
        seconds: float = math.inf,
        carry: Carry | None = None,
    ) -> Collected:
        """G episodes of each problem.

        `on_finish` sees each episode as it ends, in any order. Where `stopped` comes true,
        once a decode segment, Interrupted is raised; the engine stays usable. What is
        unfinished after `seconds` ends in ABORT; with `carry` it is LATE.
        """
        prompts = [self.prompt(problem) for problem in problems]
        waiting = deque((i, g) for i in range(len(problems)) for g in range(group_size))
        total = len(waiting)
        desk = self.desk(self.env, seconds=seconds, stopped=stopped)
        drafts: dict[int, Draft] = {}  # by slot
        finished: dict[tuple[int, int], Episode] = {}
        lost: dict[tuple[int, int], tuple[str, ...]] = {}
        due = End.LATE if carry else End.ABORT, f"{LATE} {seconds:g} s"
        tool_seconds = 0.0

        def done(ended: Sequence[Ended | None], late: bool = False) -> None:
            for draft, end, error in filter(None, ended):
                ticket = (draft.index, draft.sample)
                desk.leave(ticket)
                self.engine.release(drafts.pop(draft.slot.index).slot)
                if end is End.ABORT and not late and len(draft.lost) < self.retries:
                    lost[ticket] = (*draft.lost, error)
                    waiting.append(ticket)
                    continue
                finished[ticket] = finish(draft, end, error)
                on_finish(finished[ticket])

        try:
            while len(finished) < total:
                while waiting and self.engine.free:
                    index, sample = waiting.popleft()
                    draft = self._open(index, problems[index], sample, prompts[index])
                    draft.lost = lost.get((index, sample), ())
                    drafts[draft.slot.index] = draft
                    if carry is not None:
                        done([self._go_on(draft, carry, desk)])
                news = desk.news(wait=not any(draft.slot.live for draft in drafts.values()))
                if news.stop:
                    raise Interrupted
                tool_seconds += news.waited
                done(self._ended(news, drafts, due, desk), news.late)
        finally:
            desk.close()
            for draft in drafts.values():
                self.engine.release(draft.slot)
        return Collected([finished[key] for key in sorted(finished)], tool_seconds)

    def _ended(
        self, news: News, drafts: Mapping[int, Draft], due: tuple[End, str], desk: Desk
    ) -> list[Ended | None]:
        """Takes in the news, and what a segment brings; `due`: the end at the deadline."""
        asked = {(draft.index, draft.sample): draft for draft in drafts.values()}
        ended = [self._observe(asked[ticket], answer) for ticket, answer in news.answers]
        if news.late:
            return ended + [self._close(draft, *due) for draft in asked.values() if draft.open]
        if any(draft.slot.live for draft in drafts.values()):
            chunks = self.engine.decode()
            ended += [self._read(drafts[c.slot.index], c, desk) for c in chunks]
        return ended

    def _open(self, index: int, problem: Problem, sample: int, prompt: tuple[int, ...]) -> Draft:
        slot = self.engine.admit(
            prompt,
            problem=problem.key,
            sample=sample,
            budget=self.max_response,
            watch=bool(self.protocol.stops(0)),
        )
        draft = Draft(index, problem, sample, slot, self.protocol.finder(0))
        self._add(draft, Segment(Author.PROMPT, prompt, self.tokenizer.decode(prompt)))
        return draft

    def _go_on(self, draft: Draft, carry: Carry, desk: Desk) -> Ended | None:
        """Brings a fresh draft to where its episode was left; returns it if it is finished."""
        draft.version = carry.version
        episode = carry.begun.get((draft.problem.id, draft.sample))
        if episode is None or episode.end is End.ABORT:
            return None
        draft.lost = draft.lost or episode.lost
        written = list(episode.segments[1:])
        draft.turns = list(episode.turns)
        last = written.pop() if written and written[-1].author is Author.POLICY else None
        for segment in written:
            self._add(draft, segment)
        if last is not None:
            draft.tokens, draft.logps = list(last.tokens), list(last.logps)
            draft.versions = list(last.versions)
        self.engine.feed(draft.slot, [t for s in episode.segments[1:] for t in s.tokens])
        if episode.end is not End.LATE:
            return self._close(draft, episode.end, episode.error)
        draft.stops = self.protocol.finder(len(draft.turns))
        draft.slot.watch(bool(self.protocol.stops(len(draft.turns))))
        stop = draft.stops.feed(self.tokenizer.pieces(draft.tokens))
        # It waited for a tool: the call is made again.
        return None if stop is None else self._ask(draft, stop.text, desk)

    def _read(self, draft: Draft, chunk: Chunk, desk: Desk) -> Ended | None:
        """Takes in what a row has just sampled; returns the episode if that ended it."""
        stop = draft.stops.feed(self.tokenizer.pieces(chunk.tokens))
        count = len(chunk.tokens) if stop is None else stop.tokens - len(draft.tokens)
        draft.tokens.extend(chunk.tokens[:count])
        draft.logps.extend(chunk.logps[:count])
        if draft.version is not None:
            draft.versions.extend([draft.version] * count)
        self.engine.rewind(draft.slot, len(chunk.tokens) - count)
        if stop is not None:
            return self._ask(draft, stop.text, desk)
        if draft.tokens and draft.tokens[-1] in self.tokenizer.eos_ids:
            return self._close(draft, End.EOS)
        if draft.slot.remaining <= 0:
            return self._close(draft, End.LENGTH)
        return None

    def _ask(self, draft: Draft, stop: str, desk: Desk) -> Ended | None:
        """A stop string ended the turn: run what it asks for, go on without, or end."""
        if (end := self.protocol.end(stop, len(draft.turns))) is not None:
            return self._close(draft, end)
        call = self.protocol.call(self.tokenizer.decode(draft.tokens))
        if call is None:
            draft.turns.append(Turn(None, None))
            return self._resume(draft)
        draft.call = call
        draft.slot.live = False
        desk.submit((draft.index, draft.sample), draft.problem, call)
        return None

    def _observe(self, draft: Draft, observation: Observation | Failed) -> Ended | None:
        """The tool has answered: its text enters the row, or the episode ends."""
        call, draft.call = draft.call, None
        if isinstance(observation, Failed):
            return self._close(draft, End.ABORT, observation.error)
        draft.turns.append(Turn(call, observation))
        text = self.protocol.insertion(self.tokenizer.decode(draft.tokens), observation)
        # A program's output must not become control tokens.
        tokens = tuple(self.tokenizer.encode(text, special=False))
        if len(tokens) >= draft.slot.remaining:
            # No room to read the output and answer: half an observation is never shown.
            return self._close(draft, End.LENGTH)
        self._shut(draft)
        if tokens:
            self._add(draft, Segment(Author.TOOL, tokens, text))
            self.engine.feed(draft.slot, tokens)
        return self._resume(draft)

    def _resume(self, draft: Draft) -> Ended | None:
        self._shut(draft)
        if draft.slot.remaining <= 0:
            return self._close(draft, End.LENGTH)
        draft.stops = self.protocol.finder(len(draft.turns))
        draft.slot.watch(bool(self.protocol.stops(len(draft.turns))))
        draft.slot.live = True
        return None

    def _shut(self, draft: Draft) -> None:
        """Closes the policy's open segment, if it has written anything."""
        if draft.tokens:
            text, logps = self.tokenizer.decode(draft.tokens), tuple(draft.logps)
            versions = tuple(draft.versions)
            self._add(draft, Segment(Author.POLICY, tuple(draft.tokens), text, logps, versions))
            draft.tokens, draft.logps, draft.versions = [], [], []

    def _add(self, draft: Draft, segment: Segment) -> None:
        draft.segments.append(segment)
        self.on_segment(segment)

    def _close(self, draft: Draft, end: End, error: str = "") -> Ended:
        draft.open = False
        self._shut(draft)
        return draft, end, error


def finish(draft: Draft, end: End, error: str) -> Episode:
    """The episode that a draft has become."""
    return Episode(
        problem=draft.problem,
        sample=draft.sample,
        segments=tuple(draft.segments),
        turns=tuple(draft.turns),
        end=end,
        error=error,
        lost=draft.lost,
    )


def admissible(rollout: Rollout, problems: Sequence[Problem]) -> tuple[list[Problem], list[str]]:
    """Problems whose prompts fit, and the ids of those that do not."""
    lengths = rollout.tokenizer.lengths([rollout.protocol.prompt(p) for p in problems])
    fits = [length <= rollout.max_prompt for length in lengths]
    kept = [problem for problem, fit in zip(problems, fits, strict=True) if fit]
    return kept, [problem.id for problem, fit in zip(problems, fits, strict=True) if not fit]
