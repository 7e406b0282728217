"""What importing brings in, by modules and not by the clock; and the benchmark that tells both."""

import configparser
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import startup
from benchmarks.report import ReportError

ROOT = Path(__file__).resolve().parent.parent
# Heavy, and of no use before the one moment that some runs come to, if ever.
NEVER = {
    "torch",
    "tensorflow",
    "transformers",
    "pandas",
    "tensorboardX",
    "wandb",
    "grpc",
    "IPython",
}
# What a trainer leaves to others: figures to the report, algebra to the grader's workers.
OTHERS = {"matplotlib", "PIL", "sympy", "math_verify", "scipy.optimize", "scipy.stats"}
IMPORT = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
ARRAYS = {"jax", "flax", "orbax", "tensorstore"}


def loaded(module: str) -> set[str]:
    """All modules that a fresh interpreter has after importing one."""
    program = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("module", "barred"),
    [
        ("torl_jax", NEVER | OTHERS | ARRAYS | {"numpy", "pyarrow", "rich", "torl_jax.config"}),
        ("torl_jax.train", NEVER | OTHERS),
        ("torl_jax.trainer", NEVER | OTHERS),
        ("torl_jax.evaluate", NEVER | OTHERS),
        ("torl_jax.solve", NEVER | OTHERS),
        ("torl_jax.serve", NEVER | OTHERS),
        ("torl_jax.data.check", NEVER | OTHERS | ARRAYS),
        ("torl_jax.report", NEVER | ARRAYS),
        ("torl_jax.rewards.worker", NEVER | ARRAYS | {"matplotlib", "pyarrow"}),
    ],
)
def test_nothing_is_imported_that_is_not_needed(module: str, barred: set[str]):
    assert sorted(loaded(module) & barred) == []


def test_a_default_install_brings_nothing_that_is_never_imported():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = setup["options"]["install_requires"].split()
    wanted = {canonicalize_name(Requirement(text).name) for text in texts}
    assert len(wanted) > 15
    files = [path for part in ("torl_jax", "sandbox") for path in (ROOT / part).rglob("*.py")]
    found = IMPORT.findall("\n".join(path.read_text() for path in files))
    owners = importlib.metadata.packages_distributions()
    used = {canonicalize_name(owner) for name in set(found) for owner in owners.get(name, [])}
    # Exported folders are for it, and its users have it anyway.
    assert sorted(wanted - used) == ["transformers"], "move them to the extra that needs them"


def test_the_benchmark_counts_what_a_default_install_brings():
    default = startup.needed(startup.OURS)
    assert {"jax", "flax", "sympy", "torl-jax"} <= default
    assert not {"torch", "pytest", "ruff"} & default
    sizes = {package.name: package for package in startup.packages()}
    assert sizes["jaxlib"].source > 50 * startup.MB > sizes["pyyaml"].source > 0
    with pytest.raises(ReportError, match="no-such-thing is not installed"):
        startup.needed("no-such-thing")


def test_the_benchmark_times_a_fresh_interpreter():
    few, more = startup.imported("sys"), startup.imported("json, decimal")
    assert few.modules < more.modules and few.seconds > 0
    with pytest.raises(ReportError, match="No module named 'no_such_thing'"):
        startup.imported("no_such_thing")
