"""The functions of a Python file as a toolbox: called in worker processes (`worker.py`).

The file is the user's own code and is trusted with what the worker may do; only the
parameters are a model's. What a model *writes* as a program belongs into the sandbox.
"""

import functools
import logging
import os
import re
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sandbox.command import command_pool
from sandbox.messages import Message
from sandbox.pool import StartError, WorkerDied, WorkerError, WorkerTimeout
from torl_jax.errors import UserError
from torl_jax.tools.toolbox import Function, Outcome, ToolFailure

START_SECONDS = 60.0  # to import the file
SLACK = 10.0  # seconds that a worker may take beyond the call's own time limit
# What the pool puts around a worker's own last words, where it ends because of the file.
SAID = re.compile(r"^worker did not start: (.+) \(exit status 1\)$")
ROOT = Path(__file__).resolve().parents[2]


class PythonTools:
    """The public functions of the file at `path`, in `workers` processes.

    Their environment is `environment` and what Python needs. A call may take `memory_mb`
    MiB beyond what importing the file took. Raises UserError for a file that is not
    there, cannot be imported or has a function that cannot be described
    (`signatures.py`).
    """

    def __init__(
        self,
        path: str | Path,
        workers: int = 2,
        environment: Mapping[str, str] | None = None,
        memory_mb: int = 2048,
    ) -> None:
        if not Path(path).is_file():
            raise UserError(f"tools: there is no file {path}")
        if workers < 1 or memory_mb < 1:
            raise UserError(f"tools: workers {workers}, memory_mb {memory_mb}: give at least 1")
        command = [sys.executable, "-P", "-m", "torl_jax.tools.worker", str(path), str(memory_mb)]
        environment = {**_environment(), **(environment or {})}
        self._path = str(path)
        self._pool = command_pool(command, workers, environment, START_SECONDS)
        try:
            found = self._pool.submit({"describe": True}, START_SECONDS).result()["functions"]
        except WorkerError as error:
            self._pool.close()
            words = SAID.sub(r"\1", str(error))
            raise UserError(f"the tools of {path} cannot be used: {words}") from error
        self.functions: Mapping[str, Function] = {each["name"]: Function(**each) for each in found}

    def submit(self, name: str, parameters: Mapping[str, Any], timeout: float) -> "Future[Outcome]":
        """Calls the function; see Toolbox.submit."""
        answer: Future[Outcome] = Future()
        answer.set_running_or_notify_cancel()
        request = {"name": name, "parameters": dict(parameters), "seconds": timeout}
        try:
            asked = self._pool.submit(request, timeout + SLACK)
        except WorkerError as error:
            answer.set_exception(ToolFailure(f"{self._path}: {error}"))
        else:
            asked.add_done_callback(functools.partial(self._settle, name, timeout, answer))
        return answer

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()

    def __enter__(self) -> "PythonTools":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(
        self, name: str, timeout: float, answer: "Future[Outcome]", asked: "Future[Message]"
    ) -> None:
        error = asked.exception()
        if error is None:
            answer.set_result(Outcome(**asked.result()))
        elif isinstance(error, WorkerTimeout):
            logging.warning("%s: the worker of %s was killed: %s", self._path, name, error)
            words = f"stopped: it took longer than {timeout:g} s"
            answer.set_result(Outcome(words, "timeout", timeout))
        elif isinstance(error, WorkerDied) and not isinstance(error, StartError):
            # The call's own doing: it is all that the worker had to do.
            logging.warning("%s: the worker of %s ended: %s", self._path, name, error)
            answer.set_result(Outcome("the tool's process was killed before it returned", "error"))
        else:
            answer.set_exception(ToolFailure(f"{self._path}: {error}"))


def _environment() -> dict[str, str]:
    """What the workers' Python needs."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
