"""The sections of a config: every key with its type, its default and what it means."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from torl_jax.config import bounds


@dataclasses.dataclass(frozen=True)
class Model:
    """Where the policy comes from, and the precision it computes in.

    `path` is a Hugging Face folder, or a name on the hub (OWNER/NAME, OWNER/NAME@REVISION),
    which is fetched. With `random` true its weights are not read: `config.json` alone gives
    the architecture, `overrides` (ModelConfig fields) shrink it, and parameters are drawn
    from the run's seed.
    """

    path: str = ""
    tokenizer: str = ""  # folder with tokenizer.json; empty: the same as `path`
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "xla", "tpu", "gpu"] = "auto"  # auto: the platform's own
    random: bool = False
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Data:
    """Problems: invented `arithmetic` or `tools`, or rows of parquet, jsonl, json or csv files.

    `path`: files, or data sets on the hub (OWNER/NAME, OWNER/NAME:FILE), separated by commas.
    `columns` of a layout that is not known: "{'question': 'QUERY', 'answer': 'GOLD'}".
    """

    source: Literal["arithmetic", "tools", "file"] = "file"
    path: str = ""
    eval_path: str = ""  # empty: eval problems are held out of `path`
    eval_problems: int = 128
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bad_rows: Literal["error", "skip"] = "error"
    bad_answers: Literal["exclude", "keep", "error"] = "exclude"  # golds unequal to themselves
    dedup: bool = False  # a question asked twice is kept once
    decontaminate: int = 13  # words in a row, and 60 %, shared with one held out; 0: no look
    families: tuple[str, ...] = ()  # arithmetic only; empty: all of them


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a policy calls tools.

    torl: fenced Python; an empty prompt is the paper's own, for `calls` 0 one without a tool.
    zerotir: the same in a thought that the prompt opens, the answer in tags.
    toolrl: JSON in a tool block, the data's messages by the tokenizer's chat template; with
    `calls` 0 an episode is one turn, as in the paper, otherwise calls are carried out by `tools`.
    """

    markup: Literal["torl", "toolrl", "zerotir"] = "torl"
    prompt: str = ""
    calls: int = 1
    past: Literal["text", "end"] = "text"  # beyond `calls`: write on, or end where one is asked for
    blocks: Literal["compat", "tolerant"] = "compat"  # which fences hold code
    observation: Literal["fixed", "compat", "streams"] = "fixed"
    output_tokens: int = 256  # zerotir: a longer output is replaced by a sentence that says so
    interpreter: Literal["stateless", "stateful"] = "stateless"  # stateful: one an episode


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Slots, lengths (tokens), the sampling distribution and the devices that sample.

    With span "host" each host has `slots` slots on a mesh of its own devices, tp x fsdp of
    them for one copy of the weights; with "global" all hosts share slots and one mesh.
    """

    slots: int = 128
    max_prompt: int = 400
    max_response: int = 3072
    segment: int = 32  # decode steps between two looks of the host
    compact: bool = True  # few live rows are decoded among themselves: faster, see Engine
    extend_rows: int = 16  # rows of one extend call
    ladder: tuple[int, ...] = (16, 64, 256)  # token counts that extend is compiled for
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    span: Literal["host", "global"] = "host"  # global: for a policy that no host can hold
    fsdp: int = 1  # ways to split the weights beyond tp, gathered layer by layer
    tp: int = 1  # ways to split heads, mlp and vocabulary
    deadline: float = 0.0  # seconds of a rollout until it ends; 0: none
    unfinished: Literal["drop", "carry"] = "drop"  # then: lost, or gone on with in the next step
    retries: int = 1  # times that an episode is sampled anew where a failure of our own met it

    @property
    def longest(self) -> int:
        """Tokens of the longest episode: its prompt, and all that comes behind it."""
        return self.max_prompt + self.max_response


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
    """The processes that run what the model wrote."""

    workers: int = 2
    timeout: float = 10.0  # seconds a program
    memory_mb: int = 512
    min_level: str = "full"  # weaker isolation is accepted by name only
    preload: tuple[str, ...] = ()
    cores: int = 0  # processors set aside for programs; 0 shares them with the trainer
    endpoints: tuple[str, ...] = ()  # servers that run the programs instead; or ("@FILE",) of them
    lost: float = 0.0  # share of problems whose first output is lost: a study of trying again


@dataclasses.dataclass(frozen=True)
class Tools:
    """What a live ToolRL policy can call (`protocol.calls` above 0), for real.

    `files`: Python files, OpenAPI documents, MCP servers; see docs/tools.md.
    """

    files: tuple[str, ...] = ()
    workers: int = 2
    timeout: float = 10.0  # seconds a call
    memory_mb: int = 2048  # of a worker for Python files
    limit: int = 1024  # characters of a result
    environment: tuple[str, ...] = ()  # names of variables that the tools may see
    headers: tuple[str, ...] = ()  # "NAME: VALUE" sent to servers; $NAME is one of these variables


@dataclasses.dataclass(frozen=True)
class Reward:
    """answer: `right` or `wrong` by the grader, and what is added. toolrl: see that section."""

    kind: Literal["answer", "toolrl"] = "answer"
    right: float = 1.0
    wrong: float = -1.0
    shape: Literal["any", "strict"] = "any"  # strict: without ZeroTIR's tags an answer is wrong
    workers: int = 1
    timeout: float = 5.0  # seconds an answer
    execution: float = 0.0  # added where code did not execute; the paper tried -0.5
    execution_rule: Literal["fixed", "compat"] = "fixed"  # compat: also where there is no code
    overlong: float = 0.0  # added at the full length, from 0 at `overlong_buffer` tokens before
    overlong_buffer: int = 0
    judge: str = ""  # a second opinion on wrong answers: an OpenAI-compatible URL, or a file
    judge_model: str = "gpt-4o"
    misshapen: bool = False  # adds -3 without answer tags, -2 without a box, -1 for odd tags
    failing: float = 0.0  # added where over 90 % of several programs failed; ZeroTIR tried -0.1
    executed: float = 0.0  # added to a right answer with a program that ran


@dataclasses.dataclass(frozen=True)
class ToolRl:
    """ToolRL's reward (arXiv 2504.13958): format and correctness of tool calls; docs/toolrl.md.

    Each switch is one of the release's; they combine in its order.
    """

    length: bool = False  # adds a reward for long thoughts
    dynamic_length: bool = False  # whose target grows; needs `length`
    equal_max: bool = False  # correctness in -1 .. 1
    two_stage: bool = False  # format first, correctness after step 30
    dynamic_scale: bool = False  # from format to correctness, smoothly
    refined: bool = False  # names and keys as ordered lists, all or nothing
    intermediate: bool = False  # a call is right as a whole or not at all
    coarse: bool = False  # all calls are right or nothing is
    matching: Literal["greedy", "optimal"] = "greedy"  # released; of the paper
    schedule: Literal["released", "paper"] = "released"  # constants of steps; shares of the run
    gold_thoughts: Literal["keep", "drop"] = "keep"  # drop: golds with thoughts that name tags


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which episodes are trained on.

    "mask" takes an episode out of the loss, "remove" out of its group's mean and spread too.
    Groups that `zero_variance` or the accuracy window drops are replaced by others, sampled
    in up to `rounds` rollouts a step; places that stay empty are not trained on. Checkpoints
    hold no leftovers: behind one there are none, and none where a run was stopped between two.
    """

    overlong: Literal["keep", "mask", "remove"] = "keep"  # cut off at the full length
    void: Literal["keep", "mask"] = "keep"  # with a turn that has neither code nor an answer
    zero_variance: bool = False  # drop groups whose rewards are all equal
    accuracy_low: float = 0.0  # drop groups whose accuracy is below
    accuracy_high: float = 1.0  # or above
    rounds: int = 1
    leftovers: bool = False  # usable groups beyond the batch begin the next one
    incomplete: Literal["keep", "drop"] = "keep"  # groups that lost an episode to our own failure
    samples: tuple[str, ...] = ()  # kinds of episodes not trained on: see rl/filters.py
    perplexity: float = 5.0  # the most that the reference's may be, where `samples` asks for it


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Whether rollouts run beside training, and on which devices.

    With `samplers` that many devices of each host only sample, the others only train; the two
    meshes (`sampler.tp` and `fsdp`, and the section `mesh`) are of these. Without, all do both.
    """

    depth: Literal[0, 1] = 0  # rollouts ahead of training; 0: one after the other
    samplers: int = 0


@dataclasses.dataclass(frozen=True)
class Rl:
    """The algorithm: advantages, group sizes, the loss and its pieces; docs/algorithms.md.

    The estimators are functions of `rl/advantages.py`; gae is PPO with a critic, the others
    have none. gspo is grpo with `ratio` and `aggregation` sequence; cispo is a `surrogate`.
    """

    estimator: Literal[
        "grpo", "dr_grpo", "gdpo", "rloo", "opo", "reinforce_pp", "reinforce_pp_baseline", "gae"
    ] = "grpo"
    gamma: float = 1.0  # discount a token of the policy
    lam: float = 1.0  # gae: 1 is the whole return, 0 one step
    whiten: bool = True  # mean 0, variance 1 over the step's tokens; not grpo, dr_grpo, gdpo
    problems_per_step: int = 128
    group_size: int = 16
    minibatches: int = 1  # optimiser steps an epoch
    epochs: int = 1  # times a rollout is gone through
    ratio: Literal["token", "sequence"] = "token"  # what is clipped: GSPO the episode's mean
    surrogate: Literal["clip", "cispo"] = "clip"
    aggregation: Literal["token", "sequence", "constant"] = "token"  # what counts alike
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0  # bound on the ratio where the advantage is negative; 0: none
    kl_coef: float = 0.0
    kl_in: Literal["loss", "reward"] = "loss"
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: float = 0.0
    importance_cap: float = 0.0  # of weights p_old / p_sampler on the loss; 0: no weights

    @property
    def minibatch(self) -> int:
        """Episodes of an optimiser step."""
        return self.problems_per_step * self.group_size // self.minibatches


@dataclasses.dataclass(frozen=True)
class Critic:
    """PPO's value function: a second decoder, begun from the policy's, with a scalar head.

    Its optimiser is the policy's but for `lr`.
    """

    lr: float = 1e-5
    warmup: int = 0  # steps at the start in which it learns alone
    clip: float = 0.5  # how far a value counts as moved from the one before the step; 0: any


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW; after `warmup` steps a constant rate, or a cosine to 0 within `decay` more.

    `moments`: the first moment's precision.
    """

    lr: float = 1e-6
    warmup: int = 0
    decay: int = 0  # 0: constant
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    moments: Literal["float32", "bfloat16"] = "float32"
    offload: bool = False  # keep the optimiser's state in the hosts' memory between updates


