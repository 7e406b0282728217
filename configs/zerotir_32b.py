"""ZeroTIR-32B: a base model finds code execution by itself, from Qwen2.5-32B (arXiv 2505.07773).

COMMAND   python -m torl_jax.train --config=configs/zerotir_32b.py --workdir=runs/zerotir_32b
              --config.data.path=train.parquet
PLAN      python -m torl_jax.plan --config=configs/zerotir_32b.py --topology=v5p:4x4x4
HARDWARE  TPU v5p:4x4x4 (docs/plans.md)
DATA      ORZ-57k, DeepMath-103K, DAPO-Math-17k

Model, lengths, batch, optimiser and clip are the paper's. Not yet: its prompt and stops,
its advantage (REINFORCE++-baseline: whitened over the batch), its group filter, and
rollouts beside training. Until then this recipe is for plans.
"""

from typing import Any

from configs import base


def get_config() -> Any:
    """The recipe `reinforce-baseline 32B`."""
    c = base.get_config()
    c.model.path = "Qwen/Qwen2.5-32B"
    c.model.dtype = "bfloat16"
    c.data.bad_rows = "skip"
    c.protocol.calls = 2
    c.sampler.slots = 64  # of each host
    c.sampler.tp = 4
    c.sampler.max_prompt = 1024
    c.sampler.max_response = 8192
    c.sampler.temperature = 1.0
    c.rl.problems_per_step = 128
    c.rl.group_size = 16
    c.rl.minibatches = 1
    c.rl.clip_low, c.rl.clip_high = 0.2, 0.28
    c.rl.kl_coef = 0.0
    c.rl.entropy_coef = 0.0
    c.optimizer.lr = 1e-6
    c.optimizer.warmup = 0
    c.optimizer.b1, c.optimizer.b2 = 0.9, 0.95
    c.optimizer.weight_decay = 0.0
    c.optimizer.clip_norm = 1.0
    c.learner.row_tokens = 1024 + 8192
    c.learner.microbatch_rows = 64
    c.sandbox.workers = 16
    c.sandbox.timeout = 20.0
    c.reward.workers = 4
    c.checkpoint.every = 50
    return c
