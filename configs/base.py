"""Every key with its default: the base of all recipes."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from torl_jax import config
from torl_jax.errors import UserError


def get_config() -> Any:
    """A locked ConfigDict with the defaults of `torl_jax.config.Config`.

    Its attributes are dynamic, hence Any: `config.parse` is what checks their types.
    """
    return ml_collections.ConfigDict(config.to_dict(config.Config())).lock()


def apply(config: Any, argument: str, known: Mapping[str, Callable[[Any], None]]) -> None:
    """Changes `config` by each of the names in `argument`, separated by commas.

    In the order of `known`, whatever that of `argument`: sizes come last. UserError where a name
    is unknown, or two of them choose different estimators.
    """
    names = [*filter(None, argument.split(","))]
    for name in names:
        if name not in known:
            raise UserError(f"unknown argument {name!r}; known: {', '.join(known)}")
    chosen: dict[str, str] = {}  # estimator -> who chose it
    for name, change in known.items():
        if name in names:
            before = config.rl.estimator
            change(config)
            if config.rl.estimator != before:
                chosen[config.rl.estimator] = name
    if len(chosen) > 1:
        both = ", ".join(f"{name} ({estimator})" for estimator, name in chosen.items())
        raise UserError(f"{argument!r} chooses several estimators, {both}: give one of them")
