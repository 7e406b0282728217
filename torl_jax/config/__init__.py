"""Typed configuration, checked once at the door.

`configs/*.py` are `ml_collections` programs; `parse` turns their ConfigDict into
frozen dataclasses. An unknown key, a wrong type or an impossible value is a UserError
that names the legal keys; below this door nothing calls `.get`.
"""

from torl_jax.config.bounds import NOT_NEGATIVE, POSITIVE
from torl_jax.config.parsing import parse, to_dict, unknown_key
from torl_jax.config.sections import (
    Checkpoint,
    Config,
    Critic,
    Data,
    Eval,
    Filters,
    Learner,
    Mesh,
    Model,
    Optimizer,
    Pipeline,
    Protocol,
    Reward,
    Rl,
    Run,
    Sampler,
    SandboxConfig,
    Sft,
    ToolRl,
    Tools,
)

__all__ = [
    "NOT_NEGATIVE",
    "POSITIVE",
    "Checkpoint",
    "Config",
    "Critic",
    "Data",
    "Eval",
    "Filters",
    "Learner",
    "Mesh",
    "Model",
    "Optimizer",
    "Pipeline",
    "Protocol",
    "Reward",
    "Rl",
    "Run",
    "Sampler",
    "SandboxConfig",
    "Sft",
    "ToolRl",
    "Tools",
    "parse",
    "to_dict",
    "unknown_key",
]
