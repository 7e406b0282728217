"""The shape of a decoder, read from and written to a Hugging Face `config.json`.

One dataclass describes every supported family (Qwen2 and Qwen2.5, Qwen3 dense,
Llama 3) by its differences: bias, norms of queries and keys, tied head, head dim,
rotary base and its stretching. The decoder itself has no family names in it.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from torl_jax.errors import UserError

SIZES = ("vocab_size", "d_model", "layers", "heads", "kv_heads", "head_dim", "d_mlp")
# Our name of each size -> the published one.
PUBLISHED = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "d_mlp": "intermediate_size",
}
POSITIONS = "max_position_embeddings"


class Family(NamedTuple):
    """What a published model type implies; `architecture` is its class in transformers."""

    architecture: str
    qkv_bias: bool
    qk_norm: bool


FAMILIES = {
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, qk_norm=False),
    "qwen3": Family("Qwen3ForCausalLM", qkv_bias=False, qk_norm=True),
    "llama": Family("LlamaForCausalLM", qkv_bias=False, qk_norm=False),
}
# What some models of these families have and the decoder has not: the values it can run.
ONLY = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False, None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of slow rotations to a longer context (Meta 2024).

    Rotations with fewer than `low` turns in `original` positions are slowed down by
    `factor`, those with more than `high` are kept, between them it is interpolated.
    """

    factor: float
    low: float
    high: float
    original: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """V vocab_size, D d_model, L layers, N heads, K kv_heads, H head_dim, F d_mlp."""

    vocab_size: int
    d_model: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    d_mlp: int
    rope_theta: float = 1_000_000.0
    norm_eps: float = 1e-6
    tied: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False  # RMS norm over H of each query and key head
    rope_scaling: RopeScaling | None = None
    max_positions: int = 32768
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # JSON has no tuples; a list would make the config unhashable.
        object.__setattr__(self, "eos_ids", tuple(self.eos_ids))
        if isinstance(self.rope_scaling, Mapping):
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        for name in SIZES:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UserError(f"the model's {name} is {value!r}; expected a whole number above 0")
        if self.heads % self.kv_heads:
            raise UserError(
                f"the model has {self.heads} query heads and {self.kv_heads} kv heads; "
                "the first must be a multiple of the second"
            )
        if self.head_dim % 2:
            raise UserError(f"head_dim is {self.head_dim}; rotary embeddings need an even number")

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """From the contents of a published `config.json` of one of FAMILIES."""
        if not isinstance(raw, Mapping):
            raise UserError(f"config.json holds {type(raw).__name__}; expected an object")
        kind = raw.get("model_type")
        family = FAMILIES.get(kind) if isinstance(kind, str) else None
        if family is None:
            raise UserError(
                f"config.json says model_type={kind!r}; supported: {', '.join(FAMILIES)}"
            )
        _refuse_unsupported(raw)
        try:
            rope = _rope(raw)
            sizes: dict[str, Any] = {name: _whole(raw, key) for name, key in PUBLISHED.items()}
            return cls(
                **sizes,
                head_dim=_head_dim(raw, sizes["d_model"], sizes["heads"]),
                rope_theta=_real(rope, "rope_theta", 10_000.0),
                rope_scaling=_scaling(rope),
                norm_eps=_real(raw, "rms_norm_eps", 1e-6),
                tied=_tied(raw),
                qkv_bias=family.qkv_bias,
                qk_norm=family.qk_norm,
                max_positions=_whole({POSITIONS: 32768, **raw}, POSITIONS),
                eos_ids=_eos_ids(raw, sizes["vocab_size"]),
            )
        except KeyError as error:
            raise UserError(f"config.json lacks the key {error}") from None

    def check_tokenizer(self, ids: int, folder: str | os.PathLike[str]) -> None:
        """UserError where a tokenizer of `ids` ids, of `folder`, belongs to another model.

        A model may have more rows than ids (they spell nothing), never fewer; and the ids
        that end its texts must be among them.
        """
        if ids > self.vocab_size:
            raise UserError(
                f"{folder}: the tokenizer has {ids} ids, the model's vocabulary "
                f"{self.vocab_size} rows; give the tokenizer that belongs to the model"
            )
        if any(token >= ids for token in self.eos_ids):
            raise UserError(
                f"{folder}: the tokenizer has {ids} ids, the model ends its texts with id "
                f"{max(self.eos_ids)}; give the tokenizer that belongs to the model"
            )

    def check_positions(
        self,
        tokens: int,
        what: str = "config.sampler.max_prompt + max_response",
        mend: str = "lower them, or take a model with more",
    ) -> None:
        """UserError where a sequence of `tokens` tokens is longer than any that the model was made
        for. `what` names the sequence, `mend` what to change.
        """
        if tokens > self.max_positions:
            raise UserError(
                f"{what}: {tokens} tokens, but the model has {self.max_positions} positions "
                f"({POSITIONS} in its config.json): {mend}"
            )

    def to_hf(self) -> dict[str, Any]:
        """A `config.json` that transformers (4 and 5) and `from_hf` read alike."""
        eos = list(self.eos_ids)
        name, family = self._family()
        return {
            "architectures": [family.architecture],
            "model_type": name,
            "vocab_size": self.vocab_size,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.d_mlp,
            "hidden_act": "silu",
            "rope_theta": self.rope_theta,
            "rope_scaling": _published_scaling(self.rope_scaling),
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tied,
            POSITIONS: self.max_positions,
            "eos_token_id": eos if len(eos) > 1 else eos[0] if eos else None,
            "use_sliding_window": False,
            "attention_bias": False,  # of Llama and Qwen3; Qwen2 has its own fixed one
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "torch_dtype": "float32",
        }

    def _family(self) -> tuple[str, Family]:
        """The model type that it is published as."""
        for name, family in FAMILIES.items():
            if (family.qkv_bias, family.qk_norm) == (self.qkv_bias, self.qk_norm):
                return name, family
        raise UserError(
            f"no published model type has qkv_bias={self.qkv_bias} and qk_norm={self.qk_norm}"
        )

    @property
    def parameter_count(self) -> int:
        """Number of parameters, all of them trained."""
        attention = self.d_model * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        bias = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        norms = 2 * self.head_dim if self.qk_norm else 0
        block = attention + bias + norms + 3 * self.d_model * self.d_mlp + 2 * self.d_model
        embeddings = self.vocab_size * self.d_model * (1 if self.tied else 2)
        return self.layers * block + embeddings + self.d_model


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    for key, values in ONLY.items():
        if raw.get(key, values[0]) not in values:
            raise UserError(f"config.json has {key}={raw[key]!r}; supported: {values[0]!r}")
    layers = raw.get("layer_types") or ()
    if not isinstance(layers, list | tuple):
        raise UserError(f"config.json has layer_types={layers!r}; expected a list")
    sliding = [kind for kind in layers if kind != "full_attention"]
    if sliding:
        raise UserError(f"config.json has layers of {sliding[0]!r}; supported: 'full_attention'")


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Base and scaling together, as transformers 5 nests them; earlier releases do not."""
    rope: dict[str, Any] = {"rope_theta": raw["rope_theta"]} if "rope_theta" in raw else {}
    for key in ("rope_scaling", "rope_parameters"):
        nested = raw.get(key) or {}
        if not isinstance(nested, Mapping):
            raise UserError(f"config.json has {key}={nested!r}; expected an object or null")
        rope |= nested
    return {"rope_type": rope.pop("type", "default"), **rope}


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    if rope["rope_type"] == "default":
        return None
    if rope["rope_type"] != "llama3":
        raise UserError(
            f"config.json has rope_type={rope['rope_type']!r}; supported: 'default', 'llama3'"
        )
    return RopeScaling(
        factor=_real(rope, "factor"),
        low=_real(rope, "low_freq_factor"),
        high=_real(rope, "high_freq_factor"),
        original=_whole(rope, "original_max_position_embeddings"),
    )


def _published_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high,
        "original_max_position_embeddings": scaling.original,
    }


def _whole(raw: Mapping[str, Any], key: str) -> int:
    value = raw[key]
    if type(value) is not int or value < 1:
        raise UserError(f"config.json has {key}={value!r}; expected a whole number above 0")
    return value


def _real(raw: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = raw[key] if default is None else raw.get(key, default)
    # Python's JSON knows NaN, Infinity, and whole numbers too large for a float.
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise UserError(f"config.json has {key}={value!r}; expected a number above 0")
    return float(value)


def _tied(raw: Mapping[str, Any]) -> bool:
    value = raw.get("tie_word_embeddings", False)
    if not isinstance(value, bool):
        raise UserError(f"config.json has tie_word_embeddings={value!r}; expected true or false")
    return value


def _eos_ids(raw: Mapping[str, Any], vocab: int) -> tuple[int, ...]:
    found = raw.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(token) is int and 0 <= token < vocab for token in ids):
        raise UserError(
            f"config.json has eos_token_id={found!r}; expected ids below vocab_size={vocab}"
        )
    return tuple(ids)


def _head_dim(raw: Mapping[str, Any], d_model: int, heads: int) -> int:
    if raw.get("head_dim") is not None:
        return _whole(raw, "head_dim")
    if d_model % heads:
        raise UserError(
            f"config.json has hidden_size={d_model} and num_attention_heads={heads}, which does "
            "not divide it, and no head_dim"
        )
    return d_model // heads
