"""benchmarks/rewards.py measures what it says: outputs that are right, flawed, and long."""

import pytest

from benchmarks import rewards
from benchmarks.report import ReportError
from torl_jax.rewards.toolrl import score


def test_flaws_are_flaws_and_length_is_none(shared):
    variant = rewards.VARIANTS["default"]
    kinds = rewards.outputs(rewards.golds(shared / "data/toolrl/rlla_test.parquet"))
    assert [len(pairs) for pairs in kinds.values()] == [80, 80, 80]
    for kind, pairs in kinds.items():
        best = [score(*pair, variant=variant, step=1).total in (1, 4) for pair in pairs]
        # What a response says is not compared.
        assert sum(best) == 80 if kind != "flawed" else sum(best) < 5
    assert min(len(output) for output, _ in kinds["long"]) > 2000


def test_a_table_is_printed(shared, capsys):
    rows = shared / "data/toolrl/rlla_test.parquet"
    assert rewards.main(["--rows", str(rows), "--rounds", "1", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| perfect |") == printed.count("| long |") == len(rewards.VARIANTS)


def test_rows_that_are_not_there(tmp_path, capsys):
    with pytest.raises(ReportError, match="no such file"):
        rewards.golds(tmp_path / "none.parquet")
    assert rewards.main(["--rows", str(tmp_path / "none.parquet")]) == 2
    assert "--rows names the 80 test rows" in capsys.readouterr().err
