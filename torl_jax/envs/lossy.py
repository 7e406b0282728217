"""A tool that loses things: the first output of some problems' episodes never arrives.

For studies of trying again: whoever may call twice can still answer such a problem by
its program, whoever may call once cannot. Which problems they are depends on their ids
alone, so every run and every seed meets the same ones.
"""

import dataclasses
from concurrent.futures import Future

from torl_jax.envs.base import Environment, Tool, then
from torl_jax.envs.python import NO_OUTPUT
from torl_jax.episode import Call, Observation, Problem

SALT = 0x9E3779B9  # apart from what else is drawn from a problem's key


class Lossy:
    """`env`, but for a `share` (0 to 1) of the problems the first output is lost."""

    def __init__(self, env: Environment, share: float) -> None:
        self._env, self._share = env, share

    def open(self, problem: Problem) -> Tool:
        """The environment's own tool, or one that loses its first output."""
        tool = self._env.open(problem)
        return Forgetful(tool) if loses(problem, self._share) else tool


class Forgetful:
    """A tool whose first observation says that nothing was printed."""

    def __init__(self, tool: Tool) -> None:
        self._tool, self._first = tool, True

    def submit(self, call: Call) -> "Future[Observation]":
        """What the tool says; the first time, its output is lost."""
        answer, lost, self._first = self._tool.submit(call), self._first, False
        return then(answer, forget) if lost else answer

    def close(self) -> None:
        """Closes the tool."""
        self._tool.close()


def loses(problem: Problem, share: float) -> bool:
    """Whether episodes of `problem` lose their first output."""
    return (problem.key * SALT) % (1 << 32) < share * (1 << 32)


def forget(seen: Observation) -> Observation:
    """The observation without its text."""
    return dataclasses.replace(seen, text=NO_OUTPUT)
