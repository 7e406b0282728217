"""Which zygote a program is forked from: a guess that may cost time, never a result."""

import ast
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import Sandbox, tiers
from tests.sandbox.processes import eventually, kin

PRELOAD = ("numpy", "sympy")
MODULES = st.sampled_from(["numpy", "sympy", "math", "os.path", "numpy.linalg", "scipy", "numpyro"])
NAMES = st.lists(
    st.tuples(MODULES, st.sampled_from(["", " as n", "  as  sympy"])).map("".join), min_size=1
)
BLANK = st.sampled_from([" ", "  ", "\t"])
IMPORTS = st.builds(
    lambda blank, names, comma: f"import{blank}{comma.join(names)}",
    BLANK,
    NAMES,
    st.sampled_from([",", ", ", " , "]),
) | st.builds(
    lambda blank, module, name: f"from{blank}{module} import {name}",
    BLANK,
    MODULES,
    st.sampled_from(["x", "*", "(\n    x,\n    y,\n)", "x as numpy"]),
)
OTHERS = st.sampled_from(["x = 1", "pass", "print('numpy')", "'''a'''"])
COMMENT = st.just("# import sympy as s")  # a line of its own: it ends one
SIMPLE = st.lists(IMPORTS | OTHERS, min_size=1, max_size=4).map("; ".join)
PROGRAMS = st.lists(
    SIMPLE
    | COMMENT
    | IMPORTS.map("if x:\n    {}".format)
    | IMPORTS.map("try: {}\nfinally: pass".format),
    max_size=5,
).map("\n".join)


def parsed(source: str) -> set[str]:
    """Top-level names that the program imports, as Python itself reads it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@given(PROGRAMS)
def test_every_plain_import_is_seen(source):
    assert parsed(source) <= tiers.imported(source)


@given(st.text(max_size=200))
def test_any_text_has_a_tier(source):
    assert 0 <= tiers.tier(source, PRELOAD) <= len(PRELOAD)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", 0),
        ("print('import')", 0),
        ("import math, json", 0),
        ("import numpy as np", 1),
        ("import numpy.linalg", 1),
        ("\tfrom numpy.random import *", 1),
        ("x = 1;import sympy", 2),
        ("import numpy\nfrom sympy import (\n  Symbol)", 2),
        ("import json, sympy as s, re", 2),
        ("import numpyro", 0),
        ("important = numpy", 0),
        ("fromage = 1\nimports sympy", 0),
        ("def f(): import sympy", 2),
        ("from . import numpy", 0),
        ("import numpy\r\n", 1),
        ("import\\\n numpy", 0),  # seen by nobody: it is imported by the program then
    ],
)
def test_a_tier_is_the_smallest_that_has_what_is_named(source, expected):
    assert tiers.tier(source, PRELOAD) == expected
    assert tiers.tier(source, ("numpy.linalg", "sympy.core")) == expected
    assert tiers.tier(source, ()) == 0


@pytest.mark.parametrize(
    "source",
    [
        "import " * 300_000,
        "import a" + ", a" * 500_000,
        ";" * 2_000_000,
        "from " + "a." * 1_000_000,
        "import" + "\t" * 2_000_000,
        "\n" * 2_000_000,
        ("import " + "a" * 1000 + "\n") * 2000,
    ],
)
def test_the_scan_takes_linear_time(source):
    started = time.process_time()
    tiers.tier(source, PRELOAD)
    assert time.process_time() - started < 5


def test_programs_run_alike_in_every_tier():
    """A module that is preloaded is there, one that is not can be imported all the same."""
    loaded = "import sys; print([m in sys.modules for m in ('numpy', 'sympy')])"
    lazy = (
        "s = __import__('sympy'); n = __import__('numpy'); print(n.arange(3), s.factor('x**2-1'))"
    )
    with Sandbox(workers=1, min_level="rlimits", timeout=60.0, memory_mb=256) as box:
        assert box.run(loaded).stdout == "[False, False]\n"
        assert box.run("import numpy;" + loaded).stdout == "[True, False]\n"
        assert box.run("import sympy;" + loaded).stdout == "[True, True]\n"
        answers = {box.run(start + lazy).stdout for start in ("", "import numpy;", "import sympy;")}
    assert answers == {"[0 1 2] (x - 1)*(x + 1)\n"}


def test_a_tier_that_is_not_up_yet_keeps_no_other_waiting():
    order = []
    with Sandbox(workers=2, min_level="rlimits", timeout=60.0, memory_mb=256) as box:
        for code in ("import sympy; print('later')", "print('soon')"):
            box.submit(code).add_done_callback(lambda done: order.append(done.result().stdout))
        assert eventually(lambda: len(order) == 2, 60)
        assert len(kin(box._link.pid)["zygote"]) == 2
    assert order == ["soon\n", "later\n"]
