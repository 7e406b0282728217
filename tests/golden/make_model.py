"""Makes model_KIND.npz: what transformers computes for a tiny Qwen2, Qwen3 and Llama.

  python -m tests.golden.make_model        (needs the parity extra: torch)

With them the default run, which has no torch, compares too. The shapes of `qwen3` and
`llama` are published config.json files (published/) with smaller sizes. Each file holds
the tiny model's config.json, its weights under their published names (float16, exactly), a
batch of tokens with its float32 logits, and the greedy continuation of its first row
by 64 tokens.

Regenerate them only when this script changes on purpose (another shape, another
field). They are torch's answers, not ours: a difference is a bug in ours.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
CONTINUATION = 64


def published(name: str) -> dict[str, Any]:
    """A config.json as it was published."""
    return json.loads((FOLDER / "published" / f"{name}.json").read_text())


SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "max_position_embeddings": 256,
    "use_sliding_window": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
SMALL = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
SMALL += ("num_key_value_heads", "head_dim", "intermediate_size")
SMALL += ("bos_token_id", "eos_token_id")
KINDS: dict[str, dict[str, Any]] = {
    "tied": {"model_type": "qwen2", **SHAPE, "tie_word_embeddings": True},
    "untied": {"model_type": "qwen2", **SHAPE, "tie_word_embeddings": False},
    "qwen3": published("qwen3-0.6b") | {key: SHAPE[key] for key in SMALL},
    "llama": published("llama-3.2-1b") | {key: SHAPE[key] for key in SMALL},
}


def build(kind: str, seed: int):
    """One of KINDS with random weights that float16 holds exactly."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    config = AutoConfig.for_model(**KINDS[kind], attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            around = 1.0 if "norm" in name else 0.0
            value = around + 0.3 * rng.normal(size=tuple(weight.shape))
            weight.copy_(torch.from_numpy(value.astype(np.float16).astype(np.float32)))
    return model


def logits(model, tokens: np.ndarray) -> np.ndarray:
    """float32 [B, T, V]."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(tokens), use_cache=False).logits.numpy()


def continuation(model, prompt: list[int], count: int = CONTINUATION) -> tuple[list[int], float]:
    """(the greedy tokens, the smallest margin by which one was chosen), without a cache."""
    tokens, margin = list(prompt), np.inf
    for _ in range(count):
        last = logits(model, np.asarray([tokens]))[0, -1]
        second, first = np.sort(last)[-2:]
        margin = min(margin, float(first - second))
        tokens.append(int(last.argmax()))
    return tokens[len(prompt) :], margin


def make(kind: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    for seed in range(100):
        model = build(kind, seed)
        tokens = np.random.default_rng(seed).integers(0, SHAPE["vocab_size"], (2, 24))
        chosen, margin = continuation(model, tokens[0].tolist())
        # A near tie or a continuation that soon repeats itself would prove little.
        if margin > 5e-3 and len(set(chosen)) > 12:
            break
    else:
        raise RuntimeError("no seed gives a continuation with clear margins")
    weights = {name: w.detach().numpy() for name, w in model.named_parameters()}
    return {
        "config": np.asarray(json.dumps(model.config.to_dict(), sort_keys=True, default=str)),
        "tokens": tokens,
        "logits": logits(model, tokens),
        "continuation": np.asarray(chosen),
        **{f"weight:{name}": w.astype(np.float16) for name, w in weights.items()},
    }


if __name__ == "__main__":
    for name in KINDS:
        np.savez_compressed(FOLDER / f"model_{name}.npz", **make(name))
        print(f"wrote {FOLDER / f'model_{name}.npz'}")
