"""ToolRL-1.5B: structured rewards for tool calls, from Qwen2.5-1.5B-Instruct (arXiv 2504.13958).

COMMAND   python -m torl_jax.train --config=configs/toolrl_1p5b.py --workdir=runs/toolrl_1p5b
PPO       the same with configs/toolrl_1p5b.py:ppo
SFT       python -m torl_jax.sft --config=configs/toolrl_1p5b.py:sft
              --workdir=runs/toolrl_1p5b_sft400 --config.data.path=rlla_sft.json
          then :sft400 starts RL from what it has made
REWARDS   :length, :dynamic_length, :equal_max, :two_stage, :dynamic, :refined, :intermediate,
          :coarse, each an ablation of the paper; :kl as the released scripts; :paper for the
          paper's own formulas; also together (:ppo,coarse)
SMOKE     :smoke with --config.model.tokenizer=DIR (one that has a chat template): random
          weights in a shrunken Qwen2.5, real tokenizer, prompts and rows
PLAN      python -m torl_jax.plan --config=configs/toolrl_1p5b.py --topology=v5e:4x4
HARDWARE  TPU v5e:4x4; the paper: 2 x A100 80 GB
DATA      rlla_4k: 3,920 rows to train on and 80 held out, a copy on the hub of the published files

Deviations from the released code, numbered as in docs/paper_index.md:
  1. KL is 0, as the paper says; the scripts subtract 0.001 x KL from the reward (:kl).
  2. A prompt that does not fit is dropped and counted; the release cuts its start off, where
     the tools are listed. With :ppo (1,024 tokens) that is one row in four to ten.
  3. The loss is a mean over all tokens of a minibatch, without the release's gradient scale.
  4. 105 steps; the release's loop ends one early. Rows follow one another without the drop of
     336 an epoch. The last step is saved, and a run can be resumed and is seeded.
  5. A response ends at any end-of-text token of the model, not at its tokenizer's alone.
  6. Rows whose gold calls are malformed are dropped before the first step, and counted.
"""

from typing import Any

from configs import base, torl_1p5b

HUB = "RamAnanth1/toolrl-rlla4k"


def get_config(argument: str = "") -> Any:
    """The paper's recipe (GRPO, cold start), changed by the names in `argument`."""
    c = base.get_config()
    c.model.path = "Qwen/Qwen2.5-1.5B-Instruct"
    c.model.dtype = "bfloat16"
    c.data.path = f"{HUB}:data/train-*.parquet"
    c.data.eval_path = f"{HUB}:data/test-*.parquet"
    c.data.eval_problems = 80
    c.data.decontaminate = 0  # a split of one set, as the paper's
    c.protocol.markup = "toolrl"
    c.protocol.calls = 0
    c.reward.kind = "toolrl"
    c.sampler.slots = 128  # of each host
    c.sampler.tp = 2
    c.sampler.max_prompt = 2048
    c.sampler.max_response = 1024
    c.sampler.ladder = (256, 1024, 2048)
    c.rl.problems_per_step = 512
    c.rl.group_size = 4
    c.rl.minibatches = 4
    c.rl.entropy_coef = 0.001
    c.optimizer.lr = 1e-6
    c.optimizer.weight_decay = 0.01
    c.optimizer.clip_norm = 1.0
    c.learner.row_tokens = 24 * 128  # 2,048 + 1,024
    c.learner.microbatch_rows = 16
    c.eval.every = 5
    c.eval.sampled = False
    c.checkpoint.every = 15
    c.run.steps = 105
    base.apply(c, argument, ARGUMENTS)
    return c


def ppo(c: Any) -> None:
    """One sample a prompt, a critic, GAE; the lengths of the released script."""
    c.rl.estimator = "gae"
    c.rl.group_size = 1
    c.rl.gamma = c.rl.lam = 1.0
    c.critic.lr = 1e-5
    c.critic.clip = 0.5
    c.sampler.max_prompt = 1024
    c.sampler.max_response = 512
    c.sampler.ladder = (256, 1024)
    c.learner.row_tokens = 12 * 128  # 1,024 + 512


def kl(c: Any) -> None:
    """The released scripts' penalty within the reward."""
    c.rl.kl_coef = 0.001
    c.rl.kl_in = "reward"
    c.rl.kl_estimator = "k1"


def gdpo(c: Any) -> None:
    """Each part of the reward is normalised by itself (arXiv 2601.05242)."""
    c.rl.estimator = "gdpo"


def paper(c: Any) -> None:
    """The paper's formulas where the release differs: best assignment, shares of the run."""
    c.toolrl.matching = "optimal"
    c.toolrl.schedule = "paper"


def dynamic_length(c: Any) -> None:
    """A reward for long thoughts, whose target grows."""
    c.toolrl.length = c.toolrl.dynamic_length = True


def sft(c: Any) -> None:
    """Supervised fine-tuning on the 400 published answers with thoughts; 1 in 20 held out."""
    c.data.path = c.data.eval_path = ""
    c.data.eval_problems = 20
    c.sampler.max_prompt = 3072
    c.sampler.max_response = 1024
    # Examples were cut off at 4,096 tokens there, longer ones are dropped here.
    c.learner.row_tokens = 4096
    c.optimizer.lr = 1e-5
    c.sft.epochs = 3
    c.sft.warmup = 0.1
    c.sft.examples_per_step = 32  # 16 a GPU, how many is not said


def sft400(c: Any) -> None:
    """RL from the model that `:sft` has made in its --workdir of the same name."""
    c.model.path = "runs/toolrl_1p5b_sft400/model"


def switch(name: str) -> Any:
    """Turns one of the reward's switches on."""

    def change(c: Any) -> None:
        c.toolrl[name] = True

    return change


def smoke(c: Any) -> None:
    """Shrinks model, lengths and batch; tokenizer, prompts and rows stay real (the short ones)."""
    c.model.path = ""
    c.model.random = True
    c.model.dtype = "float32"
    c.model.overrides = torl_1p5b.SMOKE_MODEL
    c.data.eval_problems = 4
    c.sampler.slots = 8
    c.sampler.tp = 1
    c.sampler.max_prompt = 480
    c.sampler.max_response = 32
    c.sampler.segment = 16
    c.sampler.extend_rows = 4
    c.sampler.ladder = (480,)
    c.rl.problems_per_step = 4
    c.rl.group_size = min(c.rl.group_size, 2)
    # The shortest of the 400 published answers, their thoughts in them, have 570 tokens.
    c.learner.row_tokens = 1024
    c.learner.microbatch_rows = 2
    c.learner.head_chunk = 256
    c.sft.epochs = 1
    c.sft.examples_per_step = 4
    c.eval.every = 2
    c.checkpoint.every = 2
    c.run.steps = 2


ARGUMENTS = {
    "ppo": ppo,
    "gdpo": gdpo,
    "kl": kl,
    "paper": paper,
    "sft": sft,
    "sft400": sft400,
    "length": switch("length"),
    "dynamic_length": dynamic_length,
    "equal_max": switch("equal_max"),
    "two_stage": switch("two_stage"),
    "dynamic": switch("dynamic_scale"),
    "refined": switch("refined"),
    "intermediate": switch("intermediate"),
    "coarse": switch("coarse"),
    "smoke": smoke,
}
