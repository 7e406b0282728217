"""What is added to the outcome reward: for code that did not run, for running too long.

    execution   `penalty` where `failed` holds. ToRL tried -0.5 and found no gain.
    overlong    penalty x min(1, max(0, (length - (most - buffer)) / buffer)): nothing until
                `buffer` tokens before the budget's end, then linear to the whole
                (DAPO, arXiv 2503.14476, eq. 13).

Neither touches `Score.correct`.
"""

from torl_jax.episode import Author, Episode


def failed(episode: Episode, rule: str) -> bool:
    """Whether the penalty for execution applies.

    fixed: a block was run and failed (the paper's words). compat: no block was run
    without error, which also hits a response without code (the released rule).
    """
    ran = [turn.observation.passed for turn in episode.turns if turn.observation is not None]
    return RULES[rule](ran)


RULES = {"fixed": lambda ran: not all(ran), "compat": lambda ran: not any(ran)}


def overlong(episode: Episode, most: int, buffer: int) -> float:
    """The share of the penalty, 0 to 1; `most` and `buffer` in tokens after the prompt."""
    length = episode.count(Author.POLICY, Author.TOOL)
    over = length - (most - buffer)
    return min(1.0, max(0.0, over / buffer)) if buffer else float(over >= 0)
