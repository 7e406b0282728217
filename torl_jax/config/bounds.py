"""What values are possible: bounds of single keys, and relations between them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from torl_jax.errors import UserError
from torl_jax.rl.advantages import ESTIMATORS

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
    "tools.workers",
    "tools.timeout",
    "tools.memory_mb",
    "reward.workers",
    "reward.timeout",
    "rl.problems_per_step",
    "rl.group_size",
    "rl.minibatches",
    "rl.epochs",
    "filters.rounds",
    "eval.samples",
    "critic.lr",
    "sft.epochs",
    "sft.examples_per_step",
    "learner.microbatch_rows",
    "learner.rungs",
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
    "protocol.output_tokens",
    "reward.executed",
    "reward.overlong_buffer",
    "sampler.top_k",
    "sampler.deadline",
    "sampler.retries",
    "rl.clip_low",
    "rl.clip_high",
    "rl.kl_coef",
    "critic.warmup",
    "critic.clip",
    "optimizer.warmup",
    "optimizer.decay",
    "optimizer.eps",
    "optimizer.weight_decay",
    "run.seed",
    "run.dump_episodes",
    "pipeline.samplers",
)
ADDED = ("reward.execution", "reward.overlong", "reward.failing", "reward.executed")
SAMPLES = ("overlong_wrong", "fences", "repetition", "perplexity")  # of rl/filters.py
SHARES = ("rl.gamma", "rl.lam", "sft.warmup", "sandbox.lost", "filters.accuracy_high")


def check(config: Any) -> None:
    """UserError for the first impossible value of a `Config`."""
    for path in POSITIVE:
        _need(config, path, lambda x: x > 0, "a number above 0")
    for path in NOT_NEGATIVE:
        _need(config, path, lambda x: x >= 0, "0 or more")
    for path in SHARES:
        _need(config, path, lambda x: 0 <= x <= 1, "a share, 0 to 1")
    for path in ("reward.execution", "reward.overlong", "reward.failing"):
        _need(config, path, lambda x: x <= 0, "0 or less: a penalty")
    for path in ("optimizer.b1", "optimizer.b2"):
        _need(config, path, lambda x: 0 <= x < 1, "at least 0, below 1")
    _need(config, "tools.limit", lambda x: x >= 2, "at least 2: a result is cut in its middle")
    _lengths(config)
    _algorithm(config)
    _rewards(config)
    _pipeline(config)


def _lengths(config: Any) -> None:
    """What is sampled, and what it must fit into."""
    sampler = config.sampler
    _need(config, "sampler.top_p", lambda x: 0 < x <= 1, "above 0, at most 1")
    _need(config, "sampler.temperature", lambda x: x > 0, "above 0: training samples by chance")
    _need(config, "sampler.ladder", lambda x: x and min(x) > 0, "numbers above 0")
    _need(
        config,
        "learner.row_tokens",
        lambda x: x >= sampler.longest,
        f"at least sampler.max_prompt + sampler.max_response = {sampler.longest}, an episode's "
        "length",
    )
    _need(
        config,
        "learner.rungs",
        lambda x: config.learner.row_tokens % (1 << (x - 1)) == 0,
        f"such that learner.row_tokens = {config.learner.row_tokens} is halved evenly",
    )
    _need(
        config,
        "reward.overlong_buffer",
        lambda x: x <= sampler.max_response,
        f"at most sampler.max_response = {sampler.max_response}",
    )

    carries = {
        "sampler.deadline": (lambda x: x > 0, "above 0"),
        "protocol.interpreter": (lambda x: x == "stateless", "stateless"),
    }
    for path, (holds, wanted) in carries.items() if sampler.unfinished == "carry" else ():
        _need(config, path, holds, f"{wanted} with sampler.unfinished = carry")


def _algorithm(config: Any) -> None:
    """Groups, minibatches and filters, as the estimator allows them."""
    rl, high = config.rl, config.filters.accuracy_high
    _need(
        config,
        "rl.minibatches",
        lambda x: rl.problems_per_step % x == 0,
        f"a divisor of rl.problems_per_step = {rl.problems_per_step}",
    )
    if ESTIMATORS[rl.estimator].compares:
        _need(config, "rl.group_size", lambda x: x >= 2, "at least 2: groups compare samples")
    if rl.surrogate == "cispo":
        _need(config, "rl.dual_clip", lambda x: x == 0, "0 with rl.surrogate=cispo, which bounds")
    _need(
        config,
        "rl.kl_in",
        lambda x: x == "loss" or rl.estimator != "gdpo" or not rl.kl_coef,
        "loss with rl.estimator=gdpo, which would weigh the KL as much as each part of the reward",
    )
    _need(config, "rl.dual_clip", lambda x: x == 0 or x > 1, "0 (none) or above 1")
    _need(config, "rl.importance_cap", lambda x: x == 0 or x >= 1, "0 (none) or at least 1")
    _need(
        config,
        "filters.zero_variance",
        lambda x: rl.group_size > 1 or not x,
        "False with rl.group_size=1, where no group has any spread",
    )
    _need(
        config,
        "filters.samples",
        lambda x: set(x) <= set(SAMPLES),
        f"some of {', '.join(SAMPLES)}",
    )
    _need(config, "filters.perplexity", lambda x: x > 1, "above 1, the least that there is")
    _need(
        config,
        "filters.accuracy_low",
        lambda x: 0 <= x <= high,
        f"0 to filters.accuracy_high = {high}",
    )


def _pipeline(config: Any) -> None:
    """Devices that sample beside those that train."""
    for path, wanted in (("pipeline.depth", 1), ("sampler.span", "host")):
        _need(
            config,
            path,
            lambda x, wanted=wanted: x == wanted or not config.pipeline.samplers,
            f"{wanted} with pipeline.samplers = {config.pipeline.samplers}",
        )


def _rewards(config: Any) -> None:
    """Switches that would do nothing, and benchmarks that the reward cannot grade."""
    wrong = config.reward.wrong
    _need(config, "reward.right", lambda x: x > wrong, f"more than reward.wrong = {wrong}")
    for path in ("reward.shape", "reward.misshapen"):
        _need(
            config,
            path,
            lambda x: x in ("any", False) or config.protocol.markup == "zerotir",
            "the default without protocol.markup=zerotir, whose tags it looks for",
        )
    _need(
        config,
        "toolrl.dynamic_length",
        lambda x: config.toolrl.length or not x,
        "toolrl.length too: without it there is no target to grow",
    )
    _need(
        config,
        "eval.benchmarks",
        lambda x: not x or config.reward.kind == "answer",
        "none with reward.kind=toolrl: python -m torl_jax.evaluate_tools has its benchmarks",
    )
    if config.reward.kind == "answer":
        for key, default in dataclasses.asdict(type(config.toolrl)()).items():
            _need(
                config,
                f"toolrl.{key}",
                lambda x, default=default: x == default,
                f"{default!r} with reward.kind=answer: only reward.kind=toolrl has it",
            )
        return
    for path in (*ADDED, "reward.misshapen", "reward.judge"):
        _need(config, path, lambda x: not x, "0 with reward.kind=toolrl, which adds nothing")
    _need(
        config,
        "protocol.markup",
        lambda x: x == "toolrl",
        "toolrl with reward.kind=toolrl, which scores its blocks of calls",
    )


def _need(config: Any, path: str, holds: Callable[[Any], Any], expected: str) -> None:
    section, key = path.split(".")
    value = getattr(getattr(config, section), key)
    if not holds(value):
        raise UserError(f"config.{path} is {value!r}; expected {expected}")
