"""Door 1: markup, provenance and order, with the real tokenizer, engine and sandbox.

The policy is scripted: a model whose next token is a function of the position
alone, or of chance where the script says so. Everything else is the real thing.
"""

import dataclasses
import threading
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox import Sandbox, SandboxError
from torl_jax.envs.python import PythonEnv
from torl_jax.episode import Author, Call, End, Observation, Problem
from torl_jax.errors import Interrupted, UserError
from torl_jax.model.config import ModelConfig
from torl_jax.protocols import machine
from torl_jax.protocols.text import Stage, Tokenizer
from torl_jax.protocols.torl import ToRL
from torl_jax.rollout import Rollout
from torl_jax.sampler.engine import Engine
from torl_jax.sampler.sampling import Settings

WIDTH = 48
CHANCE = None  # in a script: any token
SHAPE = ModelConfig(
    vocab_size=151_936, d_model=WIDTH, layers=1, heads=1, kv_heads=1, head_dim=2, d_mlp=1, tied=True
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Script:
    """Stands where the policy's module stands; params["next_S"] says what follows."""

    config: ModelConfig = SHAPE
    dtype: str = "float32"
    mesh: None = None

    def apply(self, variables, tokens_BT, positions_BT, segments_BT=None, cache=None, window=None):
        params = variables["params"]
        place_BT = jnp.minimum(positions_BT + 1, params["next_S"].shape[0] - 1)
        next_BT = params["next_S"][place_BT]
        hidden_BTD = params["embed_VD"][jnp.maximum(next_BT, 0)] * 100
        return jnp.where(next_BT[..., None] < 0, 0.0, hidden_BTD), cache


@pytest.fixture(scope="module")
def tokenizer(shared):
    return Tokenizer(shared / "tokenizers" / "qwen2.5")


@pytest.fixture(scope="module")
def box():
    with Sandbox(workers=2, timeout=5.0, preload=()) as box:
        yield box


@pytest.fixture(scope="module")
def embed():
    noise = np.random.default_rng(0).normal(size=(SHAPE.vocab_size, WIDTH)).astype(np.float32)
    return noise / np.linalg.norm(noise, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def make(tokenizer, embed):
    """make(pieces, env, ...): a rollout whose policy writes `pieces` (texts, ids or CHANCE)."""
    eos = tokenizer.eos_ids[0] if isinstance(tokenizer.eos_ids, tuple) else min(tokenizer.eos_ids)
    end_V = np.zeros(SHAPE.vocab_size, bool)
    end_V[eos] = True
    stop_SV = machine.table(tokenizer, (Stage(("```output",)),), rows=SHAPE.vocab_size)
    engines = {}

    def build(
        pieces, env, *, calls=1, slots=4, response=120, segment=16, prompt="{question}", hint=True,
        past="text",
    ):  # fmt: skip
        protocol = ToRL(prompt, calls=calls, past=past)
        ids = list(tokenizer.encode(protocol.prompt(PROBLEM)))
        for piece in pieces:
            if isinstance(piece, str):
                ids += tokenizer.encode(piece)
            else:
                ids += [-1] if piece is CHANCE else piece
        ids += [eos]
        next_S = np.full(256, eos, np.int32)
        next_S[: len(ids)] = ids
        key = (slots, segment, hint)
        if key not in engines:
            engines[key] = Engine(
                Script(), slots=slots, capacity=256, segment=segment, extend_rows=2,
                end_V=end_V, stop_SV=stop_SV if hint else np.zeros_like(stop_SV[:1]),
                vocab=len(tokenizer), ladder=(16, 64),
            )  # fmt: skip
        params = {"next_S": jnp.asarray(next_S), "embed_VD": jnp.asarray(embed)}
        engines[key].load(params, jax.random.key(0), Settings.of())
        return Rollout(
            engines[key], tokenizer, protocol, env, max_prompt=100, max_response=response
        )

    return build


PROBLEM = Problem(id="p", question="What is 6*7?\n", answer="42")
CODE = "I compute.\n```python\nprint(6*7)\n```\n"
INSERTED = "\n42\n```\n"


def tool(tokenizer, text=INSERTED):
    """What the environment will insert, so that the script goes on behind it."""
    return tokenizer.encode(text)


def one(rollout):
    (episode,) = rollout.collect([PROBLEM], 1).episodes
    return episode


@pytest.mark.parametrize("hint", [True, False])
@pytest.mark.parametrize("segment", [1, 7, 64])
def test_a_call_runs_between_segments(make, tokenizer, box, segment, hint):
    pieces = [CODE + "```output", tool(tokenizer), "So \\boxed{42}."]
    episode = one(make(pieces, PythonEnv(box), segment=segment, hint=hint))
    assert [s.author for s in episode.segments] == [
        Author.PROMPT, Author.POLICY, Author.TOOL, Author.POLICY,
    ]  # fmt: skip
    assert episode.response_text == (CODE + "```output\n42\n```\nSo \\boxed{42}.<|endoftext|>")
    assert episode.end is End.EOS
    (turn,) = episode.turns
    assert turn.call == Call("print(6*7)\n") and turn.observation.passed
    assert tokenizer.decode(episode.tokens) == PROBLEM.question + episode.response_text


@pytest.mark.parametrize("tail", ["s", "\n", "s are here\n```python\n"])
def test_a_stop_inside_a_token_keeps_the_token_and_nothing_behind_it(make, tokenizer, box, tail):
    (last, *_) = tokenizer.encode("output" + tail)
    kept = tokenizer.decode([last])
    inserted = INSERTED[1:] if kept.endswith("\n") else INSERTED
    pieces = [CODE + "```", [last], tool(tokenizer, inserted), "Done."]
    episode = one(make(pieces, PythonEnv(box)))
    assert episode.response_text == CODE + "```" + kept + inserted + "Done.<|endoftext|>"


def test_a_stop_spelled_by_other_tokens_is_found(make, tokenizer, box):
    pieces = [CODE]
    pieces += [tokenizer.encode(c) for c in "```output"]  # nine single characters
    pieces += [tool(tokenizer), "Done."]
    episode = one(make(pieces, PythonEnv(box), segment=4))
    assert episode.response_text == CODE + "```output" + INSERTED + "Done.<|endoftext|>"


def test_past_the_budget_the_policy_writes_on(make, tokenizer, box):
    pieces = [CODE + "```output", tool(tokenizer), CODE + "```output\n43\n```\nHm."]
    episode = one(make(pieces, PythonEnv(box)))
    assert len(episode.turns) == 1
    assert episode.segments[-1].author is Author.POLICY
    assert episode.segments[-1].text == CODE + "```output\n43\n```\nHm.<|endoftext|>"


@pytest.mark.parametrize("calls", [0, 1])
def test_past_the_budget_asking_again_may_end_the_episode(make, tokenizer, box, calls):
    asked = [CODE + "```output", tool(tokenizer)] * calls
    pieces = [*asked, CODE + "```output", "43"]
    episode = one(make(pieces, PythonEnv(box), calls=calls, past="end"))
    assert (episode.end, len(episode.turns)) == (End.CALLS, calls)
    assert episode.segments[-1].text == CODE + "```output"
    short = one(make([*asked, "Done."], PythonEnv(box), calls=calls, past="end"))
    assert short.end is End.EOS


@pytest.mark.parametrize("calls", [0, 2])
def test_the_call_budget_is_data(make, tokenizer, box, calls):
    pieces = []
    for _ in range(calls):
        pieces += [CODE + "```output", tool(tokenizer)]
    pieces += [CODE + "```output\nfree text"]
    episode = one(make(pieces, PythonEnv(box), calls=calls, response=150))
    assert len(episode.turns) == calls
    assert episode.count(Author.TOOL) == calls * len(tool(tokenizer))


def test_an_unclosed_block_uses_up_a_call_and_inserts_nothing(make, box):
    text = "```python\nprint(1)\n```output" + "\nI go on."
    episode = one(make([text], PythonEnv(box)))
    assert episode.response_text == text + "<|endoftext|>"
    assert [(t.call, t.observation) for t in episode.turns] == [(None, None)]
    assert episode.count(Author.TOOL) == 0


def test_the_budget_counts_tool_tokens_and_never_shows_half_an_observation(make, tokenizer, box):
    written = len(tokenizer.encode(CODE + "```output"))
    full = written + len(tool(tokenizer))
    pieces = [CODE + "```output", tool(tokenizer), "one two three four five"]
    cut = one(make(pieces, PythonEnv(box), response=full))
    assert cut.end is End.LENGTH and cut.segments[-1].author is Author.POLICY
    whole = one(make(pieces, PythonEnv(box), response=full + 2))
    assert whole.end is End.LENGTH
    assert whole.count(Author.POLICY, Author.TOOL) == full + 2
    assert len(cut.turns) == len(whole.turns) == 1


def test_special_tokens_in_tool_output_are_plain_text(make, tokenizer, box):
    text = "```python\nprint('<|endof' + 'text|>')\n```\n```output"
    episode = one(make([text, tokenizer.encode("\n<|endoftext|>\n```\n", special=False)],
                       PythonEnv(box)))  # fmt: skip
    (observed,) = [s for s in episode.segments if s.author is Author.TOOL]
    assert observed.text == "\n<|endoftext|>\n```\n"
    assert not set(tokenizer.eos_ids) & set(observed.tokens)


class Stateless:
    """An environment that is every episode's tool itself."""

    def open(self, problem):
        return self

    def close(self):
        pass


class Broken(Stateless):
    """An environment whose infrastructure fails at the first calls, or at all."""

    def __init__(self, failures=99):
        self.left = failures

    def submit(self, call):
        future, self.left = Future(), self.left - 1
        if self.left >= 0:
            future.set_exception(SandboxError("no worker started"))
        else:
            future.set_result(Observation("42", True, "ok"))
        return future


def test_our_own_failure_aborts_and_is_not_shown(make):
    collected = make([CODE + "```output"], Broken()).collect([PROBLEM], 3)
    assert [e.end for e in collected.episodes] == [End.ABORT] * 3
    assert "no worker started" in collected.episodes[0].error
    assert all(e.count(Author.TOOL) == 0 for e in collected.episodes)


def test_what_met_our_own_failure_is_sampled_anew_as_if_nothing_had_failed(make, tokenizer):
    def episodes(failures, retries):
        rollout = make([*RANDOM, tool(tokenizer), CHANCE, "."], Broken(failures), response=60)
        rollout.retries = retries
        return rollout.collect(PROBLEMS, 3).episodes

    anew = episodes(4, retries=1)
    assert [dataclasses.replace(e, lost=()) for e in anew] == episodes(0, retries=1)
    assert sorted(len(e.lost) for e in anew) == [0] * 5 + [1] * 4
    assert {(e.end, len(e.lost)) for e in episodes(99, retries=2)} == {(End.ABORT, 2)}


class Held(Stateless):
    """Answers calls only when told, in the order told."""

    def __init__(self):
        self.waiting = []

    def submit(self, call):
        future = Future()
        self.waiting.append((call.text, future))
        return future

    def release(self, order):
        for i in order:
            _, future = self.waiting[i]
            future.set_result(Observation("42", True, "ok"))


PROBLEMS = [dataclasses.replace(PROBLEM, id=name) for name in ("a", "b", "c")]
# Chance inside a comment: samples differ, and so do the calls.
RANDOM = ["```python\nprint(6*7) #", CHANCE, CHANCE, "\n```\n```output"]


def held_rollout(make, tokenizer, order, slots):
    env = Held()
    rollout = make([*RANDOM, tool(tokenizer), CHANCE, "."], env, slots=slots, response=60)
    timer = []

    def look():
        # Released from another thread while the loop waits or decodes.
        if len(env.waiting) == 9 and not timer:
            timer.append(threading.Timer(0.05, env.release, [order]))
            timer[0].start()
        return False

    return rollout.collect(PROBLEMS, 3, stopped=look).episodes


def test_the_order_of_answers_changes_no_episode(make, tokenizer):
    forward = held_rollout(make, tokenizer, range(9), slots=9)
    backward = held_rollout(make, tokenizer, range(8, -1, -1), slots=9)
    assert forward == backward
    assert [(e.problem.id, e.sample) for e in forward] == [
        (p.id, g) for p in PROBLEMS for g in range(3)
    ]
    assert len({e.tokens for e in forward}) == 9


def test_permuting_problems_or_changing_slots_changes_no_episode(make, tokenizer, box):
    pieces = [*RANDOM, tool(tokenizer), CHANCE, "."]
    found = []
    for problems, slots in ((PROBLEMS, 4), (PROBLEMS[::-1], 4), (PROBLEMS, 9)):
        rollout = make(pieces, PythonEnv(box), slots=slots, response=60)
        episodes = rollout.collect(problems, 2).episodes
        found.append({(e.problem.id, e.sample): e.tokens for e in episodes})
    assert found[0] == found[1] == found[2]
    assert len(set(found[0].values())) == 6


def test_an_episodes_tokens_are_what_its_row_read(make, tokenizer, box):
    rollout = make([*RANDOM, tool(tokenizer), CHANCE, "."], PythonEnv(box), response=60)
    rows = []

    def finish(episode):
        read = [tuple(slot.tokens) for slot in rollout.engine.table.slots]
        rows.append(episode.tokens in read)

    rollout.collect(PROBLEMS, 2, on_finish=finish)
    assert rows == [True] * 6


class SlowFirst(Stateless):
    """The first call is answered only after another episode has ended."""

    def __init__(self):
        self.first = None

    def submit(self, call):
        future = Future()
        if self.first is None:
            self.first = future
        else:
            future.set_result(Observation("42", True, "ok"))
        return future


def test_a_slow_tool_delays_nobody_else(make, tokenizer):
    env = SlowFirst()
    rollout = make([*RANDOM, tool(tokenizer), "."], env, slots=2, response=60)
    ended = []

    def finish(episode):
        ended.append((episode.problem.id, episode.sample))
        if len(ended) == 8:
            env.first.set_result(Observation("42", True, "ok"))

    # Two slots, nine episodes: eight end in the other slot while the first waits.
    episodes = rollout.collect(PROBLEMS, 3, on_finish=finish).episodes
    assert len(episodes) == 9 and ended[-1] == ("a", 0)


def test_an_interrupted_rollout_leaves_the_engine_usable(make, tokenizer, box):
    rollout = make([CODE + "```output", tool(tokenizer), "ok"], PythonEnv(box), slots=4)
    looks = iter([False, False, True])
    with pytest.raises(Interrupted):
        rollout.collect(PROBLEMS, 3, stopped=lambda: next(looks))
    assert rollout.engine.free == 4
    assert [e.end for e in rollout.collect(PROBLEMS, 2).episodes] == [End.EOS] * 6


def test_what_is_unfinished_at_the_deadline_is_aborted_and_the_rest_kept(make, tokenizer):
    env = Held()  # never answers
    pieces = [*RANDOM, tool(tokenizer), "."]
    rollout = make(pieces, env, slots=2, response=60)
    episodes = rollout.collect(PROBLEMS, 3, seconds=1.0).episodes
    assert [(e.problem.id, e.sample) for e in episodes] == [
        (p.id, g) for p in PROBLEMS for g in range(3)
    ]
    # Two wait for their tools in the two slots; seven never got one.
    assert {(e.end, e.error) for e in episodes} == {(End.ABORT, "unfinished after 1 s")}
    assert sum(e.count(Author.POLICY) > 0 for e in episodes) == 2 == len(env.waiting)
    assert rollout.engine.free == 2
    env.release(range(2))
    again = make(["."], env, slots=2, response=60)
    assert [e.end for e in again.collect(PROBLEMS, 1).episodes] == [End.EOS] * 3


def test_a_prompt_beyond_the_limit_is_one_clear_line(make, box):
    rollout = make(["x"], PythonEnv(box))
    long = Problem(id="long-one", question="word " * 200, answer="")
    with pytest.raises(UserError, match=r"long-one has 20\d tokens.*max_prompt is 100"):
        rollout.collect([long], 2)


def test_logps_belong_to_the_tokens_kept(make, tokenizer, box):
    pieces = [CHANCE, CODE + "```output", tool(tokenizer), CHANCE, "."]
    episode = one(make(pieces, PythonEnv(box), segment=64))
    logps = [x for s in episode.segments for x in s.logps]
    uniform = -np.log(len(tokenizer))
    assert logps[0] == pytest.approx(uniform, abs=1e-4)
    assert sum(x == pytest.approx(uniform, abs=1e-4) for x in logps) == 2
    assert len(logps) == episode.count(Author.POLICY)
