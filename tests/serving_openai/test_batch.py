"""The engine's thread: rows of many requests side by side, and each as if it were alone.

With the tiny base, the real engine and the real sandbox.
"""

import dataclasses
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import ClassVar

import jax
import pytest

from configs import quickstart
from sandbox import Sandbox, SandboxError
from tests.serving_openai.hearing import WAIT, Heard
from torl_jax import config, parts, policy
from torl_jax.envs.python import PythonEnv
from torl_jax.envs.tools import ToolEnv
from torl_jax.episode import Call, End, Observation, Problem
from torl_jax.protocols.torl import ToRL
from torl_jax.rollout import Rollout
from torl_jax.sampler.sampling import Settings
from torl_jax.serving.batch import Batch, Broken, Dead, Ending, Full, Live, Order
from torl_jax.tools.toolbox import Function, Outcome

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny():
    """(recipe, tokenizer, engine of four slots with the weights of the tiny base).

    The engine has no hints where a stop may end: rows decode past it.
    """
    found = policy.load(str(ROOT / "assets/tiny-base"), config.parse(quickstart.get_config()))
    sampler = dataclasses.replace(found.cfg.sampler, slots=4, segment=5)
    cfg = dataclasses.replace(found.cfg, sampler=sampler)
    text = parts.tokenizer(cfg.model)
    engine = parts.engine(cfg, parts.transformer(cfg, found.shape), text, ())
    engine.load(found.params, jax.random.key(0), Settings.of())
    return cfg, text, engine


@pytest.fixture(scope="module")
def box():
    try:
        with Sandbox(workers=2, timeout=5.0, preload=(), min_level="rlimits") as box:
            assert box.level
            yield box
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


@pytest.fixture
def start(tiny):
    """start(live=None, engine=..., queue=...): a batch that is closed at the end."""
    batches = []

    def build(live=None, engine=None, queue=100, **more):
        batches.append(Batch(engine or tiny[2], tiny[1], live, queue=queue, **more))
        return batches[-1]

    yield build
    for batch in batches:
        batch.close(WAIT)
        assert not batch._thread.is_alive()
    assert tiny[2].free == 4


QUESTIONS = ["347*28+91", "12+25", "3+4", "2^40 mod 77"]


def prompt(tiny, question="347*28+91"):
    return tuple(tiny[1].encode(f"User: What is {question}?\nAssistant:\n"))


def order(tiny, question="347*28+91", n=1, budget=60, seed=5, settings=None, **more):
    settings = settings or Settings.of(temperature=1.0)
    return Order((prompt(tiny, question),), n, budget, settings, seed, **more)


def said(batch, asked):
    heard = Heard(asked.n * len(asked.prompts))
    batch.submit(asked, heard)
    return heard.wait()


def until(true):
    deadline = time.monotonic() + WAIT
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)


class Seeded(Problem):
    """A problem with the key of an order."""

    @property
    def key(self):
        return int(self.id)


def test_executed_answers_are_those_of_a_rollout(tiny, box, start):
    cfg, text, engine = tiny
    env, protocol = PythonEnv(box), ToRL(cfg.protocol.prompt, calls=1)
    asked = [
        order(tiny, q, n=6, seed=10 + i, budget=60, execute=True) for i, q in enumerate(QUESTIONS)
    ]
    rollout = Rollout(engine, text, protocol, env, max_prompt=60, max_response=60)
    problems = [
        Seeded(str(o.key), f"What is {q}?", "") for o, q in zip(asked, QUESTIONS, strict=True)
    ]
    episodes = rollout.collect(problems, 6).episodes
    batch = start(Live(protocol, env))
    heard = [Heard(6) for _ in asked]
    for each, listener in zip(asked, heard, strict=True):
        batch.submit(each, listener)
    texts = [text for listener in heard for text in listener.wait().texts]
    ends = [listener.done[i] for listener in heard for i in range(6)]
    assert texts == [e.response_text.removesuffix("<|endoftext|>") for e in episodes]
    reasons = {End.EOS: "stop", End.LENGTH: "length"}
    assert [done.reason for done in ends] == [reasons[e.end] for e in episodes]
    assert [done.tokens for done in ends] == [
        len(e.tokens) - len(e.segments[0].tokens) for e in episodes
    ]
    assert any("```output\n9807\n```\n" in text for text in texts)


def test_a_row_is_the_same_in_any_company(tiny, start):
    """Same seed, prompt and settings: alone, crowded, and after others in the same slots."""
    asked = order(tiny, n=3, settings=Settings.of(0.9, 0, 0.8))
    alone = said(start(), asked).texts
    assert len(set(alone)) > 1
    batch = start()
    others = [Heard(2) for _ in range(12)]
    mixed = [Settings.of(0.0), Settings.of(2.0), Settings.of(1.0, 3), Settings.of(1.0, 0, 0.3)]
    for i, other in enumerate(others):
        question = QUESTIONS[i % 3] if i % 2 else "347*28+9"
        batch.submit(order(tiny, question, n=2, seed=i, settings=mixed[i % 4]), other)
    assert said(batch, asked).texts == alone
    assert said(batch, asked).texts == alone
    assert said(batch, dataclasses.replace(asked, seed=6)).texts != alone
    # A longer row's beginning is the whole of this prompt: still the same.
    longer = Order((asked.prompts[0] + tuple(tiny[1].encode("The")),), 1, 5, asked.settings, 1)
    said(batch, longer)
    assert said(batch, asked).texts == alone


