"""Text over token ids: a byte-exact tokenizer and exact stop finding.

The sampler deals in ids, a protocol in strings; they do not line up. In
Qwen2.5's vocabulary a fence is one id but a fence and a newline are two others,
so a stop string may begin inside one token and end inside another, in another
decode segment. A byte-level vocabulary makes the question decidable: every id
spells fixed bytes, a text is the concatenation of its ids' bytes, and a stop
string is found there by plain substring search, whatever the tokens' borders.

    stop reached  <=>  bytes(stop) occurs in bytes(t_1) + bytes(t_2) + ... + bytes(t_n)
    tokens kept    =   the least such n: the stop's last token is kept whole
"""

import dataclasses
import itertools
import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from torl_jax.errors import UserError


class Tokenizer:
    """A byte-level BPE tokenizer in Hugging Face layout (such as Qwen2.5's).

    `folder` holds `tokenizer.json` and at least one file that names the
    end-of-text token. The first of these that does so wins, and only it counts:

    1. `generation_config.json`, `eos_token_id` (an id or a list of ids);
    2. `config.json`, `eos_token_id` (likewise);
    3. `tokenizer_config.json`, `eos_token` (the token's text).

    `end_id` is the one of these that a text to learn from ends with: `eos_token` where it is
    among them (Llama 3's end of a turn is the last of three), the first where it is not.

    Raises UserError for a missing folder or file, a tokenizer that is not
    byte-level, or no usable end-of-text token.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(
                f"tokenizer folder {self.folder} does not exist: "
                "give a folder with tokenizer.json and tokenizer_config.json"
            )
        self._bpe = _load(self.folder / "tokenizer.json")
        self._lock = threading.Lock()
        self._bytes = _spellings(self._bpe)
        self.eos_ids = _eos_ids(self.folder, self._bpe)
        self.end_id = _end_id(self.folder, self._bpe, self.eos_ids)

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included (151,665 for Qwen2.5).

        A model's embedding may have more rows (151,936 there): those spell nothing.
        """
        return len(self._bytes)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of `text`; nothing is put before or after it.

        With `special=False` the name of a special token in `text` is spelled out
        in ordinary tokens: a program's output must not become control tokens.
        """
        with self._lock:  # the flag belongs to the tokenizer, not to the call
            self._bpe.encode_special_tokens = not special
            return self._bpe.encode(text, add_special_tokens=False).ids

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many ids `encode` gives for each text; uses all cores."""
        with self._lock:
            self._bpe.encode_special_tokens = False
            found = self._bpe.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        """What `ids` spell, special tokens too; undecodable bytes are replaced."""
        return b"".join(self.pieces(ids)).decode("utf-8", errors="replace")

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each id, as `bytes_of`; quicker, since a device waits for it."""
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < len(self._bytes):
            return [self.bytes_of(token) for token in ids]
        return [self._bytes[token] for token in ids]

    def bytes_of(self, token: int) -> bytes:
        """The bytes that one id spells; b"" for a padding row of the embedding."""
        if token < 0:
            raise ValueError(f"token id {token} is negative")
        return self._bytes[token] if token < len(self._bytes) else b""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is looked out for at a time; after `opening`, which is no stop, comes the next stage."""

    stops: tuple[str, ...]
    opening: str | None = None


@dataclasses.dataclass(frozen=True)
class Stop:
    """A stop string that was completed.

    `tokens` is how many of the turn's tokens to keep: up to and including the one
    in which the stop ends. `end` is the byte offset in the turn just after it; the
    last kept token may spell more bytes than that.
    """

    tokens: int
    text: str
    end: int


