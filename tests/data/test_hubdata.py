"""Data sets by name, read from a small server of our own by the real client, in processes."""

import contextlib
import http.server
import io
import json
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import ClassVar, NamedTuple

import pyarrow
import pyarrow.parquet
import pytest

from tests.serving import serving
from torl_jax.data import hubdata
from torl_jax.data.readers import READERS
from torl_jax.data.sources import check
from torl_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHA = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import json, sys
from torl_jax.data import sources
from torl_jax.errors import UserError
try:
    print(json.dumps([[p.id, p.answer, p.source] for p in sources.read(sys.argv[1])]))
except UserError as error:
    sys.exit(str(error))
"""


def parquet(first: int, count: int, ballast: int = 0) -> bytes:
    """Problems n+1?, with as many incompressible bytes beside each that nobody wants."""
    rows = range(first, first + count)
    columns = {"question": [f"{n}+1?" for n in rows], "final_answer": [str(n + 1) for n in rows]}
    if ballast:
        columns["r1_solution_1"] = [os.urandom(ballast // 2).hex() for _ in rows]
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, row_group_size=max(count // 2, 1))
    return sink.getvalue()


def jsonl(*answers: int) -> bytes:
    return b"".join(b'{"question": "%d?", "answer": %d}\n' % (n, n) for n in answers)


LARGE = "data/large.parquet"
SETS: dict[str, dict[str, bytes]] = {
    "one": {"README.md": b"# A set", "train.jsonl": jsonl(1, 2)},
    "several": {"train.jsonl": jsonl(1), "test.jsonl": jsonl(2), "data/more.json": b"[]"},
    "pieces": {f"data/train-0000{n}-of-00002.parquet": parquet(10 * n, 2) for n in (0, 1)},
    "large": {LARGE: parquet(0, 40, ballast=2**19)},
    "damaged": {"train.parquet": parquet(0, 2)[:-9]},
    "pictures": {"a.png": b"x"},
    "gated": {"train.jsonl": jsonl(1)},
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The routes of the hub that reading a data set uses, for the sets O/NAME of SETS."""

    protocol_version = "HTTP/1.1"
    paths: ClassVar[list[str]] = []
    sent: ClassVar[int] = 0  # bytes of files
    down: ClassVar[bool] = False  # files cannot be had

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.split("?")[0])
        self.paths.append(path)
        parts = path.strip("/").split("/")
        if parts[:3] == ["api", "datasets", "O"] and parts[3] in SETS:
            self.describe(SETS[parts[3]], parts[3], parts[4:])
        elif parts[:2] == ["datasets", "O"] and parts[3:5] == ["resolve", SHA]:
            if parts[2] == "gated":
                self.answer(403, error="GatedRepo")
            elif self.down:
                self.answer(410)  # a status that the client does not try again
            else:
                self.send(SETS[parts[2]]["/".join(parts[5:])])
        else:
            self.answer(401, error="RepoNotFound")

    def describe(self, files: dict[str, bytes], name: str, rest: list[str]) -> None:
        if rest[:1] == ["tree"]:
            folder = "/".join(rest[2:])
            tree = [
                {"type": "file", "path": file, "size": len(data), "oid": "0" * 40}
                for file, data in files.items()
                if file.rpartition("/")[0] == folder
            ]
            self.answer(200, json.dumps(tree).encode())
        elif rest[:1] == ["revision"] and rest[1:] not in (["v1"], ["refs", "convert", "x"], [SHA]):
            self.answer(404, error="RevisionNotFound")
        else:
            siblings = [{"rfilename": file} for file in files]
            answer = {"id": f"O/{name}", "sha": SHA, "siblings": siblings}
            self.answer(200, json.dumps(answer).encode())

    def send(self, data: bytes) -> None:
        asked = self.headers.get("Range")
        if not asked:
            return self.answer(200, data)
        first, last = asked.removeprefix("bytes=").split("-")
        last = min(int(last), len(data) - 1) if last else len(data) - 1
        piece = data[int(first) : last + 1]
        return self.answer(206, piece, place=f"bytes {first}-{last}/{len(data)}")

    def answer(self, status: int, data: bytes = b"", error: str = "", place: str = "") -> None:
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        if place:
            self.send_header("Content-Range", place)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        if "resolve" in self.path:
            type(self).sent += len(data)

    def log_message(self, format: str, *args) -> None:
        pass


class Done(NamedTuple):
    """A finished process."""

    code: int
    out: str
    error: str


@pytest.fixture(scope="module")
def server():
    with serving(Hub) as listening:
        yield listening


