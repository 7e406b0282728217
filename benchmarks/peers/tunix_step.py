"""Tunix's whole step of GRPO: its learner's own loop, asked for one step at a time."""

import jax
import numpy as np
import optax
from flax import nnx
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from benchmarks.peers import spec
from benchmarks.peers.paced import Paced
from benchmarks.peers.tunix_model import Ids, model

MICRO = 2  # problems
SETTINGS = {
    "step: microbatches": f"{spec.PROBLEMS // MICRO} of {MICRO * spec.GROUP} sequences",
    "step: rows": "padded to 64 + 256",
    "step: sampled with": "its cache of 320, no log-probs",
    "step: recomputed": "nothing",
    "step: old log-probs": "those of the update itself",
    "step: beside it": "its metrics",
    "step: loss": "clipped, mean over sequences; no KL",
    "step: optimiser": "adamw, gradients clipped to 1",
    "step: timed": "between two requests of its learner's loop for problems",
}


def reward(prompts: list[str], completions: list[str], **_) -> list[float]:
    """As `spec.worth`."""
    del prompts
    return [spec.worth(Ids().encode(text)) for text in completions]


class Grpo:
    """One call of its `train`, held between two steps where it asks for the next problems."""

    def __init__(self) -> None:
        # Before its threads: they would each have a mesh of their own.
        self.cluster = cluster()
        how = grpo_learner.GRPOConfig(num_generations=spec.GROUP, num_iterations=1, beta=0.0)
        learner = grpo_learner.GRPOLearner(
            rl_cluster=self.cluster, algo_config=how, reward_fns=reward
        )
        self.paced = Paced(lambda paced: learner.train(problems(paced)))

    def step(self, round_: int) -> int:
        """The next step; tokens that were sampled."""
        del round_
        before = self.cluster.actor_trainer.train_steps
        self.paced.step()
        jax.block_until_ready(nnx.state(self.cluster.actor_trainer.model))
        assert self.cluster.actor_trainer.train_steps == before + 1
        return spec.PROBLEMS * spec.GROUP * spec.NEW


def problems(paced: Paced):
    """The prompts of one round after the other, each when it is asked for."""
    round_ = 0
    while True:
        paced.pause()
        yield {"prompts": [spec.text(p) for p in spec.prompts(round_)[: spec.PROBLEMS]]}
        round_ += 1


def cluster() -> rl_cluster.RLCluster:
    """All roles on one device; actor and rollout share their weights."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    adamw = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(spec.RATE))
    return rl_cluster.RLCluster(
        actor=model(),
        tokenizer=Ids(),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=adamw, max_steps=10**9, eval_every_n_steps=10**9,
                mini_batch_size=spec.PROBLEMS, train_micro_batch_size=MICRO,
                rollout_micro_batch_size=spec.PROBLEMS,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=spec.NEW, max_prompt_length=spec.PROMPT,
                kv_cache_size=spec.PROMPT + spec.NEW, temperature=1.0, top_p=1.0,
            ),
        ),
    )  # fmt: skip
