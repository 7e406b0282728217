"""Every key with its default: the base of all recipes."""

from typing import Any

import ml_collections

from torl_jax import config


def get_config() -> Any:
    """A locked ConfigDict with the defaults of `torl_jax.config.Config`.

    Its attributes are dynamic, hence Any: `config.parse` is what checks their types.
    """
    return ml_collections.ConfigDict(config.to_dict(config.Config())).lock()
