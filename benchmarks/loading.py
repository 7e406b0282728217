"""How much memory a host needs to load and to save a model of 1.5 billion parameters.

Writes a random checkpoint in Qwen2.5-Math-1.5B's published shape (bfloat16, several files),
then loads it in fresh processes as float32: on one device, over eight devices of one process,
and as two hosts of four devices each that form one mesh; and saves it again.

  python -m benchmarks.loading --out docs/benchmarks.md

What is counted is anonymous and shared memory (RssAnon + RssShmem of /proc/self/status), above
that of the process just before. A thread samples it about every 5 ms; what lives only within
one call of numpy it may miss, which is at most one table in the file's precision. Resident
pages of the checkpoint's own files are left out: safetensors maps them, and the kernel drops
them whenever it wants their memory.
The devices are the processor's, so "device" memory is the host's and counts in full.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import ReportError, command, conditions, table, write_section

MODULE = "benchmarks.loading"
SHAPE = Path("tests/golden/published/qwen2.5-math-1.5b.json")
FILE_BYTES = 1_000_000_000
LIMIT = 1.3  # times the host's own share
# (what a reader calls it, processes, devices of each)
CASES = (("one device", 1, 1), ("fsdp=8, one process", 1, 8), ("fsdp=8, one of two hosts", 2, 4))


def memory() -> int:
    """Bytes of this process that no file backs."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))


@dataclasses.dataclass
class Peak:
    """The most memory above the start, in bytes."""

    bytes: int = 0


def started() -> int:
    """The memory of this process once jax has started."""
    import jax

    jax.block_until_ready(jax.numpy.zeros(1))
    return memory()


@contextlib.contextmanager
def watched(start: int) -> Iterator[Peak]:
    """Samples `memory` while it is open; counts what is above `start`."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak.bytes = max(peak.bytes, memory() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak.bytes = max(peak.bytes, memory() - start)


def write(folder: Path, devices: int) -> dict:
    """A random checkpoint; measures `hf.save` of sharded arrays beyond the arrays themselves."""
    import jax

    from torl_jax.model import hf
    from torl_jax.model.config import ModelConfig
    from torl_jax.parallel import mesh, sharding

    config, over = ModelConfig.from_hf(json.loads(SHAPE.read_text())), mesh.make(1, devices)
    empty = started()
    params: dict = {}
    for number, row in enumerate(hf.table(config)):
        shape = (config.layers, *row.shape) if row.path[0] == "blocks" else row.shape
        where = jax.NamedSharding(over, sharding.spec(row.path, shape, over))
        draw = functools.partial(_normal, np.random.default_rng(number), where.shard_shape(shape))
        branch = params
        for key in row.path[:-1]:
            branch = branch.setdefault(key, {})
        branch[row.path[-1]] = jax.make_array_from_callback(shape, where, draw)
    jax.block_until_ready(params)
    share = sum(x.nbytes for x in jax.tree.leaves(params))
    with watched(empty + share) as peak:
        hf.save(folder, config, params, dtype="bfloat16", shard_bytes=FILE_BYTES)
    return {"share": share, **dataclasses.asdict(peak)}


def _normal(rng: np.random.Generator, shape: tuple[int, ...], _: object) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def read(folder: Path, hosts: int, host: int, port: int) -> dict:
    """Loads the checkpoint over all devices; what this host holds and needed."""
    import jax

    if hosts > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", hosts, host)
    from torl_jax.model import hf
    from torl_jax.parallel import mesh

    over = mesh.make(data=1, fsdp=-1)
    with watched(started()) as peak:
        _, params = hf.load(folder, over)
        jax.block_until_ready(params)
    shards = [s for x in jax.tree.leaves(params) for s in x.addressable_shards]
    return {"share": sum(s.data.nbytes for s in shards), **dataclasses.asdict(peak)}


def start(what: str, folder: Path, devices: int, *arguments: int) -> subprocess.Popen[str]:
    """A fresh process of this file with that many devices."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, what, str(folder), *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )


def results(processes: list[subprocess.Popen[str]]) -> list[dict]:
    """What the processes measured. Raises ReportError where one failed."""
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        codes = [process.returncode for process in processes]
        raise ReportError(f"a child failed (exit codes {codes}); what it said stands above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def load_row(name: str, folder: Path, hosts: int, devices: int) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start("read", folder, devices, hosts, host, port) for host in range(hosts)]
    worst = max(results(started), key=lambda result: result["bytes"] / result["share"])
    ratio = worst["bytes"] / worst["share"]
    verdict = f"at most {LIMIT}: {'met' if ratio <= LIMIT else 'MISSED'}"
    return [
        name,
        *(f"{worst[key] / 2**30:.2f}" for key in ("share", "bytes")),
        f"{ratio:.2f}",
        verdict,
    ]


def section(folder: Path) -> str:
    """The whole benchmark, as Markdown."""
    load = os.getloadavg()[0]
    (saved,) = results([start("write", folder, 8)])
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    rows = [load_row(name, folder, hosts, devices) for name, hosts, devices in CASES]
    head = ("loaded over", "own share GiB", "peak GiB", "peak / share", "target")
    return "\n\n".join(
        [
            command(MODULE),
            conditions(load, "jax", "safetensors", "numpy"),
            f"The checkpoint: {sum(sizes) / 2**30:.2f} GiB of bfloat16 in {len(sizes)} files, "
            f"the largest {max(sizes) / 2**30:.2f} GiB.",
            table(head, rows),
            f"Saving the sharded float32 arrays ({saved['share'] / 2**30:.2f} GiB) as these files "
            f"took {saved['bytes'] / 2**30:.2f} GiB beyond them.",
        ]
    )


def main(argv: Sequence[str]) -> int:
    """The entry point; the children come here too. Returns the exit code."""
    if argv[:1] == ["write"]:
        print(json.dumps(write(Path(argv[1]), 8)))
        return 0
    if argv[:1] == ["read"]:
        print(json.dumps(read(Path(argv[1]), *map(int, argv[2:]))))
        return 0
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="replaces its section here")
    given = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            body = section(Path(folder))
        print(body)
        if given.out:
            write_section(given.out, "loading", body)
    except (ReportError, OSError) as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
