"""Any bytes are rows, bad rows, or one clear line; never another exception."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from torl_jax.data.readers import READERS, Unreadable, Unusable
from torl_jax.data.sources import BadRow, read, scan
from torl_jax.episode import Problem
from torl_jax.errors import UserError


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def parquet(*rows: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def count(suffix: str, data: bytes) -> int | None:
    """How many rows the file has, counted from its text alone; None where that is not simple."""
    if suffix == ".jsonl":
        return sum(bool(line.strip()) for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    return None


# Bytes that readers stumble over, in any order.
MARKS = [b"question,answer\n", b'{"question":"q","answer":1}', b'"', b",", b"\n", b"\r\n", b"\r"]
MARKS += [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"[",
    b"]",
    b"{",
    b"}",
    b"a,b",
    b"  ",
    b'"",""',
    b"1e999",
]
TEXTS = st.lists(st.sampled_from(MARKS) | st.binary(max_size=3), max_size=12).map(b"".join)


@given(data=TEXTS | st.binary(max_size=60), suffix=st.sampled_from(list(READERS)))
@example(b'"question","answer"\n"1', ".csv")
@example(b"\xff,answer\n1,2\n", ".csv")
@example(b"question,question,answer\n1,2,3\n", ".csv")
@example(b"\n\nquestion,answer\n\n1\n1,2\n", ".csv")
@example(b'{"a":' * 400 + b"1" + b"}" * 400, ".jsonl")
@example(b'{"question": "q", "answer": ' + b"9" * 5000 + b"}", ".jsonl")
@example(b'[{"question": "\xff", "answer": 1}]', ".json")
@example(b'[{"question": "q", "answer": 1}', ".json")
@example(b"[" * 100_000, ".json")
@example(b'{"question": "\\ud800", "answer": 1, "\\ud800": 2}\n1', ".jsonl")
def test_any_bytes(tmp_path_factory, data: bytes, suffix: str) -> None:
    path = written(tmp_path_factory.getbasetemp() / f"any{suffix}", data)
    try:
        problems, bad = scan(path)
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).encode(errors="strict")
        return
    numbers = [b.row for b in bad]
    assert numbers == sorted(set(numbers)) and all(b.reason for b in bad)
    total = count(suffix, data)
    assert total is None or len(problems) + len(bad) == total
    for problem in problems:
        assert problem.key >= 0 and problem.question.strip() and problem.answer.strip()
        assert "\0" not in problem.id + problem.question + problem.answer


FIELD = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.lists(st.lists(FIELD, min_size=2, max_size=4), max_size=6), st.sampled_from(["\n", "\r\n"])
)
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory, records, end: str) -> None:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL, lineterminator=end)
    writer.writerow(["question", "answer", "note"])
    writer.writerows(records)
    table = READERS[".csv"](io.BytesIO(b"\xef\xbb\xbf" + sink.getvalue().encode()))
    found = dict(table.rows([]))
    assert table.columns == ["question", "answer", "note"] and len(found) == len(records)
    for number, record in enumerate(records):
        if len(record) == 3:
            assert found[number] == dict(zip(table.columns, record, strict=True))
        else:
            assert str(found[number]) == f"{len(record)} fields where the header has 3"


def test_bad_csv_rows_keep_their_numbers(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbfquestion,answer,id",
        b"1+1?,2,a",
        b"1+2?,3",
        b"",
        b'"two\r\nlines, one field",4,d',
        b"1+4?,,e",
        b"\xff?,6,f",
        b'"1+6?"x,7,g',
        b"1+7?,\0,h",
        b"1+8?,9,i",
        b'"never closed,10,j',
        b"swallowed,11,k",
    ]
    path = written(tmp_path / "a.csv", b"\r\n".join(lines))
    problems, bad = scan(path)
    assert [p.id for p in problems] == ["a/a", "a/d", "a/i"]
    assert problems[1].question == "two\r\nlines, one field"
    assert {b.row: b.reason for b in bad} == {
        1: "2 fields where the header has 3",
        4: "no answer",
        5: "question is not UTF-8",
        6: "not csv (',' expected after '\"', from line 9 of the file)",
        7: "answer holds a NUL",
        9: "not csv (unexpected end of data, from line 12 of the file)",
    }
    assert len(read(path, bad_rows="skip")) == 3
    with pytest.raises(UserError, match=r"6 of 9 rows are unusable \(row 1: 2 fields"):
        read(path)


def test_gigantic_fields_are_bad_rows_and_spoil_no_other(tmp_path: Path) -> None:
    huge = b"9" * 1_000_000
    before = csv.field_size_limit()
    csv_file = written(tmp_path / "a.csv", b"question,answer\nq," + huge + b"\nr,1\n")
    line = b'{"question": "q", "answer": '
    json_file = written(tmp_path / "a.jsonl", line + huge + b"}\n" + line + b"1}")
    for path in (csv_file, json_file):
        problems, bad = scan(path)
        assert [p.answer for p in problems] == ["1"]
        assert bad == [BadRow(0, "answer is 1000000 characters long, above 400000")]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_line_ends_and_byte_order_marks(tmp_path: Path, end, mark, suffix: str) -> None:
    rows = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(3)]
    lines = [json.dumps(row).encode() for row in rows]
    if suffix == ".csv":
        lines = [b"question,answer"] + [f"{r['question']},{r['answer']}".encode() for r in rows]
    found = read(written(tmp_path / f"a{suffix}", mark + end.join(lines)))
    assert found == [Problem(f"a/{n}", f"{n}+1?", str(n + 1), "a") for n in range(3)]
    if suffix == ".json":
        array = b"[" + (b"," + end).join(lines) + b"]"
        assert read(written(tmp_path / "a.json", mark + array)) == found


def test_columns_are_named_to_a_depth() -> None:
    table = READERS[".jsonl"](io.BytesIO(b'{"a": {"b": {"c": {"d": {"e": 1}}}}, "f": 2}'))
    assert table.columns == ["a", "a.b", "a.b.c", "a.b.c.d", "f"]


def test_a_json_array_spoils_only_its_bad_rows(tmp_path: Path) -> None:
    data = b'[{"question":"q","answer":1},{"question":"\xff","answer":2},3,{"question":"r"},[]]'
    problems, bad = scan(written(tmp_path / "a.json", data))
    assert [p.id for p in problems] == ["a/0"]
    assert bad == [
        BadRow(1, "question is not UTF-8"),
        BadRow(2, "a int, not an object"),
        BadRow(3, "no answer"),
        BadRow(4, "a list, not an object"),
    ]
    with pytest.raises(UserError, match="not readable as json"):
        scan(written(tmp_path / "b.json", b'[{"question": "q"'))


GOOD = parquet(*({"question": f"{n}+1?", "answer": str(n + 1), "id": n} for n in range(20)))


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8))
def test_damaged_parquet(tmp_path_factory, changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    path = written(tmp_path_factory.getbasetemp() / "damaged.parquet", bytes(data))
    try:
        problems, bad = scan(path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert len(problems) + len(bad) == pyarrow.parquet.ParquetFile(path).metadata.num_rows


def test_no_byte_of_a_parquet_file_can_lose_rows_in_silence(tmp_path: Path) -> None:
    """A page whose count of values is wrong is read as shorter, without an error."""
    lost, footer = 0, int.from_bytes(GOOD[-8:-4], "little")
    for place in range(len(GOOD) - footer - 8):
        data = bytearray(GOOD)
        data[place] = 0
        try:
            problems, bad = scan(written(tmp_path / "a.parquet", bytes(data)))
        except UserError as error:
            lost += "rows where it says 20" in str(error)
        else:
            assert len(problems) + len(bad) == 20, place
    assert lost


def test_parquet_cut_off_or_broken_inside_says_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not readable as parquet"):
        scan(written(tmp_path / "a.parquet", GOOD[:-30]))
    broken = bytearray(GOOD)
    broken[4:40] = b"\xff" * 36  # the first page
    with pytest.raises(UserError, match=r"not readable as parquet .*from row 0 on"):
        scan(written(tmp_path / "a.parquet", bytes(broken)))


def test_parquet_reads_the_wanted_columns_only() -> None:
    rows = [{"question": "q", "answer": "1", "solution": "x" * 9, "extra": {"id": 1, "long": "y"}}]
    table = READERS[".parquet"](io.BytesIO(parquet(*rows)))
    assert table.columns == [*rows[0], "extra.id", "extra.long"]
    ((number, row),) = table.rows(["question", "extra.id"])
    assert (number, row) == (0, {"question": "q", "extra": {"id": 1}})


def test_values_that_python_cannot_hold_spoil_their_own_row(tmp_path: Path) -> None:
    binary = pyarrow.array([b"fine", b"\xff\xfe", b"good"], pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(3, binary.buffers()[1], binary.buffers()[2])
    day = pyarrow.array([0, 1, 10**17], pyarrow.timestamp("ms"))
    table = pyarrow.table({"question": text, "answer": ["1", "2", "3"], "id": day})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    problems, bad = scan(tmp_path / "a.parquet")
    assert [p.question for p in problems] == ["fine"]
    assert bad[0] == BadRow(1, "not UTF-8") and bad[1].row == 2


def test_an_unreadable_header() -> None:
    for data, words in [
        (b"", "empty"),
        (b'"question,answer', "unexpected end of data"),
        (b"\xff,answer", "header is not UTF-8"),
        (b"a,b,a", "names 'a' twice"),
    ]:
        with pytest.raises(Unreadable, match=words):
            READERS[".csv"](io.BytesIO(data))


def test_blank_lines_count_but_are_no_rows() -> None:
    table = READERS[".csv"](io.BytesIO(b"\n\na,b\n\n1,2\n\n3\n"))
    (first, row), (second, bad) = table.rows([])
    assert (first, row) == (1, {"a": "1", "b": "2"})
    assert second == 3 and isinstance(bad, Unusable)
