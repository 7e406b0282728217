"""Architectures by their published names, for plans that need shapes and no weights.

From each model's `config.json`; `tokens` is what its tokenizer spells, the rest of
`vocab_size` being padding.
"""

import dataclasses

from torl_jax.model.config import ModelConfig, RopeScaling


@dataclasses.dataclass(frozen=True)
class Published:
    """A model's architecture, and the number of ids that its tokenizer has."""

    config: ModelConfig
    tokens: int


def _qwen(tokens: int = 151_665, eos_ids: tuple[int, ...] = (151_643,), **sizes) -> Published:
    return Published(ModelConfig(eos_ids=eos_ids, head_dim=128, **sizes), tokens)


CHAT = (151_645, 151_643)  # where a turn of the instruct models ends


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
    "Qwen/Qwen2.5-1.5B": _qwen(
        vocab_size=151_936, d_model=1536, layers=28, heads=12, kv_heads=2, d_mlp=8960,
        tied=True, max_positions=131_072,
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(
        vocab_size=151_936, d_model=1536, layers=28, heads=12, kv_heads=2, d_mlp=8960,
        tied=True, max_positions=32_768, eos_ids=CHAT,
    ),
    "Qwen/Qwen2.5-3B-Instruct": _qwen(
        vocab_size=151_936, d_model=2048, layers=36, heads=16, kv_heads=2, d_mlp=11_008,
        tied=True, max_positions=32_768, eos_ids=CHAT,
    ),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(
        vocab_size=152_064, d_model=3584, layers=28, heads=28, kv_heads=4, d_mlp=18_944,
        max_positions=32_768, eos_ids=CHAT,
    ),
    "meta-llama/Llama-3.2-3B-Instruct": Published(
        ModelConfig(
            vocab_size=128_256, d_model=3072, layers=28, heads=24, kv_heads=8, head_dim=128,
            d_mlp=8192, rope_theta=500_000.0, norm_eps=1e-5, tied=True, qkv_bias=False,
            max_positions=131_072, eos_ids=(128_001, 128_008, 128_009),
            rope_scaling=RopeScaling(factor=32.0, low=1.0, high=4.0, original=8192),
        ),
        128_256,
    ),
    "Qwen/Qwen2.5-32B": _qwen(
        vocab_size=152_064, d_model=5120, layers=64, heads=40, kv_heads=8, d_mlp=27_648,
        norm_eps=1e-5, max_positions=131_072,
    ),
}  # fmt: skip
