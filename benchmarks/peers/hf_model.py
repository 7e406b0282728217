"""transformers' model of the shape of `spec`."""

import torch
import transformers

from benchmarks.peers import spec


def model() -> transformers.Qwen2ForCausalLM:
    torch.manual_seed(0)
    shape = transformers.Qwen2Config(
        vocab_size=spec.VOCAB, hidden_size=spec.WIDTH, intermediate_size=spec.MLP,
        num_hidden_layers=spec.LAYERS, num_attention_heads=spec.HEADS,
        num_key_value_heads=spec.KV_HEADS, rope_theta=spec.THETA, rms_norm_eps=spec.EPS,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.Qwen2ForCausalLM(shape).float()