def test_samples_share_one_reading_of_their_prompt(tiny, start):
    engine = tiny[2]
    batch = start()
    engine.reset_tally()
    # Shorter than before, so that no slot has it.
    said(batch, order(tiny, "19+17", n=9, budget=10))
    assert engine.tally.read_tokens == len(prompt(tiny, "19+17")) - 1


def test_thirty_requests_over_four_slots(tiny, start):
    batch = start()
    heard = [Heard() for _ in range(30)]
    for i, listener in enumerate(heard):
        batch.submit(order(tiny, f"{i}+{i}", seed=i, settings=Settings.of(0.0)), listener)
    texts = [listener.wait().texts[0] for listener in heard]
    assert texts == [
        said(batch, order(tiny, f"{i}+{i}", settings=Settings.of(0.0))).texts[0] for i in range(30)
    ]
    assert batch.load == (0, 0) and batch.idle


GREEDY = Settings.of(0.0)


def test_stops_end_a_choice_wherever_they_lie(tiny, start):
    batch = start()
    whole = said(batch, order(tiny, "12+25", settings=GREEDY))
    text = whole.texts[0]
    assert whole.done[0].reason == "stop" and whole.done[0].stop is None
    for begin in range(len(text)):
        for length in (1, 4, 9):
            stop = text[begin : begin + length]
            found = said(batch, order(tiny, "12+25", settings=GREEDY, stops=("never", stop)))
            assert found.texts[0] == text[: text.index(stop)]
            assert (found.done[0].reason, found.done[0].stop) == ("stop", stop)
            assert found.done[0].tokens <= whole.done[0].tokens


def test_the_budget_ends_a_choice_and_nothing_withheld_is_lost(tiny, start):
    batch = start()
    text = said(batch, order(tiny, "12+25", settings=GREEDY)).texts[0]
    for budget in (1, 2, 5):
        found = said(
            batch, order(tiny, "12+25", budget=budget, settings=GREEDY, stops=(text + "!",))
        )
        assert (found.done[0].reason, found.done[0].tokens) == ("length", budget)
        wanted = tiny[1].decode(tiny[1].encode(text)[:budget])
        assert found.texts[0] == wanted


def endless(tiny, **more):
    """An order that takes its whole budget: no end of text in so many words."""
    return order(tiny, budget=100, settings=Settings.of(2.0), **more)


class Slow:
    """An engine whose segments last until they are let go."""

    def __init__(self, engine):
        self._engine, self.gate, self.decoding = engine, threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def decode(self):
        self.decoding.set()
        assert self.gate.wait(WAIT)
        return self._engine.decode()


def test_a_cancelled_request_frees_its_slots_and_says_no_more(tiny, start):
    slow = Slow(tiny[2])
    batch = start(engine=slow)
    gone, kept = Heard(8), Heard()
    job = batch.submit(endless(tiny, n=8), gone)
    assert slow.decoding.wait(WAIT)
    batch.submit(order(tiny, "12+25", settings=GREEDY), kept)
    batch.cancel(job)
    batch.cancel(job)
    pieces = gone.pieces
    slow.gate.set()
    assert kept.wait().texts[0]
    # The segment that ran may still have told something; what came next did not.
    assert gone.pieces <= pieces + 4 and not gone.over.is_set()
    until(lambda: batch.idle)
    assert batch.load == (0, 0) and batch.idle


def test_a_full_queue_refuses_and_takes_again(tiny, start):
    slow = Slow(tiny[2])
    batch = start(engine=slow, queue=2)
    heard = [Heard(4), Heard(), Heard()]
    batch.submit(order(tiny, n=4, budget=4), heard[0])
    assert slow.decoding.wait(WAIT)
    for listener in heard[1:]:
        batch.submit(order(tiny, budget=4), listener)
    assert batch.load == (4, 2)
    with pytest.raises(Full, match="2 requests wait already"):
        batch.submit(order(tiny), Heard())
    slow.gate.set()
    for listener in heard:
        listener.wait()
    said(batch, order(tiny, budget=4))


class Answering:
    """An environment, or a toolbox, whose calls a test answers."""

    functions: ClassVar = {"f": Function("f", "F.", {})}

    def __init__(self):
        self.futures, self.closed = [], 0

    def open(self, problem):
        return self

    def submit(self, *_):
        self.futures.append(Future())
        return self.futures[-1]

    def close(self):
        self.closed += 1

    def asked(self, count):
        until(lambda: len(self.futures) >= count)
        return self.futures


