"""Typed configuration, checked once at the door.

`configs/*.py` are `ml_collections` programs; `parse` turns their ConfigDict into
the frozen dataclasses below. An unknown key, a wrong type or an impossible value
is a UserError that names the legal keys; below this door nothing calls `.get`.
"""

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torl_jax.errors import UserError


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
    """Problems: synthetic `arithmetic`, or rows of parquet, jsonl or csv files.

    `path`: files, or data sets on the hub (OWNER/NAME, OWNER/NAME:FILE), separated by commas.
    `columns` of a layout that is not known: "{'question': 'QUERY', 'answer': 'GOLD'}".
    """

    source: Literal["arithmetic", "file"] = "file"
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
    """ToRL's markup; an empty prompt is the paper's own, for `calls` 0 one without a tool."""

    prompt: str = ""
    calls: int = 1
    past: Literal["text", "end"] = "text"  # beyond `calls`: write on, or end where one is asked for
    blocks: Literal["compat", "tolerant"] = "compat"  # which fences hold code
    observation: Literal["fixed", "compat"] = "fixed"
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
    extend_rows: int = 16  # rows of one extend call
    ladder: tuple[int, ...] = (16, 64, 256)  # token counts that extend is compiled for
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    span: Literal["host", "global"] = "host"  # global: for a policy that no host can hold
    fsdp: int = 1  # ways to split the weights beyond tp, gathered layer by layer
    tp: int = 1  # ways to split heads, mlp and vocabulary
    deadline: float = 0.0  # seconds of a rollout until what is unfinished ends in ABORT; 0: none


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
    """The processes that run what the model wrote."""

    workers: int = 2
    timeout: float = 10.0  # seconds a program
    memory_mb: int = 512
    min_level: str = "full"  # weaker isolation is accepted by name only
    preload: tuple[str, ...] = ()
    cores: int = 0  # processors set aside for programs; 0 shares them with the trainer
    endpoints: tuple[str, ...] = ()  # servers that run the programs instead of this machine
    lost: float = 0.0  # share of problems whose first output is lost: a study of trying again


