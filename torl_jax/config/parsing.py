"""From a ConfigDict to frozen dataclasses: strict, with the legal names in every error."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from torl_jax.config.sections import Config
from torl_jax.errors import UserError


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
