"""The benchmark's own lower bound: each program has a process of its own, and is answered."""

import pytest

from benchmarks import limit, throughput
from benchmarks.contenders import Contender, Failed

MARK = "import builtins\nprint(hasattr(builtins, 'seen'))\nbuiltins.seen = True"


@pytest.fixture(scope="module", params=["forked", "spawned"])
def contender(request):
    if request.param == "spawned":
        yield limit.spawned()
    else:
        with limit.forked(1) as found:
            yield found


def test_what_is_printed_comes_back(contender: Contender):
    assert contender.run(throughput.PRINT) == "42\n"
    assert contender.run("print('x' * 300_000)") == "x" * 300_000 + "\n"
    assert contender.run("import numpy; print(numpy.arange(3).sum())") == "3\n"


def test_no_program_sees_another(contender: Contender):
    assert [contender.run(MARK) for _ in range(2)] == ["False\n"] * 2


def test_a_program_that_fails_is_no_figure(contender: Contender):
    with pytest.raises(Failed, match="exit status 1, expected 0"):
        contender.run("print(1); raise SystemExit(1)")
    assert contender.run("print(2)") == "2\n"


def test_what_is_imported_is_there_already():
    look = "import sys\nprint('sympy' in sys.modules, 'numpy' in sys.modules)\n"
    with limit.forked(1) as found:
        assert found.run(look) == "False False\n"
        assert found.run(look + "import numpy\n") == "False True\n"
        assert found.run(look + "import sympy\n") == "True True\n"
