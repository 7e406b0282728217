"""transformers with tool calls as TRL has them: `generate` once a turn, over all that is written.

A batch's rows wait for the longest turn; then the tools' answers are written behind each row's own
text, and all of it is read again.
"""

import torch
import transformers

from benchmarks.peers import spec
from benchmarks.peers.hf_model import model

SETTINGS = {
    "tools: samples": spec.BATCH,
    "tools: path": "generate, once a turn",
    "tools: turns": "one batch, all of each text read again",
    "tools: cache": "grows, begins anew with each turn",
    "tools: log-probs": "no",
}


class Ends(transformers.StoppingCriteria):
    """A row is done with its turn after so many tokens."""

    def __init__(self, start: int, turn: list[int]) -> None:
        self.end = torch.tensor(turn) + start

    def __call__(self, input_ids, scores, **_) -> torch.Tensor:
        return input_ids.shape[1] >= self.end


class Tools:
    """BATCH samples with CALLS calls each."""

    def __init__(self) -> None:
        self.model = model().eval()

    def even(self, round_: int) -> int:
        """All call at the same places."""
        return self.run(round_, uneven=False)

    def uneven(self, round_: int) -> int:
        """Each at places of its own."""
        return self.run(round_, uneven=True)

    @torch.inference_mode()
    def run(self, round_: int, uneven: bool) -> int:
        """Whole episodes; how many tokens were sampled."""
        torch.manual_seed(round_)
        self.rows = spec.prompts(round_)
        turns, count = spec.turns(round_, uneven), 0
        for n in range(spec.CALLS + 1):
            turn = [turns[i][n] for i in range(spec.BATCH)]
            for i, written in enumerate(self.turn(turn)):
                self.rows[i] += written
                count += len(written)
                if n < spec.CALLS:
                    self.rows[i] += spec.answer(round_, i, n)
        return count

    def turn(self, turn: list[int]) -> list[list[int]]:
        """What each row writes next: so many tokens."""
        widest = max(map(len, self.rows))
        tokens = torch.tensor([[0] * (widest - len(row)) + row for row in self.rows])
        mask = torch.tensor(
            [[0] * (widest - len(row)) + [1] * len(row) for row in self.rows]
        )  # fmt: skip
        found = self.model.generate(
            tokens, attention_mask=mask, max_new_tokens=max(turn), pad_token_id=0,
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            stopping_criteria=[Ends(widest, turn)],
        )  # fmt: skip
        return [row[:count].tolist() for row, count in zip(found[:, widest:], turn, strict=True)]
