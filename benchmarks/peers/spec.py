"""What every side of a comparison is given, and how it is asked. Standard library only.

A worker runs in its own interpreter, with its own packages. It answers each line of its input,
the name of a task, by a line of JSON; whatever its libraries print goes to the standard error.
"""

import collections
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# A Qwen2.5 of 4,985,088 parameters, its head tied to the embedding.
LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCAB = 4, 256, 4, 2, 64, 1024, 4096
THETA, EPS = 1e6, 1e-6

THREADS = 2
BATCH, PROMPT, NEW = 32, 64, 256  # decoding
ROWS, LENGTH = 16, 512  # training
RATE = 1e-4
PROBLEMS, GROUP = 8, 8  # a GRPO step: samples of each problem, NEW tokens each
MICRO = 16  # sequences of a microbatch of it
CALLS, ANSWER = 2, 10  # tool calls of a sample, and tokens that a tool inserts
LEAST = 16  # tokens of a turn, where calls come at uneven places

# Is given its round, and says how many tokens it made.
Task = Callable[[int], int]


def text(tokens: Iterable[int]) -> str:
    """Tokens as every side's tokenizer spells them."""
    return " ".join(map(str, tokens))


def worth(tokens: Sequence[int]) -> float:
    """The reward: the share of tokens that are even."""
    return sum(token % 2 == 0 for token in tokens) / max(len(tokens), 1)


def turns(round_: int, uneven: bool) -> list[tuple[int, ...]]:
    """Tokens that each of BATCH samples writes before its first call, its second, and its end.

    A third of NEW each, or as it is drawn for each sample.
    """
    draw, out = random.Random(f"{round_} turns"), []
    for _ in range(BATCH):
        cuts = [NEW * (i + 1) // (CALLS + 1) for i in range(CALLS)]
        if uneven:
            free = NEW - LEAST * (CALLS + 1)
            places = sorted(draw.randint(0, free) for _ in range(CALLS))
            cuts = [LEAST * (i + 1) + place for i, place in enumerate(places)]
        out.append(tuple(b - a for a, b in itertools.pairwise([0, *cuts, NEW])))
    return out


def ends(turns: Sequence[int]) -> list[int]:
    """Where each turn ends in a response, the tool's answers before it counted."""
    return [total + ANSWER * i for i, total in enumerate(itertools.accumulate(turns))]


def answer(round_: int, sample: int, call: int) -> list[int]:
    """ANSWER tokens that the tool says."""
    draw = random.Random(f"{round_} {sample} {call}")
    return [draw.randrange(1, VOCAB) for _ in range(ANSWER)]


def prompts(round_: int) -> list[list[int]]:
    """BATCH prompts of PROMPT tokens."""
    draw = random.Random(round_)
    return [[draw.randrange(1, VOCAB) for _ in range(PROMPT)] for _ in range(BATCH)]


def texts(round_: int) -> list[list[int]]:
    """ROWS sequences of LENGTH tokens."""
    draw = random.Random(round_)
    return [[draw.randrange(1, VOCAB) for _ in range(LENGTH)] for _ in range(ROWS)]


def serve(settings: Mapping[str, Any], tasks: Mapping[str, Callable[[], Task]]) -> None:
    """Answers until the input ends; what it says first are its settings and its tasks' names.

    A task is made before it is first timed, and left out of the memory of who never asks for it.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps({**settings, "tasks": list(tasks)}), file=out)
    made: dict[str, Task] = {}
    rounds: collections.Counter[str] = collections.Counter()
    for line in sys.stdin:
        name = line.strip()
        if name not in made:
            made[name] = tasks[name]()
        begin = time.perf_counter()
        tokens = made[name](rounds[name])
        rounds[name] += 1
        print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - begin}), file=out)
