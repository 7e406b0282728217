"""What is added to the outcome reward: for code that did not run, for running too long.

    execution   `penalty` where `failed` holds. ToRL tried -0.5 and found no gain.
    overlong    penalty x min(1, max(0, (length - (most - buffer)) / buffer)): nothing until
                `buffer` tokens before the budget's end, then linear to the whole
                (DAPO, arXiv 2503.14476, eq. 13).
    failing     where more than MOST of several programs failed (ZeroTIR, off in its recipes)
    executed    for a right answer with at least one program that ran (likewise)

Neither touches `Score.correct`.
"""

from torl_jax.episode import Author, Episode

MOST = 0.9


def failed(episode: Episode, rule: str) -> bool:
    """Whether the penalty for execution applies.

    fixed: a block was run and failed (the paper's words). compat: no block was run
    without error, which also hits a response without code (the released rule).
    """
    ran = [turn.observation.passed for turn in episode.turns if turn.observation is not None]
    return RULES[rule](ran)


def mostly_failed(episode: Episode) -> bool:
    """Whether more than MOST of at least two programs failed."""
    ran = [turn.observation.passed for turn in episode.turns if turn.observation is not None]
    return len(ran) > 1 and ran.count(False) > MOST * len(ran)


def ran(episode: Episode) -> bool:
    """Whether any program ran without error."""
    return any(turn.observation is not None and turn.observation.passed for turn in episode.turns)


RULES = {"fixed": lambda ran: not all(ran), "compat": lambda ran: not any(ran)}


def overlong(episode: Episode, most: int, buffer: int) -> float:
    """The share of the penalty, 0 to 1; `most` and `buffer` in tokens after the prompt."""
    length = episode.count(Author.POLICY, Author.TOOL)
    over = length - (most - buffer)
    return min(1.0, max(0.0, over / buffer)) if buffer else float(over >= 0)
