"""What is taken out of training data: questions asked twice, and those of the evaluation sets.

Decontamination follows Qwen2.5's (arXiv 2412.15115), with words in a row where that takes words
in the same order: a training problem is dropped where it shares n words in a row with a
held-out question *and* the longest common subsequence of their words is at least 0.6 of the
shorter one. The second condition is needed: competition problems end in the same words ("...
where m and n are relatively prime positive integers. Find m + n"), so that 13 words in a row
alone would drop 70 of MATH's training problems for AIME 2024, none of which is one of its 30. A
question shorter than n words counts where it is equal as a whole.

Words are runs of letters and digits, in lower case; marks and spacing do not count. Of ToolRL's
dialogues the lines that many of them have do not count either: they say the same thought at every
step, and one in twenty opens and ends with the same lines, by which 19 dialogues of its SFT file
would be taken for others of its test file.
"""

import collections
import re
from collections.abc import Collection, Iterator, Sequence

from torl_jax.data.schemas import TURN
from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.protocols.dialogue import HISTORY

WORD = re.compile(r"[^\W_]+")
SHARED = 0.6  # of the shorter question's words, in the same order in both
# Dialogues that have a line in common, above which it is the set's and not theirs: more than the
# steps of one dialogue, of which each is a question, and this part of all.
STEPS = 20
PART = 0.01
NAMED = 5  # problems named in a line

Words = tuple[str, ...]


def dedup(problems: Sequence[Problem], drop: bool) -> tuple[list[Problem], list[str]]:
    """(problems, what a person should know of questions that are asked more than once).

    Questions are the same where they differ in spacing and case only, and have the same system
    message. With `drop` the first of them is kept; none is kept where their answers differ, since
    one of these is wrong. Where an answer is a turn of a dialogue, its calls are what counts.
    """
    groups: dict[str, list[Problem]] = collections.defaultdict(list)
    for problem in problems:
        asked = f"{problem.system}\0{problem.question}"
        groups[" ".join(asked.split()).casefold()].append(problem)
    repeated = [group for group in groups.values() if len(group) > 1]
    if not repeated:
        return list(problems), []
    disputed = [group for group in repeated if len({_graded(p.answer) for p in group}) > 1]
    again = sum(len(group) - 1 for group in repeated)
    line = f"{again} of {len(problems)} training problems ask a question again"
    if disputed:
        line += (
            f"; {len(disputed)} questions ({sum(map(len, disputed))} problems) have different "
            f"answers ({_named([group[0] for group in disputed])})"
        )
    if not drop:
        return list(problems), [f"{line}; kept: config.data.dedup=True drops them"]
    wrong = {id(group) for group in disputed}
    kept = [group[0] for group in groups.values() if id(group) not in wrong]
    if not kept:
        raise UserError(f"{line}; without them no problem is left: mend the answers")
    ending = "dropped, of these all" if disputed else "dropped"
    return kept, [f"{line}; {ending}: {len(kept)} are left"]


def decontaminate(
    problems: Sequence[Problem], held_out: Sequence[Problem], n: int
) -> tuple[list[Problem], list[str]]:
    """(problems unlike all held-out ones, the line that says which were dropped); n 0: none is.

    UserError where none would be left.
    """
    if not n or not held_out:
        return list(problems), []
    shared = common_lines([problem.question for problem in (*problems, *held_out)])
    sources: dict[Words, set[str]] = collections.defaultdict(set)
    for problem in held_out:
        sources[words(problem.question, shared)].add(problem.source)
    asked = list(sources)
    having: dict[Words, set[int]] = collections.defaultdict(set)
    for number, question in enumerate(asked):
        for run in _runs(question, n):
            having[run].add(number)
    kept, dropped = [], []
    phrases, counts = 0, collections.Counter()
    for problem in problems:
        question = words(problem.question, shared)
        near = set().union(*(having[run] for run in _runs(question, n) if run in having))
        same = [i for i in near if alike(question, asked[i])]
        if not same:
            phrases += bool(near)
            kept.append(problem)
            continue
        dropped.append(problem)
        counts.update(set().union(*(sources[asked[i]] for i in same)))
    line = f"none of {len(problems)} training problems is like one of {len(asked)} held out"
    if dropped:
        by_source = ", ".join(f"{name or 'unnamed'} {k}" for name, k in sorted(counts.items()))
        line = (
            f"{len(dropped)} of {len(problems)} training problems dropped: like one held out "
            f"({by_source}; {_named(dropped)}), that is equal or with {n} words in a row and "
            f"{SHARED:.0%} of the shorter one's in common; config.data.decontaminate=0 keeps them"
        )
    if not kept:
        raise UserError(f"{line}, and no problem is left to train on")
    more = f"; {phrases} share {n} words in a row only, and are kept" if phrases else ""
    return kept, [line + more]


def common_lines(questions: Sequence[str]) -> set[str]:
    """The lines that more than `STEPS` and `PART` of the different dialogues have."""
    asked = {question for question in questions if question.startswith(HISTORY)}
    having = collections.Counter(line for q in asked for line in set(q.split("\n")))
    return {line for line, count in having.items() if count > max(STEPS, PART * len(asked))}


def words(question: str, common: Collection[str] = ()) -> Words:
    """The words of the question, without its `common` lines where it has others; the text itself
    where it has no words.
    """
    own = "\n".join(line for line in question.split("\n") if line not in common)
    for text in (own, question):
        if found := WORD.findall(text.casefold()):
            return tuple(found)
    return (question.strip(),)


def alike(one: Words, other: Words) -> bool:
    """Whether the longest common subsequence is `SHARED` of the shorter one."""
    return common(one, other) >= SHARED * min(len(one), len(other))


def common(one: Words, other: Words) -> int:
    """Length of the longest common subsequence, by the bits of one number.

    A row of the usual table grows by 0 or 1 from cell to cell; `row` holds a 0 bit where it
    grows, and addition carries out a whole row at once (Hyyrö 2004).
    """
    places: dict[str, int] = collections.defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        if match := row & places.get(word, 0):
            row = ((row + match) | (row - match)) & full
    return len(one) - row.bit_count()


def _runs(question: Words, n: int) -> Iterator[Words]:
    """All n words in a row; of a shorter question, all of it."""
    if len(question) < n:
        return iter((question,))
    return zip(*(question[k:] for k in range(n)), strict=False)


def _graded(answer: str) -> str:
    """What an answer says, its spacing apart; of a turn of a dialogue, its calls."""
    if answer.startswith(TURN):
        answer = answer.partition("<tool_call>")[2].partition("</tool_call>")[0]
    return "".join(answer.split())


def _named(problems: Sequence[Problem]) -> str:
    more = ", ..." if len(problems) > NAMED else ""
    return ", ".join(p.id for p in problems[:NAMED]) + more
