"""Data sets by name, read from the hub: OWNER/NAME, OWNER/NAME:FILE, OWNER/NAME@REVISION:FILE.

FILE may hold `*`. Files are streamed by range requests (huggingface_hub's HfFileSystem; HF_ENDPOINT
and HF_TOKEN apply), so that of parquet only the wanted columns travel: DeepMath-103K's solutions,
most of its 2 GB, stay where they are. Nothing is kept: a run that is to start without a network is
given files (`hf download`). The revision is looked up once a read: all files are of one commit.
"""

import contextlib
import dataclasses
import fnmatch
import re
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import httpx2
import huggingface_hub
from huggingface_hub import errors

from torl_jax.errors import UserError

NAME = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@:\s]+))?(?::(?P<file>[^\s:]+))?", re.ASCII
)
SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
LISTED = 20  # files named in a message


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file of a data set at one commit."""

    dataset: str
    commit: str
    file: str

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, to be read where it is; UserError where that fails, now or later."""
        with _explained(f"{self.dataset}:{self.file}", self.dataset):
            path = f"datasets/{self.dataset}@{self.commit}/{self.file}"
            # Read ahead, and megabytes of columns that nobody wants would come along.
            with huggingface_hub.HfFileSystem().open(path, "rb", cache_type="none") as file:
                yield cast(BinaryIO, file)


def is_name(text: str, suffixes: Collection[str]) -> bool:
    """Whether `text` has the form of a name; "folder/train.jsonl" is a path."""
    found = NAME.fullmatch(text)
    plain = found is not None and not found["revision"] and not found["file"]
    return found is not None and not (plain and PurePosixPath(text).suffix in suffixes)


def find(text: str, suffixes: Collection[str]) -> list[Remote]:
    """The files that a name means, in the order of their names.

    Without FILE they are the data set's only readable one, or the pieces of one (train-00000-of-
    00002.parquet ...). UserError for a data set, revision or file that is not there or may not be
    read, for a choice among several files, and where the network fails.
    """
    name = NAME.fullmatch(text)
    assert name
    dataset, revision, wanted = name["name"], name["revision"], name["file"]
    with _explained(text, dataset):
        info = huggingface_hub.HfApi().dataset_info(dataset, revision=revision)
    names = sorted(sibling.rfilename for sibling in info.siblings or ())
    readable = [file for file in names if PurePosixPath(file).suffix in suffixes]
    legal = f"its files: {_listed(readable)}"
    if not readable:
        raise UserError(f"{dataset} has no {' or '.join(suffixes)} file, but {_listed(names)}")
    if wanted:
        chosen = [file for file in readable if fnmatch.fnmatchcase(file, wanted)]
        if not chosen:
            raise UserError(f"{dataset} has no readable file {wanted!r}; {legal}")
    else:
        chosen = readable
        if len({SHARD.sub("", file) for file in readable}) > 1:
            at = f"@{revision}" if revision else ""
            raise UserError(
                f"{dataset} has several files: choose (data.path={dataset}{at}:FILE, which may "
                f"hold a *); {legal}"
            )
    assert info.sha
    return [Remote(dataset, info.sha, file) for file in chosen]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more if names else "(none)"


@contextlib.contextmanager
def _explained(text: str, dataset: str) -> Iterator[None]:
    """What goes wrong with the hub, as a UserError about `text`."""
    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"{text} is no file here and no name on the hub ({_line(error)})") from None
    # The library raises its own errors, the operating system's, and its HTTP client's.
    except (OSError, httpx2.HTTPError) as error:
        kinds = [type(cause) for cause in _causes(error)]
        if errors.GatedRepoError in kinds:
            raise UserError(
                f"{dataset} is gated: accept its terms on its page of the hub and set HF_TOKEN to "
                f"a token of that account, or fetch it elsewhere (hf download --repo-type dataset "
                f"{dataset} --local-dir DIR) and give its files"
            ) from None
        if errors.RevisionNotFoundError in kinds:
            raise UserError(
                f"{text}: {dataset} has no such revision; check what follows @"
            ) from None
        if errors.RepositoryNotFoundError in kinds:
            raise UserError(
                f"{text} is neither a file here nor a data set on the hub that this machine may "
                "read; check the path, or set HF_TOKEN if the data set is private"
            ) from None
        raise UserError(
            f"{text} is no file here and could not be read from the hub ({_line(error)}); try "
            f"again with a network, or fetch it elsewhere (hf download --repo-type dataset "
            f"{dataset} --local-dir DIR) and give its files"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _line(error: Exception) -> str:
    *_, reason = _causes(error)
    return " ".join(f"{type(reason).__name__}: {reason}".split())[:300]
