"""What is taken out of training data: questions asked twice, and those of the evaluation sets.

Decontamination follows Qwen2.5's (arXiv 2412.15115), with words in a row where that takes words
in the same order: a training problem is dropped where it shares n words in a row with a
held-out question *and* the longest common subsequence of their words is at least 0.6 of the
shorter one. The second condition is needed: competition problems end in the same words ("...
where m and n are relatively prime positive integers. Find m + n"), so that 13 words in a row
alone would drop 70 of MATH's training problems for AIME 2024, none of which is one of its 30. A
question shorter than n words counts where it is equal as a whole.

Words are runs of letters and digits, in lower case; marks and spacing do not count.

ToolRL's dialogues are not compared so: a fixed thought at every step, the calls and stock phrases
are most of their words, so that "in Oslo?" and "in Rome?" would be one problem. One is dropped
where its words are those of a held-out one, or go on from one whose gold calls tools, for then it
shows what is to be called there. The system message, with the tools, is not looked at.
"""

import collections
import re
from collections.abc import Iterator, Sequence

from torl_jax.data.schemas import TURN
from torl_jax.episode import Problem
from torl_jax.errors import UserError
from torl_jax.protocols.dialogue import HISTORY

WORD = re.compile(r"[^\W_]+")
SHARED = 0.6  # of the shorter question's words, in the same order in both
STEP = "\n\n<think>"  # in a dialogue: an assistant's turn, and with it the end of a prompt
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
    known = HeldOut(held_out, n)
    kept, dropped, rules = [], [], set()
    phrases, counts = 0, collections.Counter()
    for problem in problems:
        same, near = known.like(problem)
        if not same:
            phrases += near
            kept.append(problem)
            continue
        dropped.append(problem)
        rules.add(
            "going on from one"
            if _is_dialogue(problem)
            else f"with {n} words in a row and {SHARED:.0%} of the shorter one's in common"
        )
        counts.update(same)
    line = f"none of {len(problems)} training problems is like one of {known.size} held out"
    if dropped:
        by_source = ", ".join(f"{name or 'unnamed'} {k}" for name, k in sorted(counts.items()))
        line = (
            f"{len(dropped)} of {len(problems)} training problems dropped: like one held out "
            f"({by_source}; {_named(dropped)}), that is equal or {' or '.join(sorted(rules))}; "
            "config.data.decontaminate=0 keeps them"
        )
    if not kept:
        raise UserError(f"{line}, and no problem is left to train on")
    more = f"; {phrases} share {n} words in a row only, and are kept" if phrases else ""
    return kept, [line + more]


class HeldOut:
    """Held-out problems, by what training problems are compared with; `size` different ones."""

    def __init__(self, problems: Sequence[Problem], n: int) -> None:
        self._n = n
        dialogues: dict[Words, set[str]] = collections.defaultdict(set)
        questions: dict[Words, set[str]] = collections.defaultdict(set)
        self._calling: set[Words] = set()  # of the dialogues
        for problem in problems:
            asked = words(problem.question)
            if not _is_dialogue(problem):
                questions[asked].add(problem.source)
                continue
            dialogues[asked].add(problem.source)
            if _graded(problem.answer):
                self._calling.add(asked)
        self._dialogues, self._questions = dict(dialogues), dict(questions)
        self._having: dict[Words, list[Words]] = collections.defaultdict(list)
        for question in questions:
            for run in set(_runs(question, n)):
                self._having[run].append(question)
        self.size = len(dialogues) + len(questions)

    def like(self, problem: Problem) -> tuple[set[str], bool]:
        """(the sources of those that it is like, whether it has n words in a row of any)."""
        asked = words(problem.question)
        if _is_dialogue(problem):
            cuts = [found.start() for found in re.finditer(STEP, problem.question)]
            before = {words(problem.question[:cut]) for cut in cuts}
            same = (before & self._calling) | ({asked} & self._dialogues.keys())
            return set().union(*(self._dialogues[each] for each in same)), False
        near = {q for run in _runs(asked, self._n) for q in self._having.get(run, ())}
        same = [each for each in near if alike(asked, each)]
        return set().union(*(self._questions[each] for each in same)), bool(near)


def words(question: str) -> Words:
    """The words of the question; the text itself where it has none."""
    return tuple(WORD.findall(question.casefold())) or (question.strip(),)


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


def _is_dialogue(problem: Problem) -> bool:
    return problem.question.startswith(HISTORY)


def _graded(answer: str) -> str:
    """What an answer says, its spacing apart; of a turn of a dialogue, its calls."""
    if answer.startswith(TURN):
        answer = answer.partition("<tool_call>")[2].partition("</tool_call>")[0]
    return "".join(answer.split())


def _named(problems: Sequence[Problem]) -> str:
    more = ", ..." if len(problems) > NAMED else ""
    return ", ".join(p.id for p in problems[:NAMED]) + more
