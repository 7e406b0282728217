"""Episodes as recorded: how much a policy writes, how often it calls, how long tools take."""

import dataclasses
import itertools
import math
import random

MEAN, SIGMA, CAP = 700, 0.8, 3072  # tokens of a response: lognormal, cut off
PROMPT, ANSWER = 32, 10  # tokens of a prompt, and of what a tool says
# A tool's answer: share, seconds; the last is a time-out.
KINDS = {"quick": (0.70, 0.03), "slow": (0.25, 0.3), "stuck": (0.05, 10.0)}


@dataclasses.dataclass(frozen=True)
class Script:
    """Tokens of each turn, and behind each but the last the kind of tool that is called."""

    turns: tuple[int, ...]
    calls: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """All that the policy writes."""
        return sum(self.turns)


def scripts(count: int, calls: int, seed: int) -> list[Script]:
    """`count` episodes of 0 to `calls` calls each; the lengths are the same whatever `calls` is."""
    lengths, others = random.Random(seed), random.Random(f"{seed} calls")
    mu = math.log(MEAN) - SIGMA**2 / 2  # so that the mean is MEAN
    written = [min(round(lengths.lognormvariate(mu, SIGMA)) + 1, CAP) for _ in range(count)]
    return [_script(tokens, others.randint(0, calls), others) for tokens in written]


def _script(tokens: int, calls: int, draw: random.Random) -> Script:
    calls = min(calls, tokens - 1)
    cuts = sorted(draw.sample(range(1, tokens), calls))
    turns = tuple(b - a for a, b in itertools.pairwise([0, *cuts, tokens]))
    shares = [share for share, _ in KINDS.values()]
    return Script(turns, tuple(draw.choices(list(KINDS), shares, k=calls)))
