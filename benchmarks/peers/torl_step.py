"""Our whole step of GRPO: the trainer's own, without tools, judges and checkpoints.

What `torl_jax.train` does of a step is done here by the same classes: the weights are handed
over, a rollout samples, the reward scores, episodes are filtered, packed and learnt from, and
the step's figures are made. Problems and reward are the benchmark's.
"""

import time
from concurrent.futures import Future

import jax

from benchmarks.peers import spec
from benchmarks.peers.torl_model import SHAPE, Ids
from torl_jax import config, parts, workshop
from torl_jax.ahead import Ahead
from torl_jax.compilation import Counter
from torl_jax.crew import Crew
from torl_jax.data.stream import Stream
from torl_jax.episode import Author, Episode, Problem, Score
from torl_jax.interrupt import StopSignal
from torl_jax.learner.learner import Learner
from torl_jax.logs import Silent
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import initialise
from torl_jax.parallel import mesh as meshes
from torl_jax.parallel.handoff import Handoff
from torl_jax.protocols.torl import ToRL
from torl_jax.rewards.base import settled
from torl_jax.rollout import Rollout
from torl_jax.rollouts import Rollouts
from torl_jax.trainer import Trainer

ROUNDS = 64  # whose prompts are the problems
CONFIG = config.Config(
    protocol=config.Protocol(calls=0),
    sampler=config.Sampler(
        slots=spec.PROBLEMS * spec.GROUP, max_prompt=spec.PROMPT, max_response=spec.NEW,
        ladder=(spec.PROMPT,),
    ),
    rl=config.Rl(problems_per_step=spec.PROBLEMS, group_size=spec.GROUP),
    optimizer=config.Optimizer(lr=spec.RATE),
    learner=config.Learner(
        row_tokens=spec.PROMPT + spec.NEW, microbatch_rows=spec.MICRO, remat="none"
    ),
)  # fmt: skip

SETTINGS = {
    "step: microbatches": f"{spec.PROBLEMS * spec.GROUP // spec.MICRO} of {spec.MICRO} sequences",
    "step: rows": "packed into rows of 320: one each, all being of one length",
    "step: sampled with": f"{CONFIG.sampler.slots} slots of 320, a prompt read once, log-probs",
    "step: recomputed": "attention in blocks of queries, logits of a chunk",
    "step: old log-probs": "those of the update itself, as there is one",
    "step: loss": "clipped, mean over tokens; no KL",
    "step: optimiser": "adamw, gradients clipped to 1",
    "step: beside it": "weights handed over, filters, agreement with the sampler, metrics",
    "step: timed": "what the trainer does of a step",
}


class Even:
    """The share of even tokens."""

    def submit(self, episode: Episode, step: int) -> "Future[Score]":
        """At once."""
        del step
        written = [t for s in episode.segments if s.author is Author.POLICY for t in s.tokens]
        return settled(Score(spec.worth(written), correct=False))


def problems() -> list[Problem]:
    """The prompts of ROUNDS rounds."""
    return [
        Problem(id=f"{round_} {i}", question=spec.text(prompt), answer="")
        for round_ in range(ROUNDS)
        for i, prompt in enumerate(spec.prompts(round_)[: spec.PROBLEMS])
    ]


class Grpo:
    """A run that takes a step whenever it is asked to."""

    def __init__(self, cfg: config.Config = CONFIG, shape: ModelConfig = SHAPE) -> None:
        over = meshes.make(1, 1, 1, jax.devices()[:1])
        text, markup = Ids(), ToRL("{question}", calls=0)
        model = parts.transformer(cfg, shape, remat=cfg.learner.remat)
        learner = Learner(cfg, model, len(text), over)
        sampler = parts.transformer(cfg, shape).clone(mesh=over)
        rollout = Rollout(
            parts.engine(cfg, sampler, text, markup.stops(0)), text, markup, workshop.Idle(),
            max_prompt=cfg.sampler.max_prompt, max_response=cfg.sampler.max_response,
        )  # fmt: skip
        crew = Crew(rollout, Even())
        handoff = Handoff(learner.abstract().params, over, over, model.dtype)
        stream = Stream(problems(), cfg.run.seed)
        stop = StopSignal()
        self.trainer = Trainer(
            cfg=cfg, crew=crew, examiner=crew, level="", learner=learner,
            rollouts=Rollouts(cfg, crew, handoff, stream, stop), held_out=[], writer=Silent(),
            stop=stop, compilations=Counter(),
        )  # fmt: skip
        self.state = learner.create(initialise(shape, jax.random.key(cfg.run.seed), over))
        self.done = 0

    def step(self, round_: int) -> int:
        """The next step of the run; tokens that were sampled, all of which it is trained on."""
        del round_
        begin = time.perf_counter()
        with Ahead(self.trainer.rollouts.sample) as ahead:
            rolled = self.trainer.rolled(self.state, self.done, ahead)
            self.state, row = self.trainer.step(self.state, self.done, rolled, begin)
        jax.block_until_ready(self.state)
        self.done, self.row = self.done + 1, row
        return int(row["train/trained_tokens"])
