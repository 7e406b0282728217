"""Runs a call's Python in the sandbox and puts the outcome into words.

Two policies say what the policy model reads:

fixed (default)
    ok: what it printed, or words that it printed nothing. error: what it printed,
    then the last line of the error. timeout, memory, killed: one line that says so
    (without partial output, which would differ from run to run). Passed = ok.

compat (ToRL's released table, quirks included)
    exit code 0 or anything printed: stdout, passed; otherwise stderr, failed. Of a
    text that contains "Error" the last line. Blank is shown as a time-out.

streams (ZeroTIR's)
    ok: stdout. Otherwise what is known of the failure and nothing else: stderr without the
    places of files and the carets, or the line of `fixed`. Not cut: its protocol replaces
    what is too long.

The first two cut a text of `limit` characters or more to its first and last halves. A
failure of the sandbox itself is never put into words: it stays an exception.
"""

import re
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from sandbox import Box, Result, SandboxError
from sandbox.results import Cells
from torl_jax.envs.base import Tool, then
from torl_jax.episode import Call, Observation, Problem
from torl_jax.errors import UserError

LIMIT = 256  # characters of an observation, as in the paper's code
NO_OUTPUT = "[no output]"
PLACE = re.compile(r'File "[^"\n]*", ')
MARKS = re.compile(r"\s*[~^]+\s*")  # under the place of the error
TIMEOUT = "TimeoutError"  # compat's word for a blank text


Observe = Callable[[Result], Observation]


class PythonEnv:
    """Python in the sandbox, whose policy, time limit and kind of interpreter it fixes.

    Stateless: each call runs alone in a fresh process. Stateful: an episode's calls share
    one interpreter, as the cells of a notebook do. `timeout` is in seconds, `limit` in
    characters. The sandbox is the caller's to close. Raises UserError for an unknown
    policy or figures out of range.
    """

    def __init__(
        self,
        sandbox: Box,
        policy: str = "fixed",
        timeout: float = 5.0,
        limit: int = LIMIT,
        stateful: bool = False,
    ) -> None:
        if policy not in POLICIES:
            raise UserError(f"observation policy {policy!r} is not one of {', '.join(POLICIES)}")
        if timeout <= 0 or limit < 2:
            raise UserError(
                f"timeout {timeout} and limit {limit}: give more than 0 s and at least 2 characters"
            )
        self._sandbox = sandbox
        self._timeout = timeout
        self._stateful = stateful
        self._observe = partial(POLICIES[policy], timeout=timeout, limit=limit)

    def open(self, problem: Problem) -> Tool:
        """What an episode calls; an interpreter starts with its first call."""
        if self._stateful:
            return Notebook(partial(self._sandbox.session, self._timeout), self._observe)
        return Programs(partial(self._sandbox.submit, timeout=self._timeout), self._observe)


class Programs:
    """Runs each call as a program of its own."""

    def __init__(self, submit: Callable[[str], "Future[Result]"], observe: Observe) -> None:
        self._submit, self._observe = submit, observe

    def submit(self, call: Call) -> "Future[Observation]":
        """What the program did, in words; the future raises SandboxError for our failures."""
        return promised(lambda: then(self._submit(call.text), self._observe))

    def close(self) -> None:
        """Nothing: nothing was kept."""


class Notebook:
    """Runs calls as cells of one interpreter."""

    def __init__(self, start: Callable[[], Cells], observe: Observe) -> None:
        self._start, self._observe = start, observe
        self._cells: Cells | None = None

    def submit(self, call: Call) -> "Future[Observation]":
        """What the cell did, in words; the future raises SandboxError for our failures."""

        def run() -> "Future[Observation]":
            self._cells = self._cells or self._start()
            return then(self._cells.submit(call.text), self._observe)

        return promised(run)

    def close(self) -> None:
        """Ends the interpreter."""
        if self._cells is not None:
            self._cells.close()


def promised(ask: Callable[[], "Future[Observation]"]) -> "Future[Observation]":
    """What `ask` promises; where the sandbox refuses at once, a future of that."""
    try:
        return ask()
    except SandboxError as error:
        refused: Future[Observation] = Future()
        refused.set_exception(error)
        return refused


def fixed(result: Result, timeout: float, limit: int = LIMIT) -> Observation:
    """Says what happened: silence, partial output, errors and limits are told apart."""
    passed = result.status == "ok"
    printed = result.stdout.rstrip()
    if passed:
        text = printed or NO_OUTPUT
    elif result.status == "error":
        error = _last_line(result.stderr) or f"[exit code {result.exit_code}]"
        text = f"{printed}\n{error}" if printed else error
    else:
        text = {
            "timeout": f"[stopped: ran longer than {timeout:g} s]",
            "memory": "[stopped: used too much memory]",
            "killed": "[stopped: killed]",
        }[result.status]
    return Observation(cut(text, limit), passed, result.status, result.seconds)


def compat(result: Result, timeout: float, limit: int = LIMIT) -> Observation:
    """The released table; `timeout` plays no part in its words."""
    passed = (result.status != "timeout" and result.exit_code == 0) or bool(result.stdout)
    text = result.stdout if passed else result.stderr
    if "Error" in text:
        text = _last_line(text)
    text = text.strip() or TIMEOUT
    return Observation(cut(text, limit), passed, result.status, result.seconds)


def streams(result: Result, timeout: float, limit: int = LIMIT) -> Observation:
    """One stream, whole: what was printed, or what went wrong."""
    if result.status in ("ok", "error"):
        passed = result.status == "ok"
        said = result.stdout if passed else cleaned(result.stderr)
        text = said.strip("\n") or ("" if passed else f"[exit code {result.exit_code}]")
        return Observation(text, passed, result.status, result.seconds)
    return fixed(result, timeout, limit)


def cleaned(traceback: str) -> str:
    """A traceback without `File "...", ` and without lines of carets."""
    lines = [line for line in traceback.splitlines() if not MARKS.fullmatch(line)]
    return PLACE.sub("", "\n".join(lines))


def cut(text: str, limit: int) -> str:
    """`text`, or its first and last `limit // 2` characters when it has `limit` or more."""
    half = limit // 2
    return text if len(text) < limit else f"{text[:half]}...{text[-half:]}"


def _last_line(text: str) -> str:
    """The last line that is not blank; "" if there is none."""
    return text.rstrip().rpartition("\n")[2].strip()


POLICIES = {"fixed": fixed, "compat": compat, "streams": streams}
