"""A notebook: its cells, the values that they show, files put in and fetched.

A session knows only code and streams, so these are code too: it runs where the cells
run, and a cell that tampers with it deceives nobody but itself.
"""

import asyncio
import base64
import binascii
import json
import re
import secrets
from collections.abc import Callable, Mapping

from sandbox import fusion
from sandbox.messages import FrameError
from sandbox.orders import BadRequest, Body, Notebook, short
from sandbox.results import Result, SandboxError
from sandbox.session import Session

FILES_SECONDS = 10.0  # for putting all files in, and for fetching all
MOST_BYTES = 16 << 20  # what the cells print and the files that are fetched, together
CHUNK = 36 << 10  # bytes of a file in one answer; their base64 stays below 64 KiB

START = """\
def _(mark, files):
    import base64, builtins, json, os, sys

    def show(value):
        if value is not None:
            builtins._ = None
            sys.stdout.write(mark + json.dumps(repr(value)) + mark)
            builtins._ = value

    for name, text in files.items():
        if os.path.dirname(name):
            os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(name, "wb") as file:
            file.write(base64.b64decode(text))
    sys.displayhook = show


_({mark!r}, {files!r})
del _
"""

FETCH = """\
def _(name):
    import base64, os, sys

    path = os.path.join(os.environ["HOME"], name)
    if os.path.isfile(path):
        with open(path, "rb") as file:
            file.seek({offset})
            sys.__stdout__.write("+" + base64.b64encode(file.read({size})).decode())


_({name!r})
"""


async def run(session: Session, code: str, timeout: float) -> Result:
    """One cell. Raises SandboxError."""
    try:
        future = session.submit(code, timeout)
    except FrameError as error:
        raise SandboxError(str(error)) from error
    return await asyncio.wrap_future(future)


async def run_all(session: Session, asked: Notebook, ran: Callable[[Result], None]) -> Body:
    """The answer to a notebook; `ran` is told of each cell. Raises BadRequest, SandboxError."""
    mark = secrets.token_hex(16)
    begun = await run(session, start(mark, asked.files), FILES_SECONDS)
    if begun.status != "ok":
        last = begun.stderr.rstrip().rpartition("\n")[2]
        raise BadRequest(f"files could not be put in place: {begun.status} {last}")
    results: list[Result] = []
    replies: list[Body] = []
    room = MOST_BYTES
    clock = asyncio.get_running_loop().time
    ends = clock() + asked.total_timeout
    for code in asked.cells:
        if (left := ends - clock()) <= 0:
            break
        result = await run(session, code, min(left, asked.cell_timeout or left))
        ran(result)
        room -= len(result.stdout) + len(result.stderr)
        if room < 0:
            raise BadRequest(f"cells have printed more than {MOST_BYTES} characters")
        stdout, values = shown(result.stdout, mark)
        results.append(result)
        replies.append(fusion.cell_reply(result, values, stdout))
    answer = fusion.notebook_reply(replies, results, len(results) < len(asked.cells))
    try:
        async with asyncio.timeout(FILES_SECONDS):
            answer["files"] = await _fetch_all(session, asked.fetch, room)
    except TimeoutError:
        raise BadRequest(f"files were not fetched within {FILES_SECONDS:g} s") from None
    return answer


async def _fetch_all(session: Session, places: Mapping[str, str], room: int) -> dict[str, str]:
    """The session's files, those that are there, base64."""
    files = {}
    for name, place in places.items():
        data = await _fetch(session, place, room)
        if data is not None:
            room -= len(data)
            files[name] = fusion.base64_text(data)
    return files


async def _fetch(session: Session, place: str, room: int) -> bytes | None:
    data = bytearray()
    while True:
        result = await run(session, fetch(place, len(data)), FILES_SECONDS)
        if result.truncated_bytes:
            raise SandboxError("output_kb is too small to fetch files, expected at least 64")
        chunk = fetched(result.stdout)
        if chunk is None:
            return None
        data += chunk
        if len(data) > room:
            words = f"cells and files have more than {MOST_BYTES} bytes together"
            raise BadRequest(f"file {short(place)} is too long: {words}")
        if len(chunk) < CHUNK:
            return bytes(data)


def start(mark: str, files: Mapping[str, bytes]) -> str:
    """The cell before the first: writes `files`, sets `mark` around the values shown."""
    texts = {name: base64.b64encode(data).decode() for name, data in files.items()}
    return START.format(mark=mark, files=texts)


def shown(stdout: str, mark: str) -> tuple[str, list[str]]:
    """What a cell printed, and the values that it showed."""
    values: list[str] = []

    def take(match: re.Match[str]) -> str:
        try:
            value = json.loads(match[1])
        except ValueError:
            return match[1]  # cut short as any long output is: it stays where it was
        values.append(str(value))
        return ""

    parts = re.escape(mark)
    text = re.sub(f"{parts}(.*?){parts}", take, stdout, flags=re.DOTALL)
    return text.replace(mark, ""), values


def fetch(name: str, offset: int) -> str:
    """The cell that prints up to CHUNK bytes of a file, from `offset` on."""
    return FETCH.format(name=name, offset=offset, size=CHUNK)


def fetched(stdout: str) -> bytes | None:
    """What such a cell has printed; None where there is no such file."""
    if not stdout.startswith("+"):
        return None
    try:
        return base64.b64decode(stdout[1:], validate=True)
    except binascii.Error:
        return None
