"""Training runs of a shrunk quickstart as processes of their own, and what they leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "--config=configs/quickstart.py",
    "--config.rl.problems_per_step=4",
    "--config.rl.group_size=4",
    "--config.sampler.slots=16",
    "--config.data.eval_problems=6",
    "--config.eval.every=2",
    "--config.checkpoint.every=1",
    "--config.run.steps=4",
    "--config.run.dump_every=2",
    "--config.sandbox.workers=1",
]
# What a clock says differs from run to run; everything else must not.
CLOCKED = "time/"


# A decode segment takes its time, so that a signal comes before the end on any machine.
SLOWLY = """
import runpy, sys, time
from torl_jax.sampler.engine import Engine
decode = Engine.decode
Engine.decode = lambda self: (time.sleep(0.05), decode(self))[1]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def start(workdir, environment, *more) -> subprocess.Popen:
    command = [sys.executable, "-m", "torl_jax.train", f"--workdir={workdir}", *TINY, *more]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(workdir, environment, *more) -> str:
    process = start(workdir, environment, *more)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def rows(workdir) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def timeless(workdir) -> list[dict]:
    return [
        {name: x for name, x in row.items() if not name.startswith(CLOCKED)}
        for row in rows(workdir)
    ]


def params(workdir, step):
    from torl_jax.policy import load

    tree = load(str(workdir / "checkpoints" / str(step))).params
    return {str(i): x for i, x in enumerate(_leaves(tree))}


def _leaves(tree):
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from _leaves(tree[key])
    else:
        yield np.asarray(tree)


def wait_for_rows(workdir, count, process):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        path = workdir / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError(f"no {count} rows within the time")


def environment(cache: Path) -> dict[str, str]:
    """One compilation cache for all runs: what is tested is not the compiler."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "",
        "TORL_RUN_ID": "a-run",
        "TORL_COMMIT": "c0ffee",
    }
