"""The chat template of a tokenizer folder: how messages become the text that a policy continues.

The template is the tokenizer's own and nothing of it is known here. It is a Jinja2 program,
rendered in the sandbox and with the options, filters and functions that transformers gives it
(`apply_chat_template`; the tests compare the bytes), but for the clock. Llama-3.2's template
writes today's date into the system message. Here it always is `DATE`, the day that this template
names where there is no clock, so that a run that goes on tomorrow reads today's prompts.
"""

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from torl_jax.errors import UserError

DATE = datetime.date(2024, 7, 26)

Message = Mapping[str, Any]  # role, content, and whatever else a template reads


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A template's text, the variables that its folder gives it, and the file that it is from."""

    text: str
    variables: Mapping[str, str]
    where: str

    @classmethod
    def of(cls, folder: str | Path) -> "ChatTemplate":
        """The template of a tokenizer folder: `chat_template.jinja`, or `chat_template` of
        `tokenizer_config.json` (a text, or a list of named ones, of which "default").

        The special tokens of `tokenizer_config.json` (`bos_token`, `eos_token`, ...) are its
        variables. Raises UserError where there is no template or it is no valid Jinja2.
        """
        file, config = Path(folder) / "chat_template.jinja", Path(folder) / "tokenizer_config.json"
        settings = _settings(config)
        if file.is_file():
            text, where = _read(file), str(file)
        else:
            text, where = _named(settings.get("chat_template"), config), str(config)
        template = cls(text, dict(_tokens(settings)), where)
        try:
            _compiled(text)
        except jinja2.TemplateError as error:
            raise UserError(
                f"the chat template of {where} is no valid Jinja2 ({_line(error)}): "
                "take it from the model's own folder"
            ) from error
        return template

    def render(self, messages: Sequence[Message]) -> str:
        """The messages as text, ending where the assistant's next turn begins.

        Each message has a `role` and a `content`. Raises ValueError for none at all, and
        UserError where the template refuses them or leaves a system message out.
        """
        if not messages:
            raise ValueError("there are no messages to render")
        try:
            text = _compiled(self.text).render(
                messages=[{k: v for k, v in m.items() if v is not None} for m in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self.variables,
            )
        # A template is a program: whatever it raises, another template mends it.
        except Exception as error:
            raise UserError(
                f"the chat template of {self.where} refuses the messages "
                f"{', '.join(str(m.get('role')) for m in messages)} ({_line(error)}): "
                "take a model whose template has these roles"
            ) from error
        for message in messages:
            told = message.get("content") if message.get("role") == "system" else None
            if isinstance(told, str) and told.strip() not in text:
                raise UserError(
                    f"the chat template of {self.where} leaves the system message out or changes "
                    "it, and with it the tools: take a model whose template writes it"
                )
        return text


class Generation(Extension):
    """`{% generation %}`, by which some templates mark what the assistant wrote: no text."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The body in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


@functools.lru_cache(maxsize=16)
def _compiled(text: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = DATE.strftime
    return environment.from_string(text)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja2's own filter would write &, < and > as escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not an object: fetch it again")
    return found


def _read(path: Path) -> str:
    try:
        # Universal newlines, as transformers reads it; Jinja2 drops one newline at the end.
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}): fetch it again") from error


def _named(found: Any, config: Path) -> str:
    """The text of `chat_template`, or of the one named "default" in a list."""
    names = []
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        names, found = list(named), named.get("default")
    if isinstance(found, str) and found.strip():
        return found
    has = f"templates named {', '.join(map(str, names))}, none 'default'" if names else "none"
    raise UserError(
        f"{config.parent} has no chat template (no chat_template.jinja; chat_template of "
        f"{config.name}: {has}): take an instruction-tuned model's tokenizer folder"
    )


def _tokens(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The special tokens that are set: a text, or an object with its `content`."""
    found = []
    for name, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found.append((name, text))
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
