"""Tunix's model of the shape of `spec`, and a tokenizer whose texts are numbers."""

from flax import nnx
from tunix.models.qwen2 import model as qwen2

from benchmarks.peers import spec

NEVER = spec.VOCAB + 1  # no token: generation goes on to the last step


class Ids:
    """A tokenizer whose texts are numbers."""

    def encode(self, text: str, **_) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids, **_) -> str:
        return spec.text(ids)

    def bos_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return NEVER

    def pad_id(self) -> int:
        return 0


def model() -> qwen2.Qwen2:
    shape = qwen2.ModelConfig(
        num_layers=spec.LAYERS, vocab_size=spec.VOCAB, embed_dim=spec.WIDTH,
        hidden_dim=spec.MLP, num_heads=spec.HEADS, head_dim=spec.HEAD_DIM,
        num_kv_heads=spec.KV_HEADS, rope_theta=int(spec.THETA), norm_eps=spec.EPS,
        use_tied_embedding=True,
    )  # fmt: skip
    return qwen2.Qwen2(shape, rngs=nnx.Rngs(0))
