"""Door 2: episodes -> arrays for learning.

Each token is *predicted at* the position of the token before it: row entry t
holds the input token, and target / mask / log-prob of the token that follows.
Episodes are packed into rows (`packing.py`) with segment ids; a packed row trains exactly
as its episodes would alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import numpy as np

from torl_jax.episode import Author, Episode
from torl_jax.rl import packing

Array = Any  # numpy on the host, jax once placed on the mesh


@flax.struct.dataclass
class TrainBatch:
    """Arrays [M, B, T]: M microbatches of B rows of T tokens; `count` of the M are filled.

    rung [M]: which of `widths` is the length of a microbatch's rows, the rest of T being empty;
    None where all have one length.

    segments: 1, 2, .. per packed episode, 0 for padding; episode: which of the E it is.
    mask: 1 where the target was written by the policy in a kept episode; weight: what it counts
    beside the mean of all such (WEIGHTS). old_logp,
    ref_logp and values (the critic's, before the step) are filled by `Learner.annotate`
    where the algorithm needs them; advantage, and returns where there is a critic, by
    `Learner.credit`.
    """

    tokens: Array
    positions: Array
    segments: Array
    targets: Array
    mask: Array
    weight: Array
    episode: Array
    sampler_logp: Array
    count: Array
    rung: Array = None
    widths: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())
    old_logp: Array = None
    ref_logp: Array = None
    values: Array = None
    advantage: Array = None
    returns: Array = None


def by_token(written_E: np.ndarray, longest: int) -> np.ndarray:
    """All tokens of the batch count alike (DAPO, arXiv 2503.14476, eq. 8; ToRL; ZeroTIR)."""
    return np.ones(len(written_E))


def by_sequence(written_E: np.ndarray, longest: int) -> np.ndarray:
    """All episodes count alike, and so do the tokens of each (GRPO, arXiv 2402.03300, eq. 3)."""
    return written_E.sum() / (np.count_nonzero(written_E) * np.maximum(written_E, 1))


def by_constant(written_E: np.ndarray, longest: int) -> np.ndarray:
    """Over (episodes x the longest response), no length of their own (Dr. GRPO, 2503.20783)."""
    return np.full(len(written_E), written_E.sum() / (np.count_nonzero(written_E) * longest))


# (tokens written by the policy in each trained episode, most that one may write) -> what a token
# of each episode weighs. The loss is sum(weight x) / number of trained tokens.
WEIGHTS = {"token": by_token, "sequence": by_sequence, "constant": by_constant}


def weights(
    episodes: Sequence[Episode],
    keep: np.ndarray,
    weigh: Callable[[np.ndarray, int], np.ndarray],
    longest: int,
) -> np.ndarray:
    """float32 [E]: what a token of each kept episode weighs, by one of WEIGHTS; else 0."""
    written = np.asarray(
        [e.count(Author.POLICY) for e, kept in zip(episodes, keep, strict=True) if kept]
    )
    found = np.zeros(len(episodes), np.float32)
    if written.any():
        found[np.asarray(keep, bool)] = weigh(written, longest)
    return found


def from_episodes(
    episodes: Sequence[Episode],
    keep: np.ndarray,
    *,
    row_tokens: int,
    microbatch_rows: int,
    rungs: int = 1,
    most: int = 0,
    weigh: Callable[[np.ndarray, int], np.ndarray] = by_token,
    longest: int = 1,
) -> TrainBatch:
    """One optimiser step's batch. keep: bool [E]; an episode not kept is left out.

    `weigh` is one of WEIGHTS, `longest` the most tokens that a response may have.

    Rows have `row_tokens`, or on lower `rungs` a half, a quarter, .. of them. M is the most that
    E episodes can need (or `most` of them, where that is more), whatever their lengths, so that
    the shapes, and with them the compiled program, never change.
    """
    M = packing.microbatches(max(len(episodes), most), microbatch_rows, rungs)
    shape = (M * microbatch_rows, row_tokens)
    arrays = {
        "tokens": np.zeros(shape, np.int32),
        "positions": np.zeros(shape, np.int32),
        "segments": np.zeros(shape, np.int32),
        "targets": np.zeros(shape, np.int32),
        "episode": np.zeros(shape, np.int32),
        "mask": np.zeros(shape, np.float32),
        "weight": np.zeros(shape, np.float32),
        "sampler_logp": np.zeros(shape, np.float32),
    }
    used = [i for i in range(len(episodes)) if keep[i]]
    widths = packing.ladder(row_tokens, rungs)
    layout = packing.pack([len(episodes[i].tokens) for i in used], widths, microbatch_rows)
    weight_E = weights(episodes, keep, weigh, longest)
    for r, row in enumerate(layout.rows):
        start = 0
        for segment, j in enumerate(row, start=1):
            episode = episodes[used[j]]
            where = slice(start, start + len(episode.tokens))
            _fill(arrays, r, where, episode)
            arrays["segments"][r, where] = segment
            arrays["episode"][r, where] = used[j]
            arrays["weight"][r, where] = weight_E[used[j]]
            start = where.stop
    return TrainBatch(
        **{name: x.reshape(M, microbatch_rows, row_tokens) for name, x in arrays.items()},
        count=np.int32(len(layout.rungs)),
        rung=_padded(layout.rungs, M) if rungs > 1 else None,
        widths=widths if rungs > 1 else (),
    )


def _padded(rungs: Sequence[int], M: int) -> np.ndarray:
    return np.pad(np.asarray(rungs, np.int32), (0, M - len(rungs)))


def _fill(arrays, r: int, where: slice, episode: Episode) -> None:
    tokens = np.asarray(episode.tokens, np.int32)
    policy = np.concatenate(
        [np.full(len(s.tokens), s.author is Author.POLICY) for s in episode.segments]
    )
    logp = np.zeros(len(tokens), np.float32)
    logp[policy] = [x for s in episode.segments for x in s.logps]
    arrays["tokens"][r, where] = tokens
    arrays["positions"][r, where] = np.arange(len(tokens))
    before = slice(where.start, where.stop - 1)
    arrays["targets"][r, before] = tokens[1:]
    arrays["mask"][r, before] = policy[1:]
    arrays["sampler_logp"][r, before] = logp[1:]
