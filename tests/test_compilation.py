"""What one start compiles, the next one reads: fresh interpreters, a cache folder of their own."""

import json
import os
import subprocess
import sys

import pytest

from torl_jax import compilation

PROGRAM = """
import json, sys
import jax
from torl_jax import compilation

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
compilation.keep()
counter = compilation.Counter()
found = jax.jit(lambda x: jax.numpy.tanh(x) @ x.T)(jax.numpy.ones((3, 4)))
print(json.dumps({
    "found": found.tolist(),
    "count": counter.count,
    "hits": hits.count("/jax/compilation_cache/cache_hits"),
    "folder": jax.config.jax_compilation_cache_dir,
}))
"""


def start(**environ: str) -> tuple[dict, str]:
    names = ("JAX_COMPILATION_CACHE_DIR", compilation.SECONDS, "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=kept | environ, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def kept(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*-cache"))


def test_the_second_start_reads_what_the_first_compiled(tmp_path):
    first, _ = start(XDG_CACHE_HOME=str(tmp_path))
    names = kept(tmp_path / "torl_jax" / "programs")
    second, _ = start(XDG_CACHE_HOME=str(tmp_path))
    assert first["hits"] == 0 and len(names) >= 1
    assert second["hits"] == second["count"] == first["count"]
    assert kept(tmp_path) == names
    assert second["found"] == first["found"]


def test_what_the_user_says_goes_before(tmp_path):
    own, cache = str(tmp_path / "own"), str(tmp_path / "cache")
    found, _ = start(JAX_COMPILATION_CACHE_DIR=own, XDG_CACHE_HOME=cache)
    assert found["folder"] == own and not os.path.exists(cache)
    # Nothing takes so long to compile: nothing is kept.
    start(XDG_CACHE_HOME=cache, **{compilation.SECONDS: "1000"})
    assert kept(tmp_path / "cache") == []
    start(XDG_CACHE_HOME=cache, JAX_ENABLE_COMPILATION_CACHE="false")
    assert kept(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path):
    (tmp_path / "file").write_text("")
    found, said = start(XDG_CACHE_HOME=str(tmp_path / "file"))
    assert found["hits"] == 0 and found["folder"] is None
    assert said.count("compiled programs are not kept: ") == 1


def test_who_has_no_home_starts_all_the_same(monkeypatch, capsys):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(compilation.Path, "home", unknown)
    compilation.keep()
    said = capsys.readouterr().err
    assert said == "compiled programs are not kept: Could not determine home directory.\n"


@pytest.mark.parametrize("part", ["flags", "model name"])
def test_another_processor_has_another_folder(part, monkeypatch):
    facts = {"flags": "flags : fma avx2", "model name": "model name : A"}
    monkeypatch.setattr(compilation, "processor", lambda: "\n".join(facts.values()))
    here = compilation.folder()
    facts[part] += " avx512f"
    assert compilation.folder() != here and compilation.folder().parent == here.parent


def test_the_processor_is_named():
    assert len(compilation.processor()) > 10
