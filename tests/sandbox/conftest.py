"""The gate: tests that start hostile programs are collected inside the outer guard only."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from sandbox import Sandbox
from tests.sandbox import guard

# Other tests share the processors: how long an attack takes is for the command line to judge.
os.environ.setdefault("SANDBOX_SLACK", "5")

HERE = Path(__file__).resolve().parent
MISSING = guard.verify()

if not MISSING:
    # The checkout is read-only in there, and examples would be lost with /tmp.
    hypothesis.settings.register_profile("guarded", deadline=None, database=None)
    hypothesis.settings.load_profile("guarded")


def pytest_configure(config: pytest.Config) -> None:
    asked = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    if MISSING and any(path.resolve().is_relative_to(HERE) for path in asked):
        arguments = " ".join(config.invocation_params.args)
        raise pytest.UsageError(
            f"the sandbox's tests run inside their guard only ({MISSING}): "
            f"python -m tests.sandbox.guard python -m pytest {arguments}"
        )


def pytest_ignore_collect() -> bool | None:
    """Elsewhere tests/test_guarded.py runs them all."""
    return True if MISSING else None


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    """One sandbox for the tests that do not damage it."""
    with Sandbox(workers=2, min_level="rlimits", memory_mb=256, timeout=20.0) as box:
        yield box
