"""What an environment is: an episode opens a tool in it, and is promised observations."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from torl_jax.episode import Call, Observation, Problem

A = TypeVar("A")
B = TypeVar("B")


class Tool(Protocol):
    """What one episode calls, with whatever state the environment keeps for it."""

    def submit(self, call: Call) -> "Future[Observation]":
        """Carries out `call` without holding up whoever asks; from any thread.

        The future holds what the policy will read. A failure of our own is an exception
        in it, never an observation: the episode then ends in ABORT.
        """
        ...

    def close(self) -> None:
        """Ends what the episode kept; calls not answered yet may fail."""
        ...


class Environment(Protocol):
    """Where calls are carried out."""

    def open(self, problem: Problem) -> Tool:
        """The tool for an episode of `problem`."""
        ...


def then(future: "Future[A]", function: Callable[[A], B]) -> "Future[B]":
    """A future of `function` of the future's result; exceptions of either pass through."""
    answer: Future[B] = Future()
    answer.set_running_or_notify_cancel()  # what it waits for cannot be cancelled

    def settle(done: "Future[A]") -> None:
        try:
            answer.set_result(function(done.result()))
        except BaseException as error:  # whoever waits must hear of any failure
            answer.set_exception(error)

    future.add_done_callback(settle)
    return answer
