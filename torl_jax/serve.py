"""Serves a trained policy as an OpenAI-compatible endpoint.

  python -m torl_jax.serve --checkpoint=runs/quickstart --port=8000

  client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
  client.chat.completions.create(
      model="runs/quickstart",
      messages=[{"role": "user", "content": "What is 347*28+91?"}],
      extra_body={"execute_tools": True},
  )

`--checkpoint` is a working directory, one of its checkpoints, or a Hugging Face folder; for
a folder that carries no recipe, `--config` names one. Tools are carried out only for
requests that say so: programs in the sandbox, at the level that the recipe asks for, or
for a ToolRL policy the tools of `--tools`. A token that callers must show comes from the
environment variable TORL_SERVE_TOKEN. docs/serve.md has the fields.
"""

import contextlib
import dataclasses
import logging
import signal
import sys
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from sandbox import LEVELS
from torl_jax import cli, compilation, config, parts, workshop
from torl_jax.errors import UserError
from torl_jax.exam import placed
from torl_jax.model.config import ModelConfig
from torl_jax.policy import Policy, load
from torl_jax.protocols.base import Protocol
from torl_jax.protocols.chat import ChatTemplate
from torl_jax.protocols.dialogue import Tool
from torl_jax.protocols.text import Stage, Tokenizer
from torl_jax.sampler.engine import Engine
from torl_jax.sampler.sampling import Settings
from torl_jax.serving import dialogue, fields
from torl_jax.serving.batch import Batch, Live

OFF = "off"
ANSWER = 16  # tokens of the shortest answer that a context is to hold, as many as OpenAI's default
CALLS = 8  # blocks that a ToolRL policy may have carried out, where its recipe has none
LEAVE = ", or leave --tools away, which are listed in it"
TOOLS_HINT = "; --sandbox_level allows less isolation by name, and off serves without programs"


@dataclasses.dataclass(frozen=True)
class Hands:
    """What carries out calls (None: nothing does), its tools, and the sandbox's level."""

    live: Live | None
    tools: tuple[Tool, ...] = ()
    level: str = OFF


