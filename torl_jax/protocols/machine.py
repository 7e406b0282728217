"""Stop strings as a machine over a vocabulary's tokens, for the device to follow.

The automaton of Aho and Corasick (1975) over bytes, taken a token at a time: however a
tokenizer spells a stop, a row pauses at the very token that completes it, and at no other.
The host looks all the same, and decides.
"""

from collections.abc import Sequence

import numpy as np

from torl_jax.protocols.text import Stage, Tokenizer
from torl_jax.stops import DONE


def table(tokenizer: Tokenizer, stages: Sequence[Stage], rows: int = 0) -> np.ndarray:
    """uint16 [S, V] as `torl_jax/stops.py` says; V is the larger of the vocabulary and `rows`."""
    spelled = tokenizer.pieces(range(len(tokenizer)))
    length_V = np.fromiter(map(len, spelled), np.int64, len(spelled))
    # Long tokens first: those that have a byte at some place are then the first so many.
    order_V = np.argsort(-length_V, kind="stable")
    bytes_VL = np.zeros((len(spelled), length_V.max()), np.uint8)
    for row, token in enumerate(order_V):
        bytes_VL[row, : length_V[token]] = np.frombuffer(spelled[token], np.uint8)
    having_L = [int((length_V > place).sum()) for place in range(bytes_VL.shape[1])]
    move_SX = byte_moves(stages)
    table_SV = np.zeros((len(move_SX), max(len(spelled), rows)), np.uint16)
    for state in range(len(move_SX)):
        at_V = np.full(len(spelled), state, np.uint16)
        done_V = np.zeros(len(spelled), np.uint16)
        for place, count in enumerate(having_L):
            moved = move_SX[at_V[:count], bytes_VL[:count, place]]
            done_V[:count] |= moved & DONE
            at_V[:count] = moved & ~np.uint16(DONE)
        table_SV[state, order_V] = at_V | done_V
        table_SV[state, len(spelled) :] = state  # padding rows of the embedding spell nothing
    return table_SV


def byte_moves(stages: Sequence[Stage]) -> np.ndarray:
    """uint16 [S, 256]: the automaton over bytes.

    A state is a stage and the longest end of what was read that a stop of it, or its opening,
    begins with. Raises ValueError for more states than a table can number.
    """
    begun = [
        (n, text)
        for n, stage in enumerate(stages)
        for text in sorted({word[:k] for word in words(stage) for k in range(len(word))}, key=len)
    ]
    number = {state: k for k, state in enumerate(begun)}
    if len(begun) >= DONE:
        raise ValueError(f"stop strings of {len(begun)} bytes, expected fewer than {DONE}")
    move_SX = np.zeros((max(len(begun), 1), 256), np.uint16)
    for (n, text), state in number.items():
        ends = tuple(stop.encode() for stop in stages[n].stops)
        opening = stages[n].opening
        for byte in range(256):
            read = text + bytes([byte])
            rest = next(read[k:] for k in range(len(read) + 1) if (n, read[k:]) in number)
            move_SX[state, byte] = number[n, rest]
            if read.endswith(ends):
                move_SX[state, byte] |= DONE
            elif opening is not None and read.endswith(opening.encode()):
                move_SX[state, byte] = number[n + 1, b""]
    return move_SX


def words(stage: Stage) -> list[bytes]:
    """All that a stage looks out for."""
    found = stage.stops if stage.opening is None else (*stage.stops, stage.opening)
    return [word.encode() for word in found]
