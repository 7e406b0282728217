"""Architectures by their published names, for plans that need shapes and no weights.

From each model's `config.json`; `tokens` is what its tokenizer spells, the rest of
`vocab_size` being padding.
"""

import dataclasses

from torl_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Published:
    """A model's architecture, and the number of ids that its tokenizer has."""

    config: ModelConfig
    tokens: int


def _qwen(tokens: int = 151_665, **sizes) -> Published:
    return Published(ModelConfig(eos_ids=(151_643,), head_dim=128, **sizes), tokens)


PUBLISHED = {
    "Qwen/Qwen2.5-Math-1.5B": _qwen(
        vocab_size=151_936, d_model=1536, layers=28, heads=12, kv_heads=2, d_mlp=8960,
        rope_theta=10_000.0, tied=True, max_positions=4096,
    ),
    "Qwen/Qwen2.5-Math-7B": _qwen(
        vocab_size=152_064, d_model=3584, layers=28, heads=28, kv_heads=4, d_mlp=18_944,
        rope_theta=10_000.0, max_positions=4096,
    ),
    "Qwen/Qwen2.5-7B": _qwen(
        vocab_size=152_064, d_model=3584, layers=28, heads=28, kv_heads=4, d_mlp=18_944,
        max_positions=131_072,
    ),
    "Qwen/Qwen2.5-32B": _qwen(
        vocab_size=152_064, d_model=5120, layers=64, heads=40, kv_heads=8, d_mlp=27_648,
        norm_eps=1e-5, max_positions=131_072,
    ),
}  # fmt: skip
