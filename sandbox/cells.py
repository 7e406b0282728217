"""What a notebook needs besides its cells: values shown, files put in and fetched.

A session knows only code and streams, so these are code too: it runs where the cells
run, and a cell that tampers with it deceives nobody but itself.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping

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
