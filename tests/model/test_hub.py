"""Models by name, fetched from a small server of our own by the real client, in processes."""

import dataclasses
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from tests.serving import serving
from torl_jax.errors import UserError
from torl_jax.model import hub

ROOT = Path(__file__).resolve().parents[2]
SHA = "0123456789abcdef0123456789abcdef01234567"
PIECE = 10 * 2**20  # what the client reads before it writes
WEIGHTS = bytes(range(256)) * (25 * 2**20 // 256)
CUT = 15 * 2**20
LARGE = "model-00001-of-00002.safetensors"
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b'{"eos_token": "x"}',
    LARGE: WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[:1000],
    "model.safetensors.index.json": b"{}",
    # None of these is wanted.
    "pytorch_model.bin": WEIGHTS,
    "README.md": b"# A model",
    "original/consolidated.safetensors": WEIGHTS,
}
WANTED = sorted(list(FILES)[:6])
PROGRAM = """
import sys
from torl_jax.errors import UserError
from torl_jax.model import hub
try:
    print(hub.resolve(sys.argv[1]))
except UserError as error:
    sys.exit(str(error))
"""


@dataclasses.dataclass
class Request:
    method: str
    path: str
    start: int | None  # of the Range that was asked for


class Hub(http.server.BaseHTTPRequestHandler):
    """The routes of the hub that fetching a model uses, for one model O/N, and O/gated."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[Request]] = []
    cut: ClassVar[bool] = False  # the next body of the large file breaks off at CUT
    stall: ClassVar[threading.Event | None] = None  # there it waits for this, and breaks off
    down: ClassVar[bool] = False  # it cannot be had at all

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else None
        self.requests.append(Request(self.command, self.path, start))
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[-2:] == ["revision", "nowhere"]:
            self.refuse(404, "RevisionNotFound")
        elif "gated" in parts:
            self.refuse(403, "GatedRepo")
        elif "private" in parts:
            self.refuse(401, "RepoNotFound")
        elif "broken" in parts:
            self.refuse(500, "")
        elif parts[:4] == ["api", "models", "O", "N"] and "tree" in parts:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": self.etag(data)}
                for name, data in FILES.items()
            ]
            self.send(json.dumps(tree).encode(), body)
        elif parts[:4] == ["api", "models", "O", "N"]:
            self.send(json.dumps({"id": "O/N", "sha": SHA, "siblings": []}).encode(), body)
        elif body and self.down and LARGE in parts:
            self.refuse(503, "")
        elif parts[:4] == ["O", "N", "resolve", SHA] and "/".join(parts[4:]) in FILES:
            self.send(FILES["/".join(parts[4:])], body, start)
        else:
            self.refuse(404, "RepoNotFound")

    @staticmethod
    def etag(data: bytes) -> str:
        return hashlib.sha1(data).hexdigest()

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, data: bytes, body: bool, start: int | None = None) -> None:
        rest = data[start or 0 :]
        self.send_response(200 if start is None else 206)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{self.etag(data)}"')
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body and len(rest) > CUT and (self.cut or self.stall):
            self.wfile.write(rest[:CUT])
            self.wfile.flush()
            if self.stall:
                self.stall.wait(60)
            type(self).cut, self.close_connection = False, True
        elif body:
            self.wfile.write(rest)

    def log_message(self, format: str, *args) -> None:
        pass


@pytest.fixture
def server():
    """The class that answers; its `requests` are those of this test."""
    Hub.requests, Hub.cut, Hub.stall, Hub.down = [], False, None, False
    with serving(Hub) as listening:
        yield listening


@pytest.fixture
def start(server, tmp_path):
    """start("O/N", NAME="value") -> a process that resolves it, with that in its environment."""

    def run(name: str, **changes: str) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        environment = clean | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, name],
            cwd=ROOT, env=environment | changes, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return run


class Done(NamedTuple):
    """A finished process."""

    code: int
    out: str
    error: str


@pytest.fixture
def fetch(start):
    """As `start`, when it is done."""

    def run(name: str, **changes: str) -> Done:
        with start(name, **changes) as process:
            out, error = process.communicate(timeout=60)
            return Done(process.returncode, out, error)

    return run


def folder(done: Done) -> Path:
    assert done.code == 0, done.error
    return Path(done.out.strip().splitlines()[-1])


def refused(done: Done) -> str:
    """The one line of the UserError (the client may have logged its retries before it)."""
    assert done.code == 1 and "Traceback" not in done.error, done.error
    return done.error.strip().splitlines()[-1]


def starts() -> list[int]:
    """Where the requests for the rest of a file began."""
    return [request.start for request in Hub.requests if request.start]


def test_what_a_decoder_needs_is_fetched_once(fetch):
    found = folder(fetch("O/N"))
    assert sorted(p.relative_to(found).as_posix() for p in found.rglob("*")) == WANTED
    assert all((found / name).read_bytes() == FILES[name] for name in WANTED)
    read = [r.path for r in Hub.requests if r.method == "GET" and "/resolve/" in r.path]
    assert len(read) == len(WANTED)
    Hub.requests = []
    assert folder(fetch("O/N")) == found
    assert not [r for r in Hub.requests if "/resolve/" in r.path]


def test_the_progress_is_shown(fetch):
    assert "Fetching 6 files: 100%" in fetch("O/N").error


def test_a_revision_is_asked_for_by_its_name(fetch):
    folder(fetch("O/N@v1.0"))
    assert "/api/models/O/N/revision/v1.0" in [r.path.split("?")[0] for r in Hub.requests]


def test_a_cut_connection_goes_on_where_it_broke(fetch):
    Hub.cut = True
    found = folder(fetch("O/N"))
    assert (found / LARGE).read_bytes() == WEIGHTS
    assert starts() == [PIECE]


def test_what_a_killed_download_has_whole_is_not_fetched_again(start, fetch, tmp_path):
    Hub.stall = threading.Event()
    small = set(WANTED) - {LARGE}
    with start("O/N") as process:
        while not small <= {p.name for p in tmp_path.rglob("*")}:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    Hub.stall.set()
    Hub.stall, Hub.requests = None, []
    found = folder(fetch("O/N"))
    assert (found / LARGE).read_bytes() == WEIGHTS
    assert {r.path.rsplit("/")[-1] for r in Hub.requests if "/resolve/" in r.path} == {LARGE}


def test_a_file_that_cannot_be_fetched(fetch):
    Hub.down = True
    message = refused(fetch("O/N"))
    assert "O/N" in message and "503" in message and "what is missing" in message


def test_without_a_network_the_cache_serves(fetch):
    found = folder(fetch("O/N"))
    assert folder(fetch("O/N", HF_HUB_OFFLINE="1")) == found
    assert folder(fetch("O/N", HF_ENDPOINT="http://127.0.0.1:9")) == found


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("O/absent", {}, ["O/absent", "neither a folder here nor a model", "HF_TOKEN"]),
        ("O/private", {}, ["O/private", "neither a folder here nor a model", "HF_TOKEN"]),
        ("O/gated", {}, ["O/gated is gated", "HF_TOKEN"]),
        ("O/N@nowhere", {}, ["O/N", "no revision 'nowhere'"]),
        ("O/broken", {}, ["O/broken", "500", "--local-dir"]),
        ("O/N", {"HF_HUB_OFFLINE": "1"}, ["O/N", "HF_HUB_OFFLINE", "--local-dir"]),
        ("O/N", {"HF_ENDPOINT": "http://127.0.0.1:9"}, ["O/N", "ConnectError", "--local-dir"]),
        ("O/N..", {}, ["O/N..", "no name"]),
    ],
)
def test_what_cannot_be_fetched_says_how_to_mend_it(fetch, name, changes, words):
    message = refused(fetch(name, **changes))
    assert all(word in message for word in words), message


def test_a_folder_is_itself(tmp_path, monkeypatch):
    (tmp_path / "O" / "N").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not hub.is_name("O/N") and hub.resolve("O/N") == Path("O/N")


@pytest.mark.parametrize("path", ["", "name", "a/b/c", "/a/b", "a/b@", "a/b@c@d", "a b/c", "./a/b"])
def test_what_is_neither_a_folder_nor_a_name(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not hub.is_name(path)
    if path:  # an empty one is the current folder
        with pytest.raises(UserError, match="OWNER/NAME@REVISION"):
            hub.resolve(path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model").write_text("x")
    with pytest.raises(UserError, match="is no folder"):
        hub.resolve(tmp_path / "model")
