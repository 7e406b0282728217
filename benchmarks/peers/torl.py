"""Our side: the engine that rollouts use, and the learner's own update."""

import functools
import importlib.metadata

import jax
import numpy as np
import optax

from benchmarks.peers import spec, torl_step, torl_tools
from benchmarks.peers.torl_model import SHAPE
from torl_jax.learner import losses, state
from torl_jax.learner.network import Network, place
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.parallel import mesh as meshes
from torl_jax.rl.batch import TrainBatch
from torl_jax.sampler.engine import Engine
from torl_jax.sampler.sampling import Settings


class Decoding:
    """Slots as in a rollout; every token with its log-prob."""

    def __init__(self, segment: int = 64) -> None:
        nothing_V = np.zeros(spec.VOCAB, bool)
        self.engine = Engine(
            Transformer(SHAPE), slots=spec.BATCH, capacity=spec.PROMPT + spec.NEW,
            segment=segment, extend_rows=8, end_V=nothing_V, vocab=spec.VOCAB,
            stop_SV=np.zeros((1, spec.VOCAB), np.uint16), ladder=(spec.PROMPT,),
        )  # fmt: skip
        self.params = initialise(SHAPE, jax.random.key(0))

    def run(self, round_: int, settings: Settings) -> int:
        """A batch from its prompts to its last tokens; how many were sampled."""
        self.engine.load(self.params, jax.random.key(round_), settings)
        for i, prompt in enumerate(spec.prompts(round_)):
            self.engine.admit(prompt, problem=i, sample=0, budget=spec.NEW, watch=False)
        count = 0
        while self.engine.free < spec.BATCH:
            for chunk in self.engine.decode():
                count += len(chunk.tokens)
                if chunk.slot.remaining <= 0:
                    self.engine.release(chunk.slot)
        return count

    def sample(self, round_: int) -> int:
        """At temperature 1."""
        return self.run(round_, Settings.of())

    def greedy(self, round_: int) -> int:
        """The likeliest token."""
        return self.run(round_, Settings.of(temperature=0.0))


def texts(round_: int) -> TrainBatch:
    """A round's sequences as one microbatch, every token a target."""
    tokens = np.asarray(spec.texts(round_), np.int32)[None]
    one = np.ones(tokens.shape, np.float32)
    return TrainBatch(
        tokens=tokens,
        positions=np.broadcast_to(np.arange(spec.LENGTH, dtype=np.int32), tokens.shape),
        segments=np.ones_like(tokens),
        targets=np.roll(tokens, -1, axis=2),
        mask=one,
        weight=one,
        episode=np.zeros_like(tokens),
        sampler_logp=one,
        count=np.int32(1),
    )


class Training:
    """Cross entropy of whole sequences, AdamW."""

    def __init__(self) -> None:
        self.mesh = meshes.make(1, 1, 1)
        model = Transformer(SHAPE, mesh=self.mesh)
        optimizer = optax.adamw(spec.RATE)
        loss = losses.Text(model, vocab=spec.VOCAB)
        self.network = Network(loss, optimizer, state.abstract(SHAPE, optimizer), self.mesh)
        self.state = self.network.create(initialise(SHAPE, jax.random.key(0)))

    def step(self, round_: int) -> int:
        """One update."""
        batch = texts(round_)
        self.state, stats = self.network.update(self.state, place(batch, self.mesh))
        jax.block_until_ready((self.state, stats))
        return batch.tokens.size


def main() -> None:
    decoding, tools = functools.cache(Decoding), functools.cache(torl_tools.Tools)
    settings = {
        "side": "torl_jax", "jax": jax.__version__, "flax": importlib.metadata.version("flax"),
        "dtype": "float32", "threads": "XLA's, as many as processors", "batch": spec.BATCH,
        "cache": decoding().engine.cache.capacity, "log-probs": "yes",
        "train": "loss and entropy of each token, clipping apart",
        **torl_step.SETTINGS, **torl_tools.SETTINGS,
        "tools: cache": tools().engine.cache.capacity,
    }  # fmt: skip
    tasks = {
        "sample": lambda: decoding().sample, "greedy": lambda: decoding().greedy,
        "train": lambda: Training().step, "step": lambda: torl_step.Grpo().step,
        "tools": lambda: tools().even, "uneven": lambda: tools().uneven,
    }  # fmt: skip
    spec.serve(settings, tasks)


if __name__ == "__main__":
    main()
