"""transformers on torch: `generate`, and a plain training loop."""

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


class Decoding:
    """Without log-probs: asked for scores, it would keep the logits of every step."""

    def __init__(self) -> None:
        self.model = model().eval()

    @torch.inference_mode()
    def run(self, round_: int, **how) -> int:
        tokens = torch.tensor(spec.prompts(round_))
        found = self.model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=spec.NEW,
            pad_token_id=0, **how,
        )  # fmt: skip
        return found[:, spec.PROMPT :].numel()

    def sample(self, round_: int) -> int:
        torch.manual_seed(round_)
        return self.run(round_, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)

    def greedy(self, round_: int) -> int:
        return self.run(round_, do_sample=False)


class Training:
    """Its own loss, AdamW fused."""

    def __init__(self) -> None:
        self.model = model().train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=spec.RATE, fused=True)

    def step(self, round_: int) -> int:
        tokens = torch.tensor(spec.texts(round_))
        self.optimizer.zero_grad(set_to_none=True)
        self.model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        self.optimizer.step()
        return tokens.numel()


def main() -> None:
    torch.set_num_threads(spec.THREADS)
    decoding, training = Decoding(), Training()
    settings = {
        "side": "transformers", "transformers": transformers.__version__,
        "torch": torch.__version__, "dtype": "float32", "threads": torch.get_num_threads(),
        "batch": spec.BATCH, "cache": "grows", "log-probs": "no", "train": "its own loss",
    }  # fmt: skip
    tasks = {"sample": decoding.sample, "greedy": decoding.greedy, "train": training.step}
    spec.serve(settings, tasks)


if __name__ == "__main__":
    main()
