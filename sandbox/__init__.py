"""Runs Python programs that a model wrote, apart from the process that asks for it.

    with Sandbox(workers=2) as box:
        result = box.run("print(6 * 7)")
        result.status, result.stdout        # "ok", "42\\n"

No jax and no torl_jax in here: the package is usable alone. docs/sandbox.md
says what each level of isolation covers and what it does not.
"""

from sandbox.box import Sandbox
from sandbox.plan import LEVELS
from sandbox.results import STATUSES, Box, Busy, Result, SandboxError
from sandbox.session import Session

__all__ = ["LEVELS", "STATUSES", "Box", "Busy", "Result", "Sandbox", "SandboxError", "Session"]
