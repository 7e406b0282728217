"""transformers on torch: `generate`, and a plain training loop."""

import functools

import torch
import transformers

from benchmarks.peers import spec
from benchmarks.peers.hf_model import model
from benchmarks.peers.hf_tools import SETTINGS, Tools


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
    decoding, tools = functools.cache(Decoding), functools.cache(Tools)
    settings = {
        "side": "transformers", "transformers": transformers.__version__,
        "torch": torch.__version__, "dtype": "float32", "threads": torch.get_num_threads(),
        "batch": spec.BATCH, "cache": "grows", "log-probs": "no", "train": "its own loss",
        **SETTINGS,
    }  # fmt: skip
    tasks = {
        "sample": lambda: decoding().sample, "greedy": lambda: decoding().greedy,
        "train": lambda: Training().step, "tools": lambda: tools().even,
        "uneven": lambda: tools().uneven,
    }  # fmt: skip
    spec.serve(settings, tasks)


if __name__ == "__main__":
    main()
