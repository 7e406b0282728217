"""What log-probs in chunks cost in time, beside all logits at once.

    python -m benchmarks.chunks --out docs/benchmarks.md

The model and the rows of `peers/spec.py`. Both ways in one process, turn by turn; each round
gives a ratio of its own.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import report
from benchmarks.peers import spec
from benchmarks.peers.torl import SHAPE, texts
from torl_jax.learner import losses, state
from torl_jax.learner.network import Network, place
from torl_jax.model.transformer import Transformer, initialise
from torl_jax.parallel import mesh as meshes

CHUNK, WHOLE = 1024, spec.ROWS * spec.LENGTH  # tokens whose logits exist at a time
MOST = 1.03


class Side:
    """One way: log-probs without a gradient, and updates."""

    def __init__(self, chunk: int, remat: str) -> None:
        self.mesh = meshes.make(1, 1, 1)
        model = Transformer(SHAPE, mesh=self.mesh, remat=remat)
        optimizer = optax.adamw(spec.RATE)
        loss = losses.Text(model, vocab=spec.VOCAB, head_chunk=chunk)
        self.network = Network(loss, optimizer, state.abstract(SHAPE, optimizer), self.mesh)
        self.state = self.network.create(initialise(SHAPE, jax.random.key(0)))

    def batch(self, round_: int) -> Any:
        """The rows of a round, on the device."""
        return place(texts(round_), self.mesh)

    def score(self, round_: int) -> None:
        """Log-probs of all targets."""
        jax.block_until_ready(self.network.tokens(self.state.params, self.batch(round_)))

    def update(self, round_: int) -> None:
        """One optimiser step."""
        self.state, stats = self.network.update(self.state, self.batch(round_))
        jax.block_until_ready((self.state, stats))


def seconds(run: Callable[[int], None], round_: int, times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        run(round_)
    return time.perf_counter() - begin


def measured(
    sides: tuple[Side, Side], task: str, rounds: int, times: int
) -> tuple[list[float], list[float]]:
    """Seconds a call of each side in each round; who begins changes from round to round."""
    found: tuple[list[float], list[float]] = ([], [])
    runs = [getattr(side, task) for side in sides]
    for run in runs:
        run(0)  # compiles
    for round_ in range(rounds):
        for i in (0, 1) if round_ % 2 else (1, 0):
            found[i].append(seconds(runs[i], round_, times) / times)
    return found


def rows(rounds: int, times: int) -> list[list[str]]:
    """The table's lines."""
    pair = functools.cache(lambda remat: (Side(CHUNK, remat), Side(WHOLE, remat)))
    each = {
        "log-probs": ("score", "full"),
        "update, logits computed again": ("update", "full"),
        "update, logits kept": ("update", "none"),
    }
    out = []
    for name, (task, remat) in each.items():
        chunked, whole = measured(pair(remat), task, rounds, times)
        ratios = [a / b for a, b in zip(chunked, whole, strict=True)]
        met = "met" if statistics.median(ratios) <= MOST else "MISSED"
        out.append([
            name, *(report.spread([1000 * x for x in side], 1) for side in (chunked, whole)),
            report.spread(ratios, 3), f"at most {MOST}: {met}",
        ])  # fmt: skip
    return out


def same() -> float:
    """By how much log-probs of the two ways differ at most, in nats."""
    made = [Side(chunk, "full") for chunk in (CHUNK, WHOLE)]
    found = [np.asarray(s.network.tokens(s.state.params, s.batch(0))) for s in made]
    return float(np.abs(found[0] - found[1]).max())


def body(rounds: int, times: int) -> str:
    """The whole section."""
    load = os.getloadavg()[0]
    head = ["what", f"ms, {CHUNK} tokens a chunk", f"ms, {WHOLE} at once", "ratio", "target"]
    return "\n\n".join([
        f"`{report.command(MODULE)}`, {rounds} rounds of {times} calls, interleaved: median "
        f"(range), ratios of each round. {report.conditions(load, 'jax')}",
        f"{spec.ROWS} rows of {spec.LENGTH} tokens, vocabulary {spec.VOCAB}. The log-probs of the "
        f"two differ by {same():.1g} nats at most.",
        report.table(head, rows(rounds, times)),
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog=MODULE, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=report.count, default=5)
    parser.add_argument("--times", type=report.count, default=3, help="calls a round and side")
    parser.add_argument("--out", type=report.holding("chunks"), help="a file with this section")
    args = parser.parse_args()
    text = body(args.rounds, args.times)
    if args.out is None:
        print(text)
    else:
        report.write_section(args.out, "chunks", text)
    return 0


MODULE = "benchmarks.chunks"

if __name__ == "__main__":
    sys.exit(main())
