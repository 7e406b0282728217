r"""How well predicted calls match gold calls: ToolRL's correctness before it is scaled.

    S     = J(gold names, names) + sum over matched pairs of [J(gold keys, keys) + hits]
    S_max = 1 + sum over gold calls of [1 + number of parameters]
    share = S / S_max;  1 where both lists are equal in order

arXiv 2504.13958, section 3.3. J is the Jaccard index of multisets, hits counts the gold
parameters that the prediction has with an equal value, pairs have one name. Equality is
that of Python's parsed JSON: 4 == 4.0, true == 1, "4" != 4, lists ordered, objects not.
As released, and unlike the paper: J of names counts repetitions (the paper's are sets),
and pairs are found greedily unless `optimal` is asked for. NaN equals itself inside lists
of calls that are equal in order, and inside a nested value, but not as a value to hit.

Linear in the predicted calls for a given gold.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torl_jax.rewards.calls import Gold

# Stands for a turn's block that cannot be used: one call that matches nothing.
VOID = {"name": object()}

Groups = dict[int, list[dict[str, Any]]]  # calls of one name, by the name's place in the gold


@dataclass(frozen=True)
class Rules:
    """What is compared. `refined`: names and keys as ordered lists, equal or 0.

    `intermediate`: a pair is worth 1 if the calls are equal as wholes, else 0, and each
    gold call adds 1 to S_max. `coarse` (before the others): equal lists or nothing.
    """

    refined: bool = False
    intermediate: bool = False
    coarse: bool = False
    optimal: bool = False


@dataclass(frozen=True)
class Match:
    """`share`: S / S_max, 0 to 1. `exact`: the gold's calls, each with its parameters, in any
    order, and no other."""

    share: float
    exact: bool


NONE, ALL = Match(0.0, exact=False), Match(1.0, exact=True)


def match(gold: Gold, calls: list[Any], rules: Rules) -> Match:
    """Predicted calls against a gold that has some. What cannot be used matches nothing."""
    if gold.calls == calls:
        return ALL
    rivals = grouped(gold, calls, rules)
    if rivals is None or not _comparable(gold, calls, rules):
        return NONE
    exact = len(calls) == len(gold.calls) and _same_calls(gold, rivals)
    if rules.coarse:
        return Match(0.0, exact)
    pairs = (_optimal if rules.optimal else _greedy)(gold, rivals, rules)
    if pairs is None:
        return NONE
    reached = similarity(gold.names, [call["name"] for call in calls], rules.refined)
    most = 1.0 + sum(_most(wanted, rules) for wanted in gold.calls)
    return Match((reached + pairs) / most, exact)


def grouped(gold: Gold, calls: list[Any], rules: Rules) -> Groups | None:
    """Those of the calls that have a gold's name; None where they cannot be used at all.

    Each call needs a name, hashable unless names are compared as lists; one with a gold's
    name needs an object of parameters, unless calls are compared as wholes.
    """
    rivals: Groups = {}
    for call in calls:
        if type(call) is not dict or "name" not in call:
            return None
        name = call["name"]
        if gold.plain and not rules.refined and type(name) in (dict, list):
            return None
        place = gold.place(name)
        if place < 0:
            continue
        if not rules.intermediate and type(call.get("parameters")) is not dict:
            return None
        rivals.setdefault(place, []).append(call)
    return rivals


def _comparable(gold: Gold, calls: list[Any], rules: Rules) -> bool:
    """Whether an odd gold has what the formula asks of it, given calls that can be used.

    Name and parameters; names that can be counted, unless they are compared as lists or are
    the same; parameters that have a length, unless calls are compared as wholes.
    """
    if gold.plain or not gold.whole:
        return gold.plain
    names = [call["name"] for call in calls]
    counted = (
        rules.refined
        or names == gold.names
        or not any(isinstance(name, (dict, list)) for name in [*names, *gold.names])
    )
    sized = rules.intermediate or all(
        isinstance(call["parameters"], (dict, list, str)) for call in gold.calls
    )
    return counted and sized


def similarity(gold: Sequence[Any], predicted: Sequence[Any], strict: bool = False) -> float:
    """The Jaccard index of two multisets, given as lists; 1 for two empty ones.

    `strict`: 1 for equal lists, in order, else 0. Raises TypeError for what has no hash.
    """
    if gold == predicted:
        return 1.0
    if strict:
        return 0.0
    shared = (Counter(gold) & Counter(predicted)).total()
    return shared / (len(gold) + len(predicted) - shared)


def worth(wanted: dict[str, Any], call: dict[str, Any], rules: Rules) -> float:
    """What a pair of one name adds to S."""
    if rules.intermediate:
        return float(wanted == call)
    want, have = wanted["parameters"], call["parameters"]
    shared = hits = 0
    for key, value in want.items():
        if key in have:
            shared += 1
            hits += have[key] == value
    if rules.refined:
        return hits + float(list(want) == list(have))
    either = len(want) + len(have) - shared
    return hits + (shared / either if either else 1.0)


def _most(wanted: dict[str, Any], rules: Rules) -> float:
    """What the best pair of a gold call is worth."""
    return 1.0 if rules.intermediate else 1.0 + len(wanted["parameters"])


def _has_worth(wanted: dict[str, Any], rules: Rules) -> bool:
    """Whether a gold call can be compared with one of its name."""
    return rules.intermediate or type(wanted["parameters"]) is dict


def _greedy(gold: Gold, rivals: Groups, rules: Rules) -> float | None:
    """Each gold call in order takes the best call that is left; of equals the first.

    None where a call is left for a gold call whose parameters have no keys.
    """
    total = 0.0
    for wanted in gold.calls:
        left = rivals.get(gold.place(wanted["name"]), [])
        if left and not _has_worth(wanted, rules):
            return None
        most = _most(wanted, rules)
        best, place = 0.0, -1
        for index, call in enumerate(left):
            value = worth(wanted, call, rules)
            if value > best:
                best, place = value, index
                if best >= most:
                    break
        if place >= 0:
            total += best
            del left[place]
    return total


def _optimal(gold: Gold, rivals: Groups, rules: Rules) -> float | None:
    """The pairs of the greatest sum; only calls of one name can pair.

    None where there is a call for a gold call whose parameters have no keys.
    """
    from scipy.optimize import linear_sum_assignment  # 0.4 s that only this option costs

    sought: Groups = {}
    for wanted in gold.calls:
        sought.setdefault(gold.place(wanted["name"]), []).append(wanted)
    total = 0.0
    for place, calls in rivals.items():
        if not all(_has_worth(wanted, rules) for wanted in sought[place]):
            return None
        table = [[worth(wanted, call, rules) for call in calls] for wanted in sought[place]]
        rows, columns = linear_sum_assignment(table, maximize=True)
        total += sum(table[row][column] for row, column in zip(rows, columns, strict=True))
    return total


def _same_calls(gold: Gold, rivals: Groups) -> bool:
    """Whether as many calls are the gold's in another order, whatever else their objects hold."""
    left = {place: [call.get("parameters") for call in some] for place, some in rivals.items()}
    for wanted in gold.calls:
        found = left.get(gold.place(wanted["name"]), [])
        if wanted["parameters"] not in found:
            return False
        found.remove(wanted["parameters"])
    return True
