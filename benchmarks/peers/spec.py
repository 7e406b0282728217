"""What every side of a comparison is given, and how it is asked. Standard library only.

A worker runs in its own interpreter, with its own packages. It answers each line of its input,
the name of a task, by a line of JSON; whatever its libraries print goes to the standard error.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

# A Qwen2.5 of 4,985,088 parameters, its head tied to the embedding.
LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCAB = 4, 256, 4, 2, 64, 1024, 4096
THETA, EPS = 1e6, 1e-6

THREADS = 2
BATCH, PROMPT, NEW = 32, 64, 256  # decoding
ROWS, LENGTH = 16, 512  # training
RATE = 1e-4


def prompts(round_: int) -> list[list[int]]:
    """BATCH prompts of PROMPT tokens."""
    draw = random.Random(round_)
    return [[draw.randrange(1, VOCAB) for _ in range(PROMPT)] for _ in range(BATCH)]


def texts(round_: int) -> list[list[int]]:
    """ROWS sequences of LENGTH tokens."""
    draw = random.Random(round_)
    return [[draw.randrange(1, VOCAB) for _ in range(LENGTH)] for _ in range(ROWS)]


def serve(settings: Mapping[str, Any], tasks: Mapping[str, Callable[[int], int]]) -> None:
    """Answers until the input ends. A task is given the round, and says how many tokens it made."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps(dict(settings)), file=out)
    for round_, line in enumerate(sys.stdin):
        begin = time.perf_counter()
        tokens = tasks[line.strip()](round_)
        print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - begin}), file=out)
