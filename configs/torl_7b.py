"""ToRL-7B: as ToRL-1.5B, from Qwen2.5-Math-7B (arXiv 2503.23383).

COMMAND   python -m torl_jax.train --config=configs/torl_7b.py --workdir=runs/torl_7b
              --config.data.path=torl_train.parquet --config.data.eval_path=torl_test.parquet
PLAN      python -m torl_jax.plan --config=configs/torl_7b.py --topology=v5p:2x2x4
ABLATIONS, SMOKE  as in configs/torl_1p5b.py
HARDWARE  TPU v5p:2x2x4 or v6e:8x8 (docs/plans.md); the paper: 8 x A800 80 GB

Deviations: those of configs/torl_1p5b.py. The paper's curves for 7B end at about step 560.
"""

from typing import Any

from configs import base, torl_1p5b


def get_config(argument: str = "") -> Any:
    """The paper's recipe, changed by the names in `argument` (see torl_1p5b.ARGUMENTS)."""
    c = torl_1p5b.get_config()
    c.model.path = "Qwen/Qwen2.5-Math-7B"
    c.sampler.slots = 256
    c.sampler.tp = 4
    c.learner.microbatch_rows = 64
    c.learner.rungs = 3  # 64 rows are much of a step: the last of them may be shorter
    c.run.steps = 560
    base.apply(c, argument, ARGUMENTS)
    return c


def smoke(c: Any) -> None:
    """As the 1.5B model's, with a head of its own."""
    torl_1p5b.smoke(c)
    c.model.overrides = torl_1p5b.SMOKE_MODEL | {"tied": False}


ARGUMENTS = torl_1p5b.ARGUMENTS | {"smoke": smoke}
