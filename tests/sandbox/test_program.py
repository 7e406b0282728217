"""A program's end: what it is told of, what is flushed."""

import pytest

HOOK_FAILED = """Error in sys.excepthook:
Traceback (most recent call last):
  File "main.py", line 2, in <lambda>
    sys.excepthook = lambda *_: 1 / 0
                                ~~^~~
ZeroDivisionError: division by zero

Original exception was:
Traceback (most recent call last):
  File "main.py", line 3, in <module>
    raise KeyError
KeyError
"""


@pytest.mark.parametrize(
    ("code", "status", "stderr"),
    [
        ("sys.excepthook = lambda *_: 1 / 0", 1, HOOK_FAILED),
        ("sys.excepthook = lambda *_: sys.exit(5)", 5, ""),
        (
            "sys.excepthook = lambda kind, *_: print(kind.__name__, file=sys.stderr)",
            1,
            "KeyError\n",
        ),
        ("sys.stderr.close()", 1, ""),
        ("sys.stderr = None", 1, ""),
        ("sys.exit(type('A', (), {'__str__': lambda self: 1 / 0})())", 1, ""),
        ("sys.exit(2**70)", 255, ""),
        ("class A:\n  def flush(self): sys.exit(4)\nsys.stdout = A()\nsys.exit()", 120, ""),
    ],
)
def test_an_error_while_an_error_is_told_loses_nothing(box, code, status, stderr):
    result = box.run(f"import sys; print('kept', end='')\n{code}\nraise KeyError")
    assert (result.status, result.exit_code, result.stdout) == ("error", status, "kept")
    assert result.stderr == stderr


def test_a_stream_that_was_replaced_is_flushed_and_one_taken_apart_is_no_error(box):
    replaced = box.run("import io, sys; print('kept', end=''); sys.stdout = io.StringIO()")
    assert (replaced.status, replaced.stdout, replaced.stderr) == ("ok", "kept", "")
    code = "import io, sys; sys.stdout = io.TextIOWrapper(sys.stdout.detach()); print('a', end='')"
    apart = box.run(code)
    assert (apart.status, apart.stdout, apart.stderr) == ("ok", "a", "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_every_stream_is_flushed_at_the_end(box, stream):
    code = "import io, sys\nclass A:\n  def flush(self): 1 / 0\n"
    code += f"for name in 'stdout', 'stderr': getattr(sys, name).write(name)\nsys.{stream} = A()"
    result = box.run(code)
    assert (result.status, result.exit_code, result.stdout) == ("error", 120, "stdout")
    assert result.stderr.startswith("stderr")
