"""From a checked Config to the parts of a run.

Entry points differ in what they do with these parts, not in how they are made.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from torl_jax import config
from torl_jax.envs.base import Environment
from torl_jax.envs.desk import Desk, SharedDesk
from torl_jax.episode import Segment
from torl_jax.errors import UserError
from torl_jax.model import hf, hub
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.parallel import mesh, multihost, sharding
from torl_jax.protocols import machine
from torl_jax.protocols.base import Protocol
from torl_jax.protocols.chat import ChatTemplate
from torl_jax.protocols.text import Stage, Tokenizer
from torl_jax.protocols.toolrl import ToolRL
from torl_jax.protocols.torl import ToRL
from torl_jax.protocols.zerotir import ZeroTIR
from torl_jax.rewards.answer import Grader
from torl_jax.rewards.base import Reward
from torl_jax.rewards.judged import Judged
from torl_jax.rewards.outcome import Answers, Outcome
from torl_jax.rewards.structured import Structured
from torl_jax.rewards.toolrl import ToolRLReward
from torl_jax.rollout import Rollout
from torl_jax.sampler.engine import Engine
from torl_jax.toolbench import judge

DTYPES = {"float32": jnp.dtype("float32"), "bfloat16": jnp.dtype("bfloat16")}


def tokenizer(cfg: config.Model) -> Tokenizer:
    """The policy's tokenizer, from its own folder or the model's."""
    folder = cfg.tokenizer or cfg.path
    if not folder:
        raise UserError(
            "no tokenizer: set --config.model.path=DIR (a Hugging Face folder) "
            "or --config.model.tokenizer=DIR"
        )
    return Tokenizer(hub.resolve(folder))


def model_config(cfg: config.Model) -> ModelConfig:
    """The architecture: the folder's, changed by `overrides`."""
    if not cfg.path and not cfg.random:
        raise UserError(
            "no model: set --config.model.path=DIR (a Hugging Face folder) or "
            "--config.model.random=true with every ModelConfig field in model.overrides"
        )
    legal = [f.name for f in dataclasses.fields(ModelConfig)]
    for key in cfg.overrides:
        if key not in legal:
            raise config.unknown_key("config.model.overrides", key, legal)
    try:
        if cfg.path:
            return dataclasses.replace(hf.read_config(hub.resolve(cfg.path)), **cfg.overrides)
        return ModelConfig(**cfg.overrides)
    except TypeError as error:
        raise UserError(f"config.model.overrides does not describe a model: {error}") from None


def params(cfg: config.Model, shape: ModelConfig, seed: int, over: Mesh) -> dict:
    """The starting policy in its shards: published weights, or random ones where asked for."""
    if cfg.random:
        return initialise(shape, jax.random.key(seed), over)
    if cfg.overrides:
        raise UserError(
            "config.model.overrides changes the architecture, so published weights cannot "
            "be loaded; set --config.model.random=true or drop the overrides"
        )
    return hf.load(hub.resolve(cfg.path), over)[1]


def protocol(cfg: config.Config) -> Protocol:
    """The markup; ToolRL's prompts are the tokenizer's chat template."""
    own = cfg.protocol
    if own.markup == "torl":
        return ToRL(own.prompt, own.calls, own.past, own.blocks)
    if own.markup == "zerotir":
        return ZeroTIR(tokenizer(cfg.model).lengths, own.prompt, own.calls, own.output_tokens)
    return ToolRL(ChatTemplate.of(tokenizer(cfg.model).folder).render, own.calls)


def grader(cfg: config.Reward) -> Grader | None:
    """The grader's processes, to be closed; None where the reward needs none."""
    return Grader(workers=cfg.workers, timeout=cfg.timeout) if cfg.kind == "answer" else None


def reward(cfg: config.Config, grader: Grader | None) -> Reward:
    """What answers, failed programs and long responses are worth, or calls of tools."""
    if grader is None:
        return structured(cfg)
    worth = outcome(cfg)
    answers = Answers(grader, worth)
    if not cfg.reward.judge:
        return answers
    return Judged(answers, judge.of(cfg.reward.judge, cfg.reward.judge_model), worth)