class StopFinder:
    """Watches one turn, piece by piece, for the first stop string to be completed.

    Feed it the bytes of each new token as segments arrive. Of several stops the
    one that ends first wins, and of those that end together the longest. Bytes
    before `start_byte` are skipped: no stop may begin there. Linear in the bytes
    fed, since only one byte less than the longest stop is ever looked at twice.
    """

    def __init__(self, stops: Sequence[str], start_byte: int = 0) -> None:
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self.stages = (Stage(tuple(stops)),)
        self._stops = sorted(((s.encode(), s) for s in stops), key=lambda s: -len(s[0]))
        self._overlap = max((len(s) - 1 for s, _ in self._stops), default=0)
        self._start = start_byte
        self._tail = b""  # the last bytes seen, where a stop may have begun
        self._bytes = 0  # bytes seen in this turn
        self._tokens = 0  # tokens seen in this turn

    def feed(self, pieces: Sequence[bytes]) -> Stop | None:
        """The stop that `pieces`, one per token, complete; None to go on."""
        new = b"".join(pieces)
        text = self._tail + new
        origin = self._bytes - len(self._tail)  # the offset in the turn of text[0]
        found = self._search(text, max(0, self._start - origin))
        if found is not None:
            name, length = found
            end = origin + length
            lengths = itertools.accumulate(map(len, pieces), initial=self._bytes)
            kept = next(n for n, reached in enumerate(lengths) if reached >= end)
            return Stop(self._tokens + kept, name, end)
        self._bytes += len(new)
        self._tokens += len(pieces)
        self._tail = text[max(0, len(text) - self._overlap) :]
        return None

    def _search(self, text: bytes, start: int) -> tuple[str, int] | None:
        """The stop that ends first in `text[start:]` and where it ends in `text`."""
        best = None
        for stop, name in self._stops:
            at = text.find(stop, start)
            if at >= 0 and (best is None or at + len(stop) < best[1]):
                best = (name, at + len(stop))
        return best


def find_stop(pieces: Sequence[bytes], stops: Sequence[str], start_byte: int = 0) -> Stop | None:
    """The first stop completed in a whole turn, or None. See `StopFinder`."""
    return StopFinder(stops, start_byte).feed(pieces)


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary.

    Printable Latin-1 bytes stand for themselves; the 68 others, in order, are
    the characters from U+0100 on (so a space is U+0120).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


def _read_json(path: Path) -> dict[str, Any]:
    """The object in an optional file; {} where it is absent."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not an object: fetch it again")
    return found


def _load(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a tokenizer folder in Hugging Face layout")
    try:
        bpe = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"{path} cannot be read as a tokenizer ({error}): fetch it again"
        ) from error
    if not isinstance(bpe.decoder, tokenizers.decoders.ByteLevel):
        raise UserError(
            f"{path} is not a byte-level tokenizer (its decoder is {bpe.decoder}): "
            "use one whose decoder is ByteLevel, such as Qwen2.5's"
        )
    bpe.no_truncation()  # a saved file may carry its training run's settings
    bpe.no_padding()
    return bpe


def _spellings(bpe: tokenizers.Tokenizer) -> list[bytes]:
    """The bytes of every id, [V]; an id that the vocabulary leaves out spells b""."""
    alphabet = byte_alphabet()
    added = bpe.get_added_tokens_decoder()
    vocabulary = bpe.get_vocab(with_added_tokens=True)
    spelled = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for text, token in vocabulary.items():
        literal = token in added or any(c not in alphabet for c in text)
        spelled[token] = text.encode() if literal else bytes(alphabet[c] for c in text)
    return spelled


def _eos_ids(folder: Path, bpe: tokenizers.Tokenizer) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        found = _read_json(folder / name).get("eos_token_id")
        if found is None:
            continue
        ids = tuple(found) if isinstance(found, list) else (found,)
        bad = [i for i in ids if not isinstance(i, int) or i < 0 or bpe.id_to_token(i) is None]
        if bad or not ids:
            raise UserError(
                f"{folder / name}: eos_token_id {found} names no token of "
                f"{folder / 'tokenizer.json'}: take both files from the same model"
            )
        return ids
    text, token = _eos_token(folder, bpe)
    if token is None:
        raise UserError(
            f"{folder}: no end-of-text token (eos_token {text!r}): set eos_token_id in "
            "generation_config.json or config.json, or eos_token in tokenizer_config.json"
        )
    return (token,)


def _eos_token(folder: Path, bpe: tokenizers.Tokenizer) -> tuple[object, int | None]:
    found = _read_json(folder / "tokenizer_config.json").get("eos_token")
    text = found.get("content") if isinstance(found, dict) else found
    return text, bpe.token_to_id(text) if isinstance(text, str) else None


def _end_id(folder: Path, bpe: tokenizers.Tokenizer, eos_ids: tuple[int, ...]) -> int:
    _, token = _eos_token(folder, bpe)
    return token if token in eos_ids else eos_ids[0]
