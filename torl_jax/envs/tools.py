"""Carries out the calls of a tool block and lists what they gave.

    {"name": "get_weather", "parameters": {"city": "Oslo"}}
    {"name": "get_wether", "parameters": {}}
 -> [{"name": "get_weather", "results": 11},
     {"name": "get_wether", "results": "no tool has this name; the tools are: get_weather"}]

on one line, as ToolRL's data write it. The calls of a block run one after another. What a
model got wrong (a line that is no call, a name, a parameter) is that call's result, in
words. A failure of our own ends the block: it stays an exception. So does an episode that
leaves: the call at hand is made to its end, those behind it are not made.
"""

import json
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from torl_jax.envs.python import cut
from torl_jax.episode import Call, Observation, Problem
from torl_jax.errors import UserError
from torl_jax.tools import calls, schemas
from torl_jax.tools.calls import Asked
from torl_jax.tools.toolbox import Outcome, Toolbox, ToolFailure

LIMIT = 1024  # characters of a result
MOST = 32  # calls in a block

Done = list[tuple[str, Outcome]]  # the tool's name, what came of it


class ToolEnv:
    """The tools of a toolbox, the same for every problem; the toolbox is the caller's to close.

    `timeout` is in seconds and for one call, `limit` in characters of one result, `most` in
    calls a block. Raises UserError for figures out of range.
    """

    def __init__(
        self, toolbox: Toolbox, timeout: float = 10.0, limit: int = LIMIT, most: int = MOST
    ) -> None:
        if timeout <= 0 or limit < 2 or most < 1:
            raise UserError(
                f"timeout {timeout}, limit {limit} and most {most}: give more than 0 s, at least "
                "2 characters and 1 call"
            )
        self._toolbox, self._timeout, self._limit, self._most = toolbox, timeout, limit, most

    def open(self, problem: Problem) -> "Blocks":
        """The tools for one episode, whichever it is."""
        return Blocks(self._toolbox, self._timeout, self._limit, self._most)


class Blocks:
    """The tool blocks of one episode; figures as for ToolEnv."""

    def __init__(self, toolbox: Toolbox, timeout: float, limit: int, most: int) -> None:
        self._toolbox, self._timeout, self._limit, self._most = toolbox, timeout, limit, most
        self._closed = False

    def close(self) -> None:
        """Makes no more calls: those that are due fail."""
        self._closed = True

    def submit(self, call: Call) -> "Future[Observation]":
        """What the block's calls gave. Passed: all did; the status is that of the first to fail."""
        answer: Future[Observation] = Future()
        answer.set_running_or_notify_cancel()
        self._go_on(iter(calls.parse(call.text, self._most)), [], answer)
        return answer

    def _go_on(self, asked: Iterator[Asked], done: Done, answer: "Future[Observation]") -> None:
        """Makes one call after another; where one takes its time, its end will go on."""
        try:
            for each in asked:
                if self._closed:
                    raise ToolFailure("the episode is over")
                ended = self._begin(each)
                if not ended.done():
                    ended.add_done_callback(partial(self._settle, each.name, asked, done, answer))
                    return
                done.append((each.name, ended.result()))
            answer.set_result(self._observed(done))
        except Exception as error:  # whoever waits must hear of any failure
            answer.set_exception(error)

    def _settle(
        self,
        name: str,
        asked: Iterator[Asked],
        done: Done,
        answer: "Future[Observation]",
        ended: "Future[Outcome]",
    ) -> None:
        try:
            done.append((name, ended.result()))
        except Exception as error:
            answer.set_exception(error)
        else:
            self._go_on(asked, done, answer)

    def _begin(self, asked: Asked) -> "Future[Outcome]":
        if found := asked.fault or self._fault(asked):
            refused: Future[Outcome] = Future()
            refused.set_result(Outcome(found, "error"))
            return refused
        return self._toolbox.submit(asked.name, asked.parameters, self._timeout)

    def _fault(self, asked: Asked) -> str:
        functions = self._toolbox.functions
        if asked.name not in functions:
            return f"no tool has this name; the tools are: {', '.join(functions)}"
        return schemas.fault(functions[asked.name].schema, asked.parameters)

    def _observed(self, done: Done) -> Observation:
        listed = [{"name": name, "results": self._cut(ended.results)} for name, ended in done]
        failed = [ended.status for _, ended in done if ended.status != "ok"]
        return Observation(
            json.dumps(listed),
            passed=not failed,
            status=failed[0] if failed else "ok",
            seconds=sum(ended.seconds for _, ended in done),
        )

    def _cut(self, results: Any) -> Any:
        """The results, or the beginning and the end of them as text."""
        text = results if isinstance(results, str) else json.dumps(results)
        return results if len(text) < self._limit else cut(text, self._limit)
