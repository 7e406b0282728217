"""Files become problems, or one clear line that says which rows do not."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from torl_jax.data.schemas import Schema
from torl_jax.data.sources import BadRow, local, read, scan
from torl_jax.episode import Problem
from torl_jax.errors import UserError


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def verl(question: Any = "1+1?", answer: Any = "2", **extra: Any) -> dict[str, Any]:
    prompt = [{"role": "system", "content": "be brief"}, {"role": "user", "content": question}]
    return {
        "data_source": "sums",
        "prompt": prompt,
        "reward_model": {"ground_truth": answer, "stype": "rule"},
        "extra_info": extra or {"id": "x", "split": "train"},
    }


# file, rows that make problems, first id, first answer
REAL = [
    ("math/math_level3to5_train.parquet", 8521, "simplelr_math_35/train/0", "118"),
    (
        "math/math500_test.parquet",
        500,
        "simplelr_math_35/test/0",
        "\\left( 3, \\frac{\\pi}{2} \\right)",
    ),
    ("torl/test.parquet", 374, "aime24/test/57e97007-1081-404f-bd5c-8c9fac363c51", "204"),
    ("math/aime24_test.jsonl", 30, "aime24_test/60", "204"),
    ("math/amc23_test.jsonl", 40, "amc23_test/0", "27"),
]


@pytest.mark.parametrize(("file", "count", "first", "answer"), REAL)
def test_published_files(shared: Path, file: str, count: int, first: str, answer: str) -> None:
    problems, _ = scan(shared / "data" / file)
    assert len(problems) == count
    assert (problems[0].id, problems[0].answer) == (first, answer)
    assert len({p.id for p in problems}) == count
    assert all("Please reason step by step" not in p.question for p in problems)
    assert scan(shared / "data" / file)[0] == problems, "ids are stable"


def test_two_rows_of_the_math_set_have_no_answer(shared: Path, caplog) -> None:
    path = shared / "data" / "math" / "math_level3to5_train.parquet"
    with pytest.raises(UserError, match=r"2 of 8523 rows .*row 5054: no answer; row 5158"):
        read(path)
    with caplog.at_level(logging.WARNING):
        assert len(read(path, bad_rows="skip")) == 8521
    assert "row 5054" in caplog.text and "skipped" in caplog.text


def test_parquet_and_jsonl_give_the_same_problems(tmp_path: Path) -> None:
    rows = [verl(f"{n}+1?", str(n + 1), index=n, split="test") for n in range(3)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "sums.parquet")
    wanted = [
        Problem(f"sums/test/{n}", f"{n}+1?", str(n + 1), "sums", "be brief") for n in range(3)
    ]
    assert read(tmp_path / "sums.parquet") == wanted
    assert read(jsonl(tmp_path / "sums.jsonl", *rows), "verl") == wanted


def test_flat_columns_and_row_numbers_as_ids(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", {"problem": "p", "answer": 2.5}, {"problem": "q", "answer": 7}
    )
    assert read(path) == [Problem("a/0", "p", "2.5", "a"), Problem("a/1", "q", "7", "a")]
    both = jsonl(tmp_path / "b.jsonl", {"problem": "p", "question": "q", "answer": "1"})
    assert read(both)[0].question == "q"
    assert read(both, "problem")[0].question == "p"


def test_a_declared_schema(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"q": {"en": "why?"}, "a": "so", "name": "n1"})
    schema = Schema(question="q.en", answer="a", ids=("name",))
    assert read(path, schema) == [Problem("a/n1", "why?", "so", "a")]


def test_repeated_ids_are_told_apart(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", verl(), verl(), verl(id="y"))
    assert [p.id for p in read(path)] == ["sums/train/x", "sums/train/x#2", "sums/y"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (verl(answer=None), "no answer"),
        (verl(answer=""), "no answer"),
        (verl(answer=" \n"), "answer is blank"),
        (verl(answer=True), "answer is a bool"),
        (verl(answer=float("nan")), "answer is a float"),
        (verl(answer=["2", "3"]), "answer is a list"),
        (verl(question=""), "no question"),
        (verl(question=None), "no question"),
        (verl(question="half \ud800"), "half a character"),
        (verl() | {"prompt": []}, "0 user messages"),
        (verl() | {"prompt": [{"role": "user", "content": "a"}] * 2}, "2 user messages"),
        (verl() | {"prompt": ["a"]}, "list of something else"),
        (verl() | {"reward_model": None}, "no answer"),
        ("[1]", "a list, not an object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_row_is_listed_and_fatal_or_skipped(tmp_path: Path, row, reason: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", verl(id="good"), row)
    _, bad = scan(path)
    assert [b.row for b in bad] == [1] and reason in bad[0].reason
    assert [p.id for p in read(path, bad_rows="skip")] == ["sums/good"]
    with pytest.raises(UserError, match="1 of 2 rows are unusable") as caught:
        read(path)
    assert reason in str(caught.value)


def test_blank_lines_are_no_rows_but_count(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", "", verl(), "  ", verl(answer=""))
    assert scan(path)[1] == [BadRow(3, "no answer")]


def test_bytes_that_are_no_text_spoil_one_row(tmp_path: Path) -> None:
    lines = [json.dumps(verl(id=n)).encode() for n in "abc"]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([lines[0], b'{"prompt": "\xff"}', lines[2]]))
    assert scan(path)[1] == [BadRow(1, "not UTF-8")]
    binary = pyarrow.array([b"fine", b"\xff\xfe", b"good"], pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(3, binary.buffers()[1], binary.buffers()[2])
    table = pyarrow.table({"question": text, "answer": ["1", "2", "3"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    problems, bad = scan(tmp_path / "a.parquet")
    assert [p.question for p in problems] == ["fine", "good"] and bad == [BadRow(1, "not UTF-8")]


def test_many_bad_rows_are_counted_beyond_the_list(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[verl(answer="")] * 30)
    with pytest.raises(UserError, match=r"30 of 30 rows .* and 10 more"):
        read(path)
    with pytest.raises(UserError, match="no problem is left"):
        read(path, bad_rows="skip")


def test_missing_columns_name_what_was_found_and_needed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "a", "label": {"id": 1}})
    with pytest.raises(UserError, match=r"text, label, label\.id, but .*question \+ answer"):
        read(path)
    with pytest.raises(UserError, match=r"prompt \+ reward_model\.ground_truth is needed"):
        read(path, "verl")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "none.parquet")
    (tmp_path / "a.txt").write_text("a,b\n")
    with pytest.raises(UserError, match=r"a\.txt is of no known kind: give \.parquet or \.jsonl"):
        read(tmp_path / "a.txt")
    with pytest.raises(UserError, match="is no file: give"):
        read(tmp_path)
    (tmp_path / "a.parquet").write_text("not parquet")
    with pytest.raises(UserError, match="not readable as parquet"):
        read(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(UserError, match=r"columns \(none\)"):
        read(tmp_path / "a.jsonl")


def test_wrong_choices_are_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", verl())
    wrong: Any = "drop"
    with pytest.raises(UserError, match="'verl2' is not known: give auto or verl"):
        read(path, "verl2")
    with pytest.raises(UserError, match="'error' or 'skip'"):
        read(path, bad_rows=wrong)


def test_several_files_are_one_list_with_ids_of_its_own(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", verl(), {"question": "not verl", "answer": "1"}, verl())
    (tmp_path / "b.csv").write_text("problem,answer\n1+2?,3\n")
    again = jsonl(tmp_path / "c.jsonl", verl(), verl(answer=""))
    problems, bad = scan(f"{first}, {tmp_path / 'b.csv'},{again}")
    assert [p.id for p in problems] == ["sums/train/x", "sums/train/x#2", "b/0", "sums/train/x#3"]
    assert bad == [BadRow(1, "no question", str(first)), BadRow(1, "no answer", str(again))]
    with pytest.raises(UserError, match=r"2 of 6 rows .*a\.jsonl row 1: no .*c\.jsonl row 1: no"):
        read(f"{first},{tmp_path / 'b.csv'},{again}")


def test_the_file_that_misbehaves_is_named(tmp_path: Path) -> None:
    good = jsonl(tmp_path / "a.jsonl", verl())
    odd = jsonl(tmp_path / "b.jsonl", {"text": "a"})
    with pytest.raises(UserError, match=r"b\.jsonl has the columns text, but"):
        read(f"{good},{odd}")
    with pytest.raises(UserError, match=r"data file .*c\.jsonl does not exist"):
        read(f"{good},{tmp_path / 'c.jsonl'}")
    with pytest.raises(UserError, match="data file  does not exist"):
        read(f"{good},")


def test_a_file_with_a_comma_in_its_name_is_one_file(tmp_path: Path) -> None:
    assert len(read(jsonl(tmp_path / "a,b.jsonl", verl()))) == 1


def test_many_files_are_no_name_too_long(tmp_path: Path) -> None:
    paths = [str(jsonl(tmp_path / f"{n}.jsonl", verl(id=n))) for n in range(40)]
    paths[1:] = [Path(path).name for path in paths[1:]]
    with pytest.raises(UserError, match=r"data file 1\.jsonl does not exist"):
        read(",".join(paths))
    assert len(read(",".join(str(tmp_path / path) for path in paths))) == 40


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", verl())
    gone = local(str(path))
    path.unlink()
    with pytest.raises(UserError, match=r"a\.jsonl cannot be read \(No such file"), gone.open():
        pass