@pytest.fixture
def read(server, tmp_path):
    """read("O/one", NAME="value"): what a process in an empty folder makes of it."""
    Hub.paths, Hub.sent, Hub.down = [], 0, False

    def run(path: str, **changes: str) -> Done:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        environment = clean | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, path],
            cwd=tmp_path, env=environment | changes, text=True, capture_output=True, timeout=100,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def problems(done: Done) -> list[list[str]]:
    assert done.code == 0, done.error
    return json.loads(done.out)


def refused(done: Done) -> str:
    """The one line of the UserError (the client may have logged its retries before it)."""
    assert done.code == 1 and "Traceback" not in done.error, done.error
    return done.error.strip().splitlines()[-1]


def test_the_only_file_of_a_set(read):
    assert problems(read("O/one")) == [["one/0", "1", "one"], ["one/1", "2", "one"]]


@pytest.mark.parametrize("at", ["@v1", "@refs/convert/x", f"@{SHA}"])
def test_a_revision_is_asked_for_by_its_name(read, at: str):
    assert len(problems(read(f"O/one{at}:train.jsonl"))) == 2
    assert f"/api/datasets/O/one/revision/{at[1:]}" in Hub.paths
    assert f"/datasets/O/one/resolve/{SHA}/train.jsonl" in Hub.paths, "one commit for all files"


def test_the_pieces_of_one_file_are_one(read):
    found = [["pieces/train-00000-of-00002/0", "1"], ["pieces/train-00000-of-00002/1", "2"]]
    found += [["pieces/train-00001-of-00002/0", "11"], ["pieces/train-00001-of-00002/1", "12"]]
    assert [row[:2] for row in problems(read("O/pieces"))] == found
    assert [row[:2] for row in problems(read("O/pieces:data/train-*"))] == found


def test_names_and_files_beside_each_other(read, tmp_path):
    (tmp_path / "mine.jsonl").write_bytes(jsonl(7))
    found = problems(read("mine.jsonl, O/several:test.jsonl,O/one"))
    assert [row[0] for row in found] == ["mine/0", "several/0", "one/0", "one/1"]


def test_only_wanted_columns_travel(read):
    found = problems(read("O/large"))
    assert [row[1] for row in found] == [str(n + 1) for n in range(40)]
    whole = len(SETS["large"][LARGE])
    assert whole > 19 * 2**20 and Hub.sent < whole // 100, Hub.sent
    assert sum("resolve" in path for path in Hub.paths) < 20


def test_a_local_file_wins(read, tmp_path):
    (tmp_path / "O").mkdir()
    (tmp_path / "O" / "one").write_text("")
    assert "of no known kind" in refused(read("O/one"))
    (tmp_path / "O" / "several:train.jsonl").write_bytes(jsonl(8))
    assert problems(read("O/several:train.jsonl"))[0][1] == "8"
    assert not Hub.paths


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (
            "O/several",
            {},
            ["several files: choose (data.path=O/several:FILE", "e.json, test"],
        ),
        ("O/several:dev.jsonl", {}, ["no readable file 'dev.jsonl'", "its files: data/more.json"]),
        ("O/pictures", {}, ["O/pictures has no .parquet or", "but a.png"]),
        ("O/absent", {}, ["O/absent is neither a file here nor a data set", "HF_TOKEN"]),
        ("O/gated", {}, ["O/gated is gated", "HF_TOKEN", "--repo-type dataset"]),
        ("O/one@v2", {}, ["O/one@v2: O/one has no such revision"]),
        ("O/damaged", {}, ["O/damaged:train.parquet is not readable as parquet"]),
        ("O/one", {"HF_HUB_OFFLINE": "1"}, ["O/one", "OfflineModeIsEnabled", "--local-dir"]),
        ("O/one", {"HF_ENDPOINT": "http://127.0.0.1:9"}, ["O/one", "ConnectError", "--local-dir"]),
        ("O/one..", {}, ["O/one..", "no name"]),
    ],
)
def test_what_cannot_be_read_says_how_to_mend_it(read, name, changes, words):
    message = refused(read(name, **changes))
    assert all(word in message for word in words), message


def test_a_file_that_cannot_be_had(read):
    Hub.down = True
    message = refused(read("O/one"))
    assert "O/one:train.jsonl" in message and "410" in message


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("O/N", True),
        ("O/N.v1", True),
        ("O/N:a/b.json", True),
        ("O/N@main", True),
        ("O/N@refs/x:a.csv", True),
        ("folder/train.jsonl", False),
        ("O/N.parquet@main", True),
        ("/O/N", False),
        ("./N/a.csv", False),
        ("a/b/c", False),
        ("train.csv", False),
        ("O/N:", False),
        ("O/N@", False),
        ("O/Ü", False),
        ("", False),
    ],
)
def test_what_has_the_form_of_a_name(text: str, is_one: bool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hubdata.is_name(text, READERS) is is_one
    with contextlib.nullcontext() if is_one else pytest.raises(UserError, match="does not exist"):
        check(text)