def outcome(cfg: config.Config) -> Outcome:
    """What graded answers are worth."""
    return Outcome(
        right=cfg.reward.right,
        wrong=cfg.reward.wrong,
        strict=cfg.reward.shape == "strict",
        misshapen=cfg.reward.misshapen,
        failing=cfg.reward.failing,
        executed=cfg.reward.executed,
        execution=cfg.reward.execution,
        execution_rule=cfg.reward.execution_rule,
        overlong=cfg.reward.overlong,
        overlong_buffer=cfg.reward.overlong_buffer,
        most=cfg.sampler.max_response,
    )


def structured(cfg: config.Config) -> Structured:
    """ToolRL's reward, with its switches."""
    switches = dataclasses.asdict(cfg.toolrl)
    del switches["gold_thoughts"]
    text = tokenizer(cfg.model)
    return Structured(
        ToolRLReward(steps=cfg.run.steps, **switches),
        tuple(text.decode([token]) for token in text.eos_ids),
        live=cfg.protocol.calls > 0,
        thoughts=cfg.toolrl.gold_thoughts,
    )


def sampling_mesh(cfg: config.Sampler, shape: ModelConfig, devices: Iterable[Any]) -> Mesh:
    """Those of `devices` that sample on this host; UserError where they cannot split the work."""
    over = mesh.sampling(cfg.span, -1, cfg.fsdp, cfg.tp, devices)
    sharding.check(shape, over, "the sampling mesh")
    if cfg.slots % (ways := mesh.ways(over)):
        raise UserError(
            f"config.sampler.slots is {cfg.slots}; the sampling mesh splits them {ways} ways: "
            f"set a multiple of {ways}"
        )
    return over


def desk(cfg: config.Sampler) -> Callable[..., Desk]:
    """Where calls are handed in: by each host alone, or by all in lock-step."""
    if cfg.span == "host" or multihost.count() == 1:
        return Desk
    index, count = jax.process_index(), multihost.count()
    exchange = functools.partial(multihost.exchange, line=multihost.Line("desk"))
    return functools.partial(SharedDesk, index=index, count=count, exchange=exchange)


def engine(
    cfg: config.Config, model: Transformer, text: Tokenizer, stages: tuple[Stage, ...]
) -> Engine:
    """Slots for this model and tokenizer; rows pause where a stop of `stages` has ended."""
    shape = model.config
    shape.check_tokenizer(len(text), text.folder)
    end_V = np.zeros(shape.vocab_size, bool)
    end_V[list(text.eos_ids)] = True
    return Engine(
        model,
        slots=cfg.sampler.slots,
        capacity=cfg.sampler.longest,
        segment=cfg.sampler.segment,
        extend_rows=cfg.sampler.extend_rows,
        end_V=end_V,
        stop_SV=machine.table(text, stages, rows=shape.vocab_size),
        vocab=len(text),
        ladder=cfg.sampler.ladder,
        compact=cfg.sampler.compact,
    )


def rollout(
    cfg: config.Config,
    model: Transformer,
    env: Environment,
    on_segment: Callable[[Segment], object] = lambda segment: None,
) -> Rollout:
    """The sampler with its tokenizer and protocol; calls are carried out in `env`."""
    text, markup = tokenizer(cfg.model), protocol(cfg)
    return Rollout(
        engine(cfg, model, text, markup.finder(0).stages),
        text,
        markup,
        env,
        max_prompt=cfg.sampler.max_prompt,
        max_response=cfg.sampler.max_response,
        retries=cfg.sampler.retries,
        desk=desk(cfg.sampler),
        on_segment=on_segment,
    )


def transformer(cfg: config.Config, shape: ModelConfig, remat: str = "none") -> Transformer:
    """The policy's module; `remat` for training."""
    return Transformer(
        shape, dtype=DTYPES[cfg.model.dtype], remat=remat, attention=cfg.model.attention
    )


def check_paths(cfg: config.Model) -> None:
    """UserError for what is not there or damaged, before anything is loaded or written.

    A model or tokenizer may be a name on the hub: it is fetched here.
    """
    for key, path in (("path", cfg.path), ("tokenizer", cfg.tokenizer)):
        if path and not hub.is_name(path) and not Path(path).exists():
            raise UserError(f"config.model.{key}={path} does not exist; check the path")
    if cfg.path and not cfg.random:
        hf.check(hub.resolve(cfg.path))
