"""benchmarks/grading.py measures what it says: answers that are right, and wrong."""

import pytest

from benchmarks import grading
from benchmarks.report import ReportError

FILE = "data/math/math500_test.parquet"


def test_answers_are_of_the_kinds_that_are_told():
    kinds = grading.answers(["7", r"\frac{1}{2}", "(3,4)", "x"])
    assert kinds["spelled"] == [
        ("7", "7.0"), (r"\frac{1}{2}", r"\dfrac{1}{2}"),
        ("(3,4)", r"\left(3,4\right)"), ("x", "{x}"),
    ]  # fmt: skip
    assert [answer for _, answer in kinds["a slip"]] == ["8", r"\frac{1}{3}", "(3,5)", "2"]
    assert kinds["another's"] == [
        ("7", "x"),
        (r"\frac{1}{2}", "7"),
        ("(3,4)", r"\frac{1}{2}"),
        ("x", "(3,4)"),
    ]
    assert len(kinds["a group"]) == 16 and {gold for gold, _ in kinds["a group"]} == {"7"}


def test_a_table_is_printed(shared, capsys):
    arguments = ["--problems", str(shared / FILE), "--rounds", "1", "--count", "20"]
    assert grading.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| copied | 20 | 100.0% | 0.0% |" in printed and "| a group | 32 |" in printed


def test_a_file_that_is_not_there(tmp_path, capsys):
    with pytest.raises(ReportError, match="no such file"):
        grading.golds(tmp_path / "none.parquet", 1, 0)
    assert grading.main(["--problems", str(tmp_path / "none.parquet")]) == 2
    assert "--problems names a file" in capsys.readouterr().err
