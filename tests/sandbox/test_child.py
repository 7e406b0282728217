"""Before a program's first line: what does not fit is named."""

import pytest

from sandbox import Sandbox


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stdin": "x" * (20 << 20)}, "input and files does not fit into the memory of 32 MB"),
        (
            {"stdin": "\u00e9" * (1 << 20)},
            "standard input of 2097152 bytes does not fit into the sp",
        ),
        (
            {"files": {"a": b"x", "b": bytes(2 << 20)}},
            "file 'b' of 2097152 bytes does not fit into the space",
        ),
    ],
)
def test_what_does_not_fit_is_named(given, words):
    with Sandbox(
        workers=1, min_level="rlimits", preload=(), timeout=60, memory_mb=32, scratch_mb=1
    ) as box:
        result = box.run("print('ran')", **given)
        if "not fit into the sp" in words and box.level == "rlimits":
            pytest.skip("no quota here")
    assert (result.status, result.exit_code, result.stdout) == ("error", 1, "")
    assert result.stderr.startswith("not run: ") and words in result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
