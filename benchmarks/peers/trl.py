"""TRL on torch: the whole GRPO step of its trainer."""

import tempfile

import datasets
import tokenizers
import torch
import transformers
import trl

from benchmarks.peers import spec
from benchmarks.peers.hf_model import model
from benchmarks.peers.paced import Paced

MICRO = spec.MICRO  # sequences
ROUNDS = 64  # whose prompts are the data set
END, UNKNOWN = "end", "unknown"  # beyond the model's vocabulary: never sampled


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Its texts are numbers."""
    words = [*map(str, range(spec.VOCAB)), END, UNKNOWN]
    own = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNKNOWN)
    text = tokenizers.Tokenizer(own)
    text.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=text, eos_token=END, unk_token=UNKNOWN, pad_token="0",
        padding_side="left",
    )  # fmt: skip


def reward(completion_ids: list[list[int]], **_) -> list[float]:
    """As `spec.worth`."""
    return [spec.worth(tokens) for tokens in completion_ids]


class Pace(transformers.TrainerCallback):
    """Holds the trainer before each step."""

    def __init__(self, paced: Paced) -> None:
        self.paced = paced

    def on_step_begin(self, *_, **__) -> None:
        self.paced.pause()


class Grpo:
    """One call of its `train`, held where a step begins."""

    def __init__(self, folder: str) -> None:
        self.paced = Paced(lambda paced: self.train(folder, paced))

    def train(self, folder: str, paced: Paced) -> None:
        # For its thread: torch's number is each thread's own.
        torch.set_num_threads(spec.THREADS)
        sequences = spec.PROBLEMS * spec.GROUP
        how = trl.GRPOConfig(
            output_dir=folder, max_steps=10**6, learning_rate=spec.RATE,
            lr_scheduler_type="constant", per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=sequences // MICRO, num_generations=spec.GROUP,
            max_completion_length=spec.NEW, beta=0.0, bf16=False, use_cpu=True,
            gradient_checkpointing=False, shuffle_dataset=False, save_strategy="no",
            logging_strategy="no", report_to="none", disable_tqdm=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        prompts = [p for r in range(ROUNDS) for p in spec.prompts(r)[: spec.PROBLEMS]]
        self.trainer = trl.GRPOTrainer(
            model=model(), args=how, reward_funcs=reward, processing_class=tokenizer(),
            train_dataset=datasets.Dataset.from_dict({"prompt": list(map(spec.text, prompts))}),
            callbacks=[Pace(paced)],
        )  # fmt: skip
        self.trainer.train()

    def step(self, round_: int) -> int:
        """The next step; tokens that were sampled."""
        del round_
        before = self.trainer.state.global_step
        self.paced.step()
        assert self.trainer.state.global_step == before + 1
        return spec.PROBLEMS * spec.GROUP * spec.NEW


def main() -> None:
    torch.set_num_threads(spec.THREADS)
    settings = {
        "side": "TRL", "trl": trl.__version__, "transformers": transformers.__version__,
        "torch": torch.__version__, "dtype": "float32", "threads": torch.get_num_threads(),
        "step: microbatches": f"{spec.PROBLEMS * spec.GROUP // MICRO} of {MICRO} sequences",
        "step: rows": "padded to 64 + 256", "step: sampled with": "generate, no log-probs",
        "step: recomputed": "nothing (by default it does each layer)",
        "step: old log-probs": "those of the update itself",
        "step: loss": "clipped, mean over tokens (dapo); no KL",
        "step: optimiser": "adamw fused, gradients clipped to 1",
        "step: beside it": "entropies, its metrics",
        "step: timed": "between two of its callbacks on_step_begin",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        spec.serve(settings, {"step": lambda: Grpo(folder).step})


if __name__ == "__main__":
    main()