@dataclasses.dataclass(frozen=True)
class Sft:
    """Supervised fine-tuning (`python -m torl_jax.sft`), whose steps follow from the epochs."""

    epochs: int = 3
    examples_per_step: int = 16
    warmup: float = 0.1  # share of the steps; the rest is a cosine to 0


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How training splits the devices; one size may be -1, "what is left".

    `data` copies the weights and splits the rows, `fsdp` splits both, `tp` splits heads,
    mlp and vocabulary (at most as many ways as the model has kv heads).
    """

    data: int = 1
    fsdp: int = -1
    tp: int = 1


@dataclasses.dataclass(frozen=True)
class Learner:
    """Shapes of the update: rows of packed tokens, rows a microbatch.

    `rungs`: lengths that rows may have, each half of the one before: what is left of a batch
    after whole microbatches goes into shorter ones, and the update is compiled for each length.
    `head_chunk`: tokens of a device whose logits exist at a time.
    """

    row_tokens: int = 3472
    rungs: int = 1
    microbatch_rows: int = 8
    head_chunk: int = 1024
    remat: Literal["none", "dots", "full"] = "full"  # what is computed again, see REMAT


@dataclasses.dataclass(frozen=True)
class Eval:
    """Held-out evaluation, before training and every `every` steps."""

    every: int = 4
    sampled: bool = True  # besides the greedy one, `samples` a problem at T=1
    samples: int = 1
    benchmarks: tuple[str, ...] = ()  # evaluated too, by name or NAME=FILE


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Saved every `every` steps; the last `keep` and the best are kept."""

    every: int = 20
    keep: int = 2


@dataclasses.dataclass(frozen=True)
class Run:
    """The run as a whole."""

    steps: int = 1000
    seed: int = 0
    wandb: bool = False
    dump_every: int = 20
    dump_episodes: int = 8


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a training run depends on."""

    model: Model = Model()
    data: Data = Data()
    protocol: Protocol = Protocol()
    sampler: Sampler = Sampler()
    sandbox: SandboxConfig = SandboxConfig()
    tools: Tools = Tools()
    reward: Reward = Reward()
    toolrl: ToolRl = ToolRl()
    filters: Filters = Filters()
    pipeline: Pipeline = Pipeline()
    rl: Rl = Rl()
    critic: Critic = Critic()
    sft: Sft = Sft()
    optimizer: Optimizer = Optimizer()
    mesh: Mesh = Mesh()
    learner: Learner = Learner()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    run: Run = Run()

    def __post_init__(self) -> None:
        bounds.check(self)

    @property
    def needs_reference(self) -> bool:
        """Whether the policy that training began with is kept: for a KL, or for its perplexity."""
        return self.rl.kl_coef > 0 or "perplexity" in self.filters.samples