@dataclasses.dataclass(frozen=True)
class Reward:
    """+1 / -1 by the grader, and what is added to it."""

    workers: int = 1
    timeout: float = 5.0  # seconds an answer
    execution: float = 0.0  # added where code did not execute; the paper tried -0.5
    execution_rule: Literal["fixed", "compat"] = "fixed"  # compat: also where there is no code
    overlong: float = 0.0  # added at the full length, from 0 at `overlong_buffer` tokens before
    overlong_buffer: int = 0


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which episodes are trained on.

    "mask" takes an episode out of the loss, "remove" out of its group's mean and spread too.
    Groups that `zero_variance` or the accuracy window drops are replaced by others, sampled
    in up to `rounds` rollouts a step; places that stay empty are not trained on.
    """

    overlong: Literal["keep", "mask", "remove"] = "keep"  # cut off at the full length
    void: Literal["keep", "mask"] = "keep"  # with a turn that has neither code nor an answer
    zero_variance: bool = False  # drop groups whose rewards are all equal
    accuracy_low: float = 0.0  # drop groups whose accuracy is below
    accuracy_high: float = 1.0  # or above
    rounds: int = 1


@dataclasses.dataclass(frozen=True)
class Rl:
    """The algorithm (GRPO): group sizes, clip, KL and entropy."""

    problems_per_step: int = 128
    group_size: int = 16
    minibatches: int = 1  # optimiser steps an epoch
    epochs: int = 1  # times a rollout is gone through
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0  # bound on the ratio where the advantage is negative; 0: none
    kl_coef: float = 0.0
    kl_in: Literal["loss", "reward"] = "loss"
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: float = 0.0


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with a constant rate after `warmup` steps; `moments`: the first moment's precision."""

    lr: float = 1e-6
    warmup: int = 0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    moments: Literal["float32", "bfloat16"] = "float32"
    offload: bool = False  # keep the optimiser's state in the hosts' memory between updates


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

    `head_chunk`: tokens of a device whose logits exist at a time.
    """

    row_tokens: int = 3472
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
    reward: Reward = Reward()
    filters: Filters = Filters()
    rl: Rl = Rl()
    optimizer: Optimizer = Optimizer()
    mesh: Mesh = Mesh()
    learner: Learner = Learner()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    run: Run = Run()

    def __post_init__(self) -> None:
        for path in POSITIVE:
            _need(self, path, lambda x: x > 0, "a number above 0")
        for path in NOT_NEGATIVE:
            _need(self, path, lambda x: x >= 0, "0 or more")
        sampler, rl = self.sampler, self.rl
        _need(self, "sampler.top_p", lambda x: 0 < x <= 1, "above 0, at most 1")
        _need(self, "sampler.temperature", lambda x: x > 0, "above 0: training samples by chance")
        for key in ("optimizer.b1", "optimizer.b2"):
            _need(self, key, lambda x: 0 <= x < 1, "at least 0, below 1")
        _need(self, "sampler.ladder", lambda x: x and min(x) > 0, "numbers above 0")
        longest = sampler.max_prompt + sampler.max_response
        _need(
            self,
            "learner.row_tokens",
            lambda x: x >= longest,
            f"at least sampler.max_prompt + sampler.max_response = {longest}, an episode's length",
        )
        _need(
            self,
            "rl.minibatches",
            lambda x: rl.problems_per_step % x == 0,
            f"a divisor of rl.problems_per_step = {rl.problems_per_step}",
        )
        _need(self, "rl.group_size", lambda x: x >= 2, "at least 2: GRPO compares samples")
        _need(self, "rl.dual_clip", lambda x: x == 0 or x > 1, "0 (none) or above 1")
        _need(self, "sandbox.lost", lambda x: 0 <= x <= 1, "a share, 0 to 1")
        for key in ("reward.execution", "reward.overlong"):
            _need(self, key, lambda x: x <= 0, "0 or less: a penalty")
        high = self.filters.accuracy_high
        _need(self, "filters.accuracy_high", lambda x: 0 <= x <= 1, "a share, 0 to 1")
        _need(
            self,
            "filters.accuracy_low",
            lambda x: 0 <= x <= high,
            f"0 to filters.accuracy_high = {high}",
        )
        _need(
            self,
            "reward.overlong_buffer",
            lambda x: x <= sampler.max_response,
            f"at most sampler.max_response = {sampler.max_response}",
        )


POSITIVE = (
    "sampler.slots",
    "sampler.max_prompt",
    "sampler.max_response",
    "sampler.segment",
    "sampler.extend_rows",
    "sampler.fsdp",
    "sampler.tp",
    "sandbox.workers",
    "sandbox.timeout",
    "sandbox.memory_mb",
    "reward.workers",
    "reward.timeout",
    "rl.problems_per_step",
    "rl.minibatches",
    "rl.epochs",
    "filters.rounds",
    "eval.samples",
    "learner.microbatch_rows",
    "learner.head_chunk",
    "optimizer.lr",
    "optimizer.clip_norm",
    "eval.every",
    "checkpoint.every",
    "checkpoint.keep",
    "run.steps",
    "run.dump_every",
)
NOT_NEGATIVE = (
    "sandbox.cores",
    "data.eval_problems",
    "data.decontaminate",
    "protocol.calls",
    "reward.overlong_buffer",
    "sampler.top_k",
    "sampler.deadline",
    "rl.clip_low",
    "rl.clip_high",
    "rl.kl_coef",
    "optimizer.warmup",
    "optimizer.eps",
    "optimizer.weight_decay",
    "run.seed",
    "run.dump_episodes",
)


def _need(config: Config, path: str, holds: Callable[[Any], Any], expected: str) -> None:
    section, key = path.split(".")
    value = getattr(getattr(config, section), key)
    if not holds(value):
        raise UserError(f"config.{path} is {value!r}; expected {expected}")


def parse(raw: Mapping[str, Any]) -> Config:
    """A ConfigDict (or nested dict) as a checked Config; UserError on any misfit."""
    return _parse(Config, raw, "config")


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dicts and lists, for JSON; `parse` reads them back."""
    return dataclasses.asdict(config)


def unknown_key(path: str, key: str, legal: list[str]) -> UserError:
    """The error for a key that does not exist, naming the nearest that does."""
    near = difflib.get_close_matches(key, legal, n=1)
    hint = f"did you mean {path}.{near[0]}? " if near else ""
    return UserError(f"unknown key {path}.{key}; {hint}legal keys: {', '.join(sorted(legal))}")


def _parse(kind: type, raw: Mapping[str, Any], path: str) -> Any:
    if not isinstance(raw, Mapping) and not hasattr(raw, "items"):
        raise UserError(f"{path} is {raw!r}; expected a group of keys")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in raw.items():
        if key not in fields:
            raise unknown_key(path, key, list(fields))
        values[key] = _value(hints[key], value, f"{path}.{key}")
    return kind(**values)


def _value(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _parse(hint, value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{path} is {value!r}; expected one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise UserError(f"{path} is {value!r}; expected a tuple of {args[0].__name__}")
        return tuple(_value(args[0], item, path) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) and not hasattr(value, "items"):
            raise UserError(f"{path} is {value!r}; expected a group of keys")
        # As JSON gives it back: a resumed run must find its own config unchanged.
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UserError(f"{path} is {value}; expected a finite number")
        return float(value)
    if not isinstance(value, kind := typing.cast(type, hint)) or (
        kind is int and isinstance(value, bool)
    ):
        raise UserError(f"{path} is {value!r}; expected {kind.__name__}")
    return value
