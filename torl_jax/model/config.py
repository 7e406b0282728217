"""The shape of a decoder, read from and written to a Hugging Face `config.json`.

One dataclass describes every supported family by its differences (bias, tied
head, head dim, rope base); the decoder itself has no family names in it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torl_jax.errors import UserError


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
            return cls(
                vocab_size=raw["vocab_size"],
                d_model=raw["hidden_size"],
                layers=raw["num_hidden_layers"],
                heads=raw["num_attention_heads"],
                kv_heads=raw["num_key_value_heads"],
                head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
                d_mlp=raw["intermediate_size"],
                rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10_000.0))),
                norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
                tied=bool(raw.get("tie_word_embeddings", False)),
                max_positions=raw.get("max_position_embeddings", 32768),
                eos_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            )
        except KeyError as error:
            raise UserError(f"config.json lacks the key {error}") from None

    def to_hf(self) -> dict[str, Any]:
        """A `config.json` that transformers (4 and 5) and `from_hf` read alike."""
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
            "eos_token_id": self.eos_ids[0] if len(self.eos_ids) == 1 else list(self.eos_ids),
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
