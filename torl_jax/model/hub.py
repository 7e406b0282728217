"""A model by name: "OWNER/NAME" or "OWNER/NAME@REVISION" becomes a local folder.

A folder that exists is always itself. Anything else of that form is fetched from the
model hub into this machine's cache (huggingface_hub's: HF_HOME, HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE apply), with its progress bar. A connection that breaks is taken up where it
broke; after the process died, files that are whole are not fetched again, the one under
way is. On several hosts each fetches into its own cache.
"""

import functools
import os
import re
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import errors

from torl_jax.errors import UserError

NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?")
# What a decoder needs: no optimiser states, no copies for other frameworks.
WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "*.safetensors",
    "*.safetensors.index.json",
)
# Some models repeat their weights in folders, in layouts of their own.
UNWANTED = ("*/*",)


def is_name(path: str | os.PathLike[str]) -> bool:
    """Whether `path` would be fetched: no folder here, and of the form of a name."""
    return not Path(path).exists() and NAME.fullmatch(os.fspath(path)) is not None


def resolve(path: str | os.PathLike[str]) -> Path:
    """The local folder of `path`, fetched if it is a name.

    UserError for neither a folder nor a name, for a model or revision that does not exist or
    may not be read, and where the network fails. One process asks once for each name, so
    that its config, weights and tokenizer are of one revision.
    """
    if Path(path).is_dir():
        return Path(path)
    if not is_name(path):
        found = "is no folder" if Path(path).exists() else "does not exist"
        raise UserError(
            f"{path} {found}; give a model folder in Hugging Face layout, or a name on the model "
            "hub (OWNER/NAME or OWNER/NAME@REVISION)"
        )
    return _fetch(os.fspath(path))


@functools.cache
def _fetch(path: str) -> Path:
    found = NAME.fullmatch(path)
    assert found
    name, revision = found["name"], found["revision"]
    elsewhere = f"or fetch it elsewhere (hf download {name} --local-dir DIR) and give that folder"
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
    except errors.GatedRepoError:
        raise UserError(
            f"{name} is gated: accept its terms on its page of the model hub and set HF_TOKEN to "
            f"a token of that account, {elsewhere}"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} has no revision {revision!r}; check what follows the @") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{path} is neither a folder here nor a model on the hub that this machine may read; "
            "check the path, or set HF_TOKEN if the model is private"
        ) from None
    except errors.HFValidationError as error:
        raise UserError(f"{path} is no folder and no name on the hub ({_line(error)})") from None
    # The library raises its own errors, the operating system's, and its HTTP client's.
    except (OSError, httpx2.HTTPError) as error:
        raise UserError(
            f"{path} is no folder here and could not be fetched ({_line(error)}); with a network "
            f"the same command fetches what is missing; {elsewhere}"
        ) from error
    return Path(folder)


def _line(error: Exception) -> str:
    """The error's cause, or itself, in one line."""
    reason = error.__cause__ or error
    return " ".join(f"{type(reason).__name__}: {reason}".split())[:300]
