"""Tunix: its sampler and its trainer, as its users call them."""

import functools
import importlib.metadata
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler as samplers
from tunix.sft import peft_trainer

from benchmarks.peers import spec, tunix_step, tunix_tools
from benchmarks.peers.tunix_model import Ids, model


class Decoding:
    """Its cache as long as the batch needs."""

    def __init__(self) -> None:
        cache = samplers.CacheConfig(
            cache_size=spec.PROMPT + spec.NEW, num_layers=spec.LAYERS,
            num_kv_heads=spec.KV_HEADS, head_dim=spec.HEAD_DIM,
        )  # fmt: skip
        self.sampler = samplers.Sampler(model(), Ids(), cache)

    def run(self, round_: int, **how) -> int:
        found = self.sampler(
            [" ".join(map(str, prompt)) for prompt in spec.prompts(round_)],
            max_generation_steps=spec.NEW, max_prompt_length=spec.PROMPT, seed=round_, **how,
        )  # fmt: skip
        return sum(len(tokens) for tokens in found.tokens)

    def sample(self, round_: int) -> int:
        return self.run(round_, temperature=1.0, top_p=1.0, return_logprobs=True)

    def greedy(self, round_: int) -> int:
        return self.run(round_, temperature=0.0)


class Training:
    """Its trainer's loop over one batch."""

    def __init__(self) -> None:
        how = peft_trainer.TrainingConfig(eval_every_n_steps=10**9)
        trainer = peft_trainer.PeftTrainer(model(), optax.adamw(spec.RATE), how)
        causal = jnp.tril(jnp.ones((spec.LENGTH, spec.LENGTH), bool))

        def inputs(x: peft_trainer.TrainingInput) -> dict:
            shape = x.input_tokens.shape
            return {
                "input_tokens": x.input_tokens,
                "input_mask": x.input_mask,
                "positions": jnp.broadcast_to(jnp.arange(spec.LENGTH), shape),
                "attention_mask": jnp.broadcast_to(causal, (shape[0], *causal.shape)),
            }

        self.trainer = trainer.with_gen_model_input_fn(inputs)
        self.trainer.is_managed_externally = True  # it stays open between two calls

    def step(self, round_: int) -> int:
        tokens = np.asarray(spec.texts(round_), np.int32)
        batch = peft_trainer.TrainingInput(tokens, np.ones_like(tokens, dtype=bool))
        self.trainer.train([batch])
        jax.block_until_ready(nnx.state(self.trainer.model))
        return tokens.size


def main() -> None:
    decoding = functools.cache(Decoding)
    settings = {
        "side": "Tunix", "tunix": importlib.metadata.version("google-tunix"),
        "jax": jax.__version__, "dtype": "float32", "threads": "XLA's, as many as processors",
        "batch": spec.BATCH, "cache": spec.PROMPT + spec.NEW, "log-probs": "yes",
        "train": "its default loss", **tunix_step.SETTINGS, **tunix_tools.SETTINGS,
    }  # fmt: skip
    tasks = {
        "sample": lambda: decoding().sample, "greedy": lambda: decoding().greedy,
        "train": lambda: Training().step, "step": lambda: tunix_step.Grpo().step,
        "tools": lambda: tunix_tools.Tools(False).run,
        "uneven": lambda: tunix_tools.Tools(True).run,
    }  # fmt: skip
    spec.serve(settings, tasks)
    # The learner's own thread waits for problems, and the interpreter would wait for the thread.
    os._exit(0)


if __name__ == "__main__":
    main()
