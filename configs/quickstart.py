"""A tiny base model learns to call Python, in minutes on two CPU cores.

COMMAND   python -m torl_jax.train --config=configs/quickstart.py --workdir=runs/quickstart
PLAN      python -m torl_jax.plan --config=configs/quickstart.py --topology=cpu:1
HARDWARE  2 CPU cores, 4 GiB
MODEL     assets/tiny-base, made by `python -m torl_jax.pretrain`
TOOLRL    configs/quickstart.py:toolrl: structured tool calls instead of Python, by ToolRL's reward,
          from assets/tiny-tools; also :toolrl,coarse and :toolrl,dynamic
PPO       configs/quickstart.py:ppo, or :toolrl,ppo: a critic and one sample a problem
"""

from pathlib import Path
from typing import Any

from configs import base
from torl_jax.errors import UserError

HARD = ("product", "power", "gcd", "count", "digits")
ASSETS = Path(__file__).resolve().parent.parent / "assets"


def get_config(argument: str = "") -> Any:
    """The quickstart, changed by the names in `argument` (see ARGUMENTS)."""
    c = base.get_config()
    c.model.path = str(ASSETS / "tiny-base")
    c.data.source = "arithmetic"
    # Easy sums, which need no program, come half as often as each of the others.
    c.data.families = ("sum", *HARD, *HARD)
    c.data.eval_problems = 220
    # The words that the tiny base was pretrained on; the paper's prompt is longer than its answers.
    c.protocol.prompt = "User: {question}\nAssistant:\n"
    c.protocol.calls = 1
    c.sampler.slots = 128
    c.sampler.max_prompt = 48
    c.sampler.max_response = 80
    c.sampler.segment = 16
    c.sampler.ladder = (16, 64)
    c.sandbox.timeout = 2.0
    # This model only ever writes small sums: the quickstart runs on any machine.
    c.sandbox.min_level = "rlimits"
    c.reward.workers = 1
    c.rl.problems_per_step = 16
    c.rl.group_size = 8
    c.rl.minibatches = 2
    c.optimizer.lr = 3e-4
    c.optimizer.weight_decay = 0.0
    c.learner.row_tokens = 128
    c.learner.microbatch_rows = 16
    c.learner.remat = "none"
    c.eval.every = 10
    c.checkpoint.every = 10
    c.run.steps = 60
    base.apply(c, argument, ARGUMENTS)
    return c


def toolrl(c: Any) -> None:
    """Calls of invented tools; nothing is executed, an episode is one turn."""
    c.model.path = str(ASSETS / "tiny-tools")
    c.data.source = "tools"
    c.data.families = ()
    c.data.eval_problems = 160
    c.protocol.markup = "toolrl"
    c.protocol.prompt = ""
    c.protocol.calls = 0
    c.reward.kind = "toolrl"
    c.sampler.max_prompt = 168
    c.sampler.max_response = 96
    c.sampler.segment = 24
    c.sampler.ladder = (168,)
    c.eval.samples = 4  # one of 160 problems each is uncertain by 0.1
    c.optimizer.lr = 6e-4
    c.optimizer.decay = 120  # two a step: to 0 with the last
    c.learner.row_tokens = 352
    c.learner.microbatch_rows = 8
    c.run.steps = 60


def of_calls(c: Any, name: str) -> None:
    """UserError where a change of ToolRL's reward has no such reward to change."""
    if c.reward.kind != "toolrl":
        raise UserError(
            f"configs/quickstart.py:{name} changes ToolRL's reward: give :toolrl,{name}"
        )


def coarse(c: Any) -> None:
    """All calls are right or nothing is."""
    of_calls(c, "coarse")
    c.toolrl.coarse = True


def dynamic(c: Any) -> None:
    """Format first, correctness later: the ranges move with the step, over this run's length."""
    of_calls(c, "dynamic")
    c.toolrl.dynamic_scale = True
    c.toolrl.schedule = "paper"


def ppo(c: Any) -> None:
    """As many episodes a step, each of its own problem, and a critic."""
    c.rl.estimator = "gae"
    c.rl.problems_per_step *= c.rl.group_size
    c.rl.group_size = 1
    c.critic.lr = 1e-3


ARGUMENTS = {"toolrl": toolrl, "coarse": coarse, "dynamic": dynamic, "ppo": ppo}
