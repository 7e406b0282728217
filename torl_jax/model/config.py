"""The shape of a decoder, read from and written to a Hugging Face `config.json`.

One dataclass describes every supported family by its differences (bias, tied
head, head dim, rope base); the decoder itself has no family names in it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    max_positions: int = 32768
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # JSON has no tuples; a list would make the config unhashable.
        object.__setattr__(self, "eos_ids", tuple(self.eos_ids))
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
        """From the contents of a published `config.json` (Qwen2 family)."""
        if not isinstance(raw, Mapping):
            raise UserError(f"config.json holds {type(raw).__name__}; expected an object")
        if raw.get("model_type") != "qwen2":
            raise UserError(
                f"config.json says model_type={raw.get('model_type')!r}; supported: 'qwen2'"
            )
        if raw.get("use_sliding_window"):
            raise UserError("config.json asks for sliding-window attention; set it to false")
        if raw.get("rope_scaling"):
            raise UserError(f"config.json has rope_scaling={raw['rope_scaling']}; expected null")
        if raw.get("hidden_act", "silu") != "silu":
            raise UserError(f"config.json has hidden_act={raw['hidden_act']!r}; expected 'silu'")
        # transformers 5 nests the base frequency, earlier releases keep it at the top.
        rope = raw.get("rope_parameters") or {}
        if rope.get("rope_type", "default") != "default":
            raise UserError(f"config.json has rope_type={rope['rope_type']!r}; expected 'default'")
        eos = raw.get("eos_token_id")
        try:
            sizes: dict[str, Any] = {name: _whole(raw, key) for name, key in PUBLISHED.items()}
            return cls(
                **sizes,
                head_dim=_head_dim(raw, sizes["d_model"], sizes["heads"]),
                rope_theta=_real(rope if "rope_theta" in rope else raw, "rope_theta", 10_000.0),
                norm_eps=_real(raw, "rms_norm_eps", 1e-6),
                tied=bool(raw.get("tie_word_embeddings", False)),
                max_positions=raw.get("max_position_embeddings", 32768),
                eos_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            )
        except KeyError as error:
            raise UserError(f"config.json lacks the key {error}") from None

    def to_hf(self) -> dict[str, Any]:
        """A `config.json` that transformers (4 and 5) and `from_hf` read alike."""
        eos = list(self.eos_ids)
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": self.vocab_size,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.d_mlp,
            "hidden_act": "silu",
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_positions,
            "eos_token_id": eos if len(eos) > 1 else eos[0] if eos else None,
            "use_sliding_window": False,
            "attention_dropout": 0.0,
            "torch_dtype": "float32",
        }

    @property
    def parameter_count(self) -> int:
        """Number of parameters, all of them trained."""
        attention = self.d_model * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        bias = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        block = attention + bias + 3 * self.d_model * self.d_mlp + 2 * self.d_model
        embeddings = self.vocab_size * self.d_model * (1 if self.tied else 2)
        return self.layers * block + embeddings + self.d_model


def _whole(raw: Mapping[str, Any], key: str) -> int:
    value = raw[key]
    if type(value) is not int or value < 1:
        raise UserError(f"config.json has {key}={value!r}; expected a whole number above 0")
    return value


def _real(raw: Mapping[str, Any], key: str, default: float) -> float:
    value = raw.get(key, default)
    if type(value) not in (int, float) or value <= 0:
        raise UserError(f"config.json has {key}={value!r}; expected a number above 0")
    return float(value)


def _head_dim(raw: Mapping[str, Any], d_model: int, heads: int) -> int:
    if raw.get("head_dim") is not None:
        return _whole(raw, "head_dim")
    if d_model % heads:
        raise UserError(
            f"config.json has hidden_size={d_model} and num_attention_heads={heads}, which does "
            "not divide it, and no head_dim"
        )
    return d_model // heads
