"""Eight fake devices for every test, and the shared data where it exists."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

if "PYTEST_XDIST_WORKER" not in os.environ:
    # What commands keep for their next start, of all workers and none of the user's.
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="torl_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# A busy machine is no failure: tests bound what they do, not how long it takes.
hypothesis.settings.register_profile("torl_jax", deadline=None)
hypothesis.settings.load_profile("torl_jax")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real test data beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared test data is not beside this checkout")
    return folder


# Minutes each: they begin first, lest one worker end alone with the last of them.
LONG = (
    "test_guarded.py",
    "test_hosts.py",
    "test_faults.py",
    "test_carry.py",
    "test_smoke.py",
    "test_train.py",
    "test_options.py",
    "test_ppo.py",
    "test_sft.py",
    "test_critic.py",
    "test_live.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, all others as they were."""
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