def adapted(cfg: config.Config, shape: ModelConfig, values: Any) -> config.Config:
    """The recipe for serving: slots for callers instead of groups, one context for all."""
    sampler = cfg.sampler
    context = values.context or min(sampler.longest, shape.max_positions)
    shape.check_positions(context, "--context", f"give at most {shape.max_positions}")
    if context <= ANSWER:
        raise UserError(
            f"--context is {context} tokens, expected at least a prompt and {ANSWER} of its answer"
        )
    ways = max(jax.device_count() // sampler.tp, 1)
    sampler = dataclasses.replace(
        sampler,
        slots=-(-values.slots // ways) * ways,
        segment=values.segment,
        extend_rows=1,  # prompts come one by one, and rows that nobody fills cost as much
        max_prompt=1,  # only the sum counts here
        max_response=context - 1,
        span="host",
        deadline=0.0,
    )
    calls, level = values.calls, values.sandbox_level
    if calls is None:
        # A policy of single steps gets calls, for tools that are carried out.
        calls = cfg.protocol.calls or (CALLS if cfg.protocol.markup == "toolrl" else 0)
    return dataclasses.replace(
        cfg,
        sampler=sampler,
        protocol=dataclasses.replace(cfg.protocol, calls=calls),
        sandbox=dataclasses.replace(
            cfg.sandbox, min_level=level if level in LEVELS else cfg.sandbox.min_level, lost=0.0
        ),
        tools=dataclasses.replace(cfg.tools, files=tuple(values.tools) or cfg.tools.files),
        # Nothing is learnt here, but a recipe must agree with itself.
        learner=dataclasses.replace(cfg.learner, row_tokens=max(cfg.learner.row_tokens, context)),
        reward=dataclasses.replace(
            cfg.reward, overlong_buffer=min(cfg.reward.overlong_buffer, context - 1)
        ),
    )


def hands(cfg: config.Config, markup: Protocol, off: bool, stack: contextlib.ExitStack) -> Hands:
    """Opens the sandbox or the tools."""
    if cfg.protocol.markup != "toolrl":
        if cfg.tools.files:
            raise UserError(
                f"--tools={cfg.tools.files[0]}: this policy's only tool is Python "
                f"(config.protocol.markup={cfg.protocol.markup}); a ToolRL policy has others"
            )
        if off or not cfg.protocol.calls:
            return Hands(None)
        try:
            shop = stack.enter_context(contextlib.closing(workshop.open(cfg)))
        except UserError as error:
            raise UserError(f"{error}{TOOLS_HINT}") from error
        return Hands(Live(markup, shop.env), level=shop.level or "unknown")
    if not (cfg.tools.files and cfg.protocol.calls):
        return Hands(None)
    shop = stack.enter_context(contextlib.closing(workshop.toolshop(cfg.tools)))
    return Hands(Live(markup, shop.env), shop.tools)


def dialect_of(
    cfg: config.Config, markup: Protocol, text: Tokenizer, tools: tuple[Tool, ...], plain: bool
) -> dialogue.Dialect:
    """How this policy converses; `plain`: by its chat template, whatever the recipe says."""
    if plain:
        return dialogue.template(ChatTemplate.of(text.folder))
    if cfg.protocol.markup != "toolrl":
        return dialogue.torl(markup)
    return dialogue.toolrl(ChatTemplate.of(text.folder), tools)


def room(
    dialect: dialogue.Dialect, text: Tokenizer, context: int, positions: int, *, tools: bool
) -> None:
    """UserError where a context does not hold the prompt of a short question and an answer.

    positions: the model's. tools: whether the server's own are shown in the prompt.
    """
    question = [{"role": "user", "content": "?"}]
    body = {"model": "this", "messages": question, "execute_tools": tools}
    try:
        (prompt,) = text.lengths([dialect(fields.chat(body)).prompt])
    except fields.Refused:
        return  # a template that asks for more than a question: callers are told what
    if (least := prompt + ANSWER) > context:
        more = f"give --context={least} or more"
        if least > positions:
            more = f"take a model with more than {positions} positions"
        raise UserError(
            f"--context is {context} tokens, expected at least {least}: a short prompt has "
            f"{prompt}, and {ANSWER} are for its answer; {more}{LEAVE if tools else ''}"
        )


def loaded(
    cfg: config.Config, policy: Policy, text: Tokenizer, stages: tuple[Stage, ...]
) -> Engine:
    """The engine with the weights on this host's devices, its programs compiled."""
    over = parts.sampling_mesh(cfg.sampler, policy.shape, jax.devices())
    model = parts.transformer(cfg, policy.shape).clone(mesh=over)
    engine = parts.engine(cfg, model, text, stages)
    params = placed(policy.params, parts.DTYPES[cfg.model.dtype], over)
    engine.load(params, jax.random.key(0), Settings.of())
    engine.warm_up()
    return engine


def main(argv: list[str]) -> None:
    """The entry point."""
    values = flags.FLAGS
    if argv:
        raise UserError(f"unexpected argument {argv[0]!r}; flags begin with --, see --help")
    if not values.checkpoint:
        raise UserError("give --checkpoint=WORKDIR (or a model folder); see --help")
    try:
        from torl_jax.serving import app, server
    except ImportError as error:
        raise UserError(
            f"serve needs {error.name}, which is not installed: pip install 'torl_jax[serve]'"
        ) from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until it serves
    logging.basicConfig(format="%(levelname)s: %(message)s")
    # It warns of each write to a caller who has hung up, which is no news.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        # Taken before the weights are read: that the port is not free is known at once.
        address = stack.enter_context(server.Address.of(values.host, values.port))
        compilation.keep()
        policy = load(values.checkpoint, cli.chosen_config())
        if policy.note:
            print(f"serve: {policy.note}", file=sys.stderr)
        cfg = adapted(policy.cfg, policy.shape, values)
        text = parts.tokenizer(cfg.model)
        markup = parts.protocol(cfg)
        found = hands(cfg, markup, values.sandbox_level == OFF, stack)
        dialect = dialect_of(cfg, markup, text, found.tools, values.chat == "template")
        capacity = cfg.sampler.longest
        room(dialect, text, capacity, policy.shape.max_positions, tools=bool(found.tools))
        engine = loaded(cfg, policy, text, markup.finder(0).stages)
        served = app.Served(
            name=values.name or values.checkpoint,
            context=engine.capacity,
            markup=cfg.protocol.markup,
            tokenizer=text,
            dialect=dialect,
            level=found.level,
            executes=found.live is not None,
            tools=tuple(tool.name for tool in found.tools),
        )

        def make(on_death):
            return Batch(engine, text, found.live, queue=values.queue, on_death=on_death)

        code = server.serve(served, make, address)
    sys.exit(code)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Working directory, checkpoint, or model folder.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; others need a token.")
    flags.DEFINE_integer("port", 8000, "0 takes a free one.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_string("name", "", "The model's name for callers; default: --checkpoint.")
    flags.DEFINE_integer("slots", 16, "Answers sampled at a time.", lower_bound=1)
    flags.DEFINE_integer("queue", 256, "Requests that may wait; more are told 429.", lower_bound=1)
    flags.DEFINE_integer("context", 0, "Tokens of prompt and answer; 0: the recipe's.", 0)
    flags.DEFINE_integer("segment", 8, "Tokens between two looks at requests.", lower_bound=1)
    flags.DEFINE_integer("calls", None, "Tool calls an answer; default: the recipe's.", 0)
    flags.DEFINE_enum("chat", "recipe", ["recipe", "template"], "What makes a prompt of messages.")
    flags.DEFINE_multi_string("tools", [], "Tools that a ToolRL policy may have carried out.")
    flags.DEFINE_enum(
        "sandbox_level",
        "",
        ["", *LEVELS, OFF],
        "Least isolation of programs; default: the recipe's.",
    )
    config_flags.DEFINE_config_file("config", None, "Recipe for a folder that carries none.")
    cli.run(main, __doc__ or "")
