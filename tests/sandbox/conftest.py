"""One sandbox for the tests that do not damage it."""

from collections.abc import Iterator

import pytest

from sandbox import Sandbox


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    with Sandbox(workers=2, memory_mb=256, timeout=20.0) as box:
        yield box