def calling(tiny, n=1, **more):
    """An order whose rows all call the tool: their prompt ends within a program."""
    text = "User: What is 6*7?\nAssistant:\n```python\nprint(6*7)\n```\n"
    tokens = tuple(tiny[1].encode(text))
    return Order((tokens,), n, 60, GREEDY, 1, execute=True, **more)


class Program(ToRL):
    """Whatever the turn says, it asks for a program."""

    turns = ()  # for which a finder was asked

    def call(self, turn_text):
        return super().call("```python\nprint(6*7)\n```\n" + turn_text)

    def finder(self, calls_made):
        object.__setattr__(self, "turns", (*self.turns, calls_made))
        return super().finder(calls_made)


def test_a_row_that_waits_for_its_tool_holds_nobody_up(tiny, start):
    env, protocol = Answering(), Program("{question}")
    batch = start(Live(protocol, env))
    heard = Heard(3)
    batch.submit(calling(tiny, n=3), heard)
    futures = env.asked(3)
    assert said(batch, order(tiny, "12+25", settings=GREEDY)).texts[0]
    for i, future in enumerate(futures):
        future.set_result(Observation(f"{i}{i}<|endoftext|>", True, "ok"))
    heard.wait()
    for i, text in enumerate(heard.texts):
        assert text.startswith(f"```output\n{i}{i}<|endoftext|>\n```\n")
    assert env.closed == 3 and protocol.turns == (0, 0, 0, 1, 1, 1)
    # What a program prints is no control token.
    (end,) = tiny[1].eos_ids
    assert not any(end in slot.tokens[:-1] for slot in tiny[2].table.slots)


def test_a_tool_that_fails_breaks_its_own_request_alone(tiny, start):
    env = Answering()
    batch = start(Live(Program("{question}"), env))
    heard, other = Heard(2), Heard()
    batch.submit(calling(tiny, n=2), heard)
    futures = env.asked(2)
    batch.submit(endless(tiny), other)
    futures[0].set_exception(SandboxError("no worker"))
    assert heard.wait().broken == Broken("the tool failed: SandboxError: no worker")
    # The answer that nobody waits for any more changes nothing.
    futures[1].set_result(Observation("1", True, "ok"))
    assert other.wait().done[0].reason in ("length", "stop")
    assert env.closed == 2 and batch.idle


class ThreeCalls(Program):
    def call(self, turn_text):
        return Call("\n".join(['{"name": "f", "parameters": {}}'] * 3))


def test_a_caller_who_hangs_up_while_a_tool_runs_has_no_more_calls_made(tiny, start):
    toolbox = Answering()
    batch = start(Live(ThreeCalls("{question}"), ToolEnv(toolbox)))
    job = batch.submit(calling(tiny), Heard())
    (first,) = toolbox.asked(1)
    batch.cancel(job)
    until(lambda: batch.idle)
    first.set_result(Outcome(1))
    assert batch.idle and toolbox.futures == [first]


def test_an_observation_that_does_not_fit_ends_the_choice(tiny, start):
    env = Answering()
    batch = start(Live(Program("{question}"), env))
    heard = Heard()
    batch.submit(calling(tiny), heard)
    env.asked(1)[0].set_result(Observation("12 " * 90, True, "ok"))
    done = heard.wait().done[0]
    assert (done.reason, heard.texts[0].strip()) == ("length", "```output")


def test_the_callers_own_stop_comes_before_the_protocols(tiny, start):
    env = Answering()
    batch = start(Live(Program("{question}"), env))
    heard = said(batch, calling(tiny, stops=("output",)))
    assert (heard.texts[0], heard.done[0].stop, env.futures) == ("```", "output", [])


def test_when_the_server_ends_what_is_open_hears_of_it(tiny, start):
    env = Answering()
    batch = start(Live(Program("{question}"), env), queue=1)
    heard = [Heard(4), Heard()]
    batch.submit(calling(tiny, n=4), heard[0])
    env.asked(4)
    batch.submit(order(tiny), heard[1])
    batch.close(WAIT)
    for listener in heard:
        assert listener.wait().broken == Broken("the server is ending", ending=True)
    with pytest.raises(Ending):
        batch.submit(order(tiny), Heard())
    assert env.closed == 4


class Crashing(Slow):
    def decode(self):
        super().decode()
        raise RuntimeError("out of\nmemory")


def test_when_the_engine_dies_everybody_hears_of_it(tiny, start, caplog):
    crashing, died = Crashing(tiny[2]), threading.Event()
    batch = start(engine=crashing, on_death=died.set)
    heard = [Heard(2), Heard(8), Heard()]
    batch.submit(order(tiny, n=2), heard[0])
    assert crashing.decoding.wait(WAIT)
    batch.submit(order(tiny, n=8), heard[1])
    batch.submit(order(tiny), heard[2])
    crashing.gate.set()
    for listener in heard:
        assert "RuntimeError: out of memory" in listener.wait().broken.error
    assert died.wait(WAIT) and batch.failure == "RuntimeError: out of memory"
    with pytest.raises(Dead, match="out of memory"):
        batch.submit(order(tiny), Heard())
    assert "the engine has failed" in caplog.text
