"""Every key with its default: the base of all recipes."""

import ml_collections

from torl_jax import config


def get_config() -> ml_collections.ConfigDict:
    """The defaults of `torl_jax.config.Config`, locked."""
    return ml_collections.ConfigDict(config.to_dict(config.Config())).lock()
