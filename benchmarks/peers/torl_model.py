"""Our model of the shape of `spec`, and a tokenizer whose texts are numbers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.peers import spec
from torl_jax.model.config import ModelConfig

SHAPE = ModelConfig(
    vocab_size=spec.VOCAB, d_model=spec.WIDTH, layers=spec.LAYERS, heads=spec.HEADS,
    kv_heads=spec.KV_HEADS, head_dim=spec.HEAD_DIM, d_mlp=spec.MLP, tied=True,
    rope_theta=spec.THETA, norm_eps=spec.EPS,
)  # fmt: skip


class Ids:
    """What a rollout asks of a tokenizer; no token ends a text."""

    eos_ids: tuple[int, ...] = ()
    folder = Path()

    def __len__(self) -> int:
        return spec.VOCAB

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The numbers of `text`."""
        del special
        return [int(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        """As `spec.text`."""
        return spec.text(tokens)

    def pieces(self, tokens: Iterable[int]) -> list[bytes]:
        """Each number's bytes, and the space behind it."""
        return [f"{token} ".encode() for token in tokens]
