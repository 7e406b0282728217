"""ToolRL-Llama-3B: as ToolRL-1.5B, from Llama-3.2-3B-Instruct (arXiv 2504.13958).

COMMAND   python -m torl_jax.train --config=configs/toolrl_llama_3b.py
              --workdir=runs/toolrl_llama_3b
PLAN      python -m torl_jax.plan --config=configs/toolrl_llama_3b.py --topology=v5e:4x4
PPO, SFT, REWARDS, SMOKE  as in configs/toolrl_1p5b.py
HARDWARE  TPU v5e:4x4; the paper: 2 x A100 80 GB

The model is gated on the hub: accept its licence there and set HF_TOKEN, or give a folder
(--config.model.path=DIR).

Deviations: those of configs/toolrl_1p5b.py.
"""

from typing import Any

from configs import base, toolrl_1p5b


def get_config(argument: str = "") -> Any:
    """The paper's recipe, changed by the names in `argument` (see toolrl_1p5b.ARGUMENTS)."""
    c = toolrl_1p5b.get_config()
    c.model.path = "meta-llama/Llama-3.2-3B-Instruct"
    c.sampler.tp = 2
    c.sampler.slots = 48  # a token has three times the cache of Qwen2.5-3B: 8 kv heads
    c.learner.microbatch_rows = 16
    base.apply(c, argument, ARGUMENTS)
    return c


def sft400(c: Any) -> None:
    """RL from the model that `:sft` has made in its --workdir of the same name."""
    c.model.path = "runs/toolrl_llama_3b_sft400/model"


ARGUMENTS = toolrl_1p5b.ARGUMENTS | {"sft400": sft400}
