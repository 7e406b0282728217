"""SimpleTIR-7B: many turns of code, kept stable by leaving void turns out (arXiv 2509.02479).

COMMAND   python -m torl_jax.train --config=configs/simpletir_7b.py --workdir=runs/simpletir_7b
              --config.data.path=math_level3to5_train.parquet,deepscaler.parquet
PLAN      python -m torl_jax.plan --config=configs/simpletir_7b.py --topology=v5p:2x2x4
SMOKE     as in configs/torl_1p5b.py
HARDWARE  TPU v5p:2x2x4 (docs/plans.md); the paper: nodes of 8 x H100
DATA      MATH levels 3 to 5 and DeepScaleR

The modern variant of ToRL with several turns, from a general base. What differs from ToRL:
up to five turns; an episode with a turn that holds neither code nor an answer is left out of
the loss, though it counts in its group; over-long ones are removed; only groups of an
accuracy of 0.1 to 0.9 are trained on, sampled in up to three rollouts a step; four optimiser
steps a rollout; clip 0.2 / 0.28, and 3.0 where the advantage is negative.

Deviations, from its published training script and text:
  1. ToRL's markup and prompt instead of its own, and a plain prompt, no chat template.
  2. Five turns are four calls and the turn that answers; asking once more ends the episode.
  3. Dropped groups are replaced by rollouts of as many problems as are likely to be needed,
     where it samples three times as many at once.
  4. The response budget counts all tokens after the prompt, the tool's too.
"""

from typing import Any

from configs import base, torl_7b


def get_config(argument: str = "") -> Any:
    """The recipe; the argument `smoke` shrinks it to a CPU."""
    c = torl_7b.get_config()
    c.model.path = "Qwen/Qwen2.5-7B"
    c.protocol.calls = 4
    c.protocol.past = "end"
    c.protocol.blocks = "tolerant"
    c.sampler.slots = 128
    c.sampler.max_prompt = 1024
    c.sampler.max_response = 8000
    c.filters.void = "mask"
    c.filters.overlong = "remove"
    c.filters.accuracy_low, c.filters.accuracy_high = 0.1, 0.9
    c.filters.rounds = 3
    c.rl.problems_per_step = 512
    c.rl.minibatches = 4
    c.rl.clip_low, c.rl.clip_high = 0.2, 0.28
    c.rl.dual_clip = 3.0
    c.learner.row_tokens = 71 * 128  # 1,024 + 8,000 and what the kernels would pad
    c.learner.microbatch_rows = 16
    c.eval.every = 10
    c.run.steps = 1000
    base.apply(c, argument, {"smoke": smoke})
    return c


def smoke(c: Any) -> None:
    """As ToRL's; two small minibatches a rollout. Random weights write neither code nor answers,
    so that the filters would leave nothing.
    """
    torl_7b.smoke(c)
    c.rl.minibatches = 2
    c.filters.void = c.filters.overlong = "keep"
    c.filters.accuracy_low, c.filters.accuracy_high = 0.0, 1.0
