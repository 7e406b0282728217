"""SandboxFusion's HTTP shapes, as its server writes them and its clients read them.

What Fusion does not know its clients pass over, so a reply of ours holds more:
`sandbox` with the fields of a Result that Fusion has no name for.
"""

import base64
import json
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox.orders import Body, line, short
from sandbox.results import STATUSES, Result

UNKNOWN = "unknown"  # the level of an endpoint that reports none
MEMORY_ERROR = re.compile(r"[\w.]*MemoryError\b")
EXCEPTION = re.compile(r"([^\W\d][\w.]*)(?:: (.*))?$")


class BadReply(Exception):
    """An endpoint answered with something that is not a reply."""


def encode(body: Mapping[str, Any]) -> bytes:
    """ASCII, so that half a surrogate pair in a request id does no harm."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")


def reply(result: Result, fetch: Mapping[str, str], memory_mb: int) -> Body:
    """A program's end as /run_code tells it."""
    code: int | None = result.exit_code
    if result.status == "timeout":
        code = None
    elif result.status in ("memory", "killed") and not code:
        # Callers read Failed, Finished and 0 as "no verdict": the end was not the program's own.
        code = -signal.SIGKILL
    message = {
        "memory": f"the program needed more than the {memory_mb} MB that it may take",
        "killed": f"the program was killed, exit code {result.exit_code}",
    }.get(result.status, "")
    files = {name: result.files.get(place) for name, place in fetch.items()}
    return {
        "status": "Success" if result.status == "ok" else "Failed",
        "message": message,
        "compile_result": None,
        "run_result": {
            "status": "TimeLimitExceeded" if result.status == "timeout" else "Finished",
            "execution_time": result.seconds,
            "return_code": code,
            "stdout": result.stdout,
            "stderr": result.stderr,
        },
        "executor_pod_name": None,
        "files": {name: base64_text(data) for name, data in files.items() if data is not None},
        "sandbox": {
            "status": result.status,
            "exit_code": result.exit_code,
            "cpu_seconds": result.cpu_seconds,
            "truncated_bytes": result.truncated_bytes,
            "level": result.level,
            "memory_mb": memory_mb,
        },
    }


def failure(message: str) -> Body:
    """Our own failure as /run_code and /run_jupyter tell it: with HTTP status 200."""
    return {
        "status": "SandboxError",
        "message": message,
        "compile_result": None,
        "run_result": None,
        "executor_pod_name": None,
        "files": {},
    }


def notebook_reply(cells: Sequence[Body], results: Sequence[Result], late: bool) -> Body:
    """What /run_jupyter answers. A cell that raises is no failure of the notebook.

    `late`: the time of all cells was used up before the last one.
    """
    late = late or any(result.status == "timeout" for result in results)
    whole = not late and all(result.status in ("ok", "error") for result in results)
    return {
        "status": "Success" if whole else "Failed",
        "message": "" if whole else "a cell was ended, or not begun: each tells of its own end",
        "driver": {
            "status": "TimeLimitExceeded" if late else "Finished",
            "execution_time": sum(result.seconds for result in results),
            "return_code": None if late else 0,
            "stdout": "",
            "stderr": "",
        },
        "cells": list(cells),
        "executor_pod_name": None,
        "files": {},
        "sandbox": {
            "statuses": [result.status for result in results],
            "level": results[0].level if results else "",
        },
    }


def cell_reply(result: Result, shown: Sequence[str], stdout: str) -> Body:
    """One cell's end as /run_jupyter tells it; `shown` are the values that it displayed."""
    return {
        "stdout": stdout,
        "stderr": result.stderr,
        "display": [{"text/plain": text} for text in shown],
        "error": [] if result.status == "ok" else [_error(result)],
    }


def request(
    code: str,
    stdin: str | None,
    timeout: float,
    seed: int,
    files: Mapping[str, bytes] | None,
    fetch: Sequence[str],
    request_id: str,
) -> Body:
    """A /run_code request that both kinds of endpoint understand."""
    return {
        "code": code,
        "language": "python",
        "stdin": stdin,
        "run_timeout": timeout,
        "compile_timeout": timeout,
        "files": {name: base64_text(data) for name, data in (files or {}).items()},
        "fetch_files": list(fetch),
        "seed": seed,
        "request_id": request_id,
    }


def result(body: Body) -> Result | str:
    """What a /run_code reply says: a Result, or the endpoint's own failure in one line.

    Raises BadReply. Fusion tells no level ("unknown"), no processor time and no bytes
    left out (both 0), and nothing of memory: that is read from the traceback.
    """
    if body.get("status") == "SandboxError":
        return line(body.get("message") or "it gave no reason")
    try:
        run, ours = body["run_result"], body.get("sandbox")
        status, code = _verdict(run, ours)
        return Result(
            status=status,
            stdout=_typed(run.get("stdout") or "", str),
            stderr=_typed(run.get("stderr") or "", str),
            exit_code=code,
            seconds=float(run.get("execution_time") or 0.0),
            cpu_seconds=float(ours["cpu_seconds"]) if ours else 0.0,
            truncated_bytes=_typed(ours["truncated_bytes"], int) if ours else 0,
            level=_typed(ours["level"], str) if ours else UNKNOWN,
            files={
                name: base64.b64decode(text, validate=True)
                for name, text in (body.get("files") or {}).items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadReply(f"reply is not a run_code reply: {type(error).__name__} {error}") from error


def _verdict(run: Body, ours: Body | None) -> tuple[str, int]:
    if ours:
        if ours["status"] not in STATUSES:
            raise ValueError(f"status is {short(ours['status'])}, not one of {', '.join(STATUSES)}")
        return ours["status"], _typed(ours["exit_code"], int)
    if run["status"] == "TimeLimitExceeded":
        return "timeout", -signal.SIGKILL
    code = _typed(run["return_code"], int)
    if code == 0:
        return "ok", code
    if code < 0:
        return "killed", code
    last = (run.get("stderr") or "").rstrip().rpartition("\n")[2]
    return "memory" if MEMORY_ERROR.match(last) else "error", code


def _error(result: Result) -> Body:
    """A cell's failure as Jupyter tells it."""
    lines = result.stderr.splitlines()
    name, value = {
        "timeout": ("TimeLimitExceeded", f"the cell was ended after {result.seconds:.3g} s"),
        "killed": ("Killed", f"the cell was killed, exit code {result.exit_code}"),
        "memory": ("MemoryError", ""),
    }.get(result.status, ("SystemExit", str(result.exit_code)))
    if result.status == "error":
        starts = [n for n, line in enumerate(lines) if line.startswith("Traceback (most recent")]
        for line in lines[starts[-1] + 1 if starts else 0 :]:
            if found := EXCEPTION.match(line):
                name, value = found[1].rpartition(".")[2], found[2] or ""
                break
    return {"ename": name, "evalue": value, "traceback": lines}


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{short(value)} is no {kind.__name__}")
    return value


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
