"""What all servers of these tests share."""

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One compilation cache for all servers: what is tested is not the compiler."""
    return str(tmp_path_factory.mktemp("compiled"))
