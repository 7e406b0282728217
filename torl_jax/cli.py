"""How every entry point starts and ends.

A UserError is one line on stderr and exit code 2; so is a flag that does not
exist, with the nearest one that does. Config overrides are checked against the
typed config before anything is imported or opened.
"""

import dataclasses
import difflib
import sys
import typing
from collections.abc import Callable, Sequence

from absl import flags, logging

from torl_jax import config
from torl_jax.errors import UserError


def run(main: Callable[[list[str]], None], doc: str, with_config: bool = False) -> None:
    """Parses sys.argv, calls `main(positional arguments)`, and exits.

    `doc` opens the help text; `with_config` adds the config's keys to it.
    """
    try:
        if {"--help", "-h", "-help", "--helpfull"} & set(sys.argv[1:]):
            print(usage(doc, with_config))
            sys.exit(0)
        logging.set_verbosity(logging.ERROR)
        if with_config:
            check_overrides(sys.argv[1:])
        main(parse(sys.argv)[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # A full disk, a folder that cannot be read: the machine's trouble, not a bug's trace.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def parse(argv: Sequence[str]) -> list[str]:
    """The positional arguments; UserError for an unknown or misused flag."""
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
        hint = f"did you mean --{near[0]}? " if near else ""
        raise UserError(f"unknown flag --{error.flagname}; {hint}see --help") from None
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from None
    except UserError:
        raise
    # A config file is a program: whatever it raises, the user has to mend that file.
    except Exception as error:
        text = " ".join(str(error).split())
        raise UserError(f"the config cannot be read: {type(error).__name__}: {text}") from error


def chosen_config() -> config.Config | None:
    """The checked config of --config; None where it was not given."""
    raw = flags.FLAGS.config
    if raw is None:
        return None
    try:
        # A file that is not there is reported only when its contents are asked for.
        raw.keys()
    except OSError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"the config cannot be read: {reason}") from error
    return config.parse(raw)


def check_overrides(argv: Sequence[str]) -> None:
    """UserError for a `--config.a.b=...` whose key does not exist."""
    for arg in argv:
        name = arg.split("=", 1)[0].lstrip("-")
        if not arg.startswith("-") or not name.removeprefix("no").startswith("config."):
            continue
        kind, path = config.Config, "config"
        for key in name.split(".")[1:]:
            legal = [f.name for f in dataclasses.fields(kind)]
            if key not in legal:
                raise config.unknown_key(path, key, legal)
            hint = typing.get_type_hints(kind)[key]
            path = f"{path}.{key}"
            if not dataclasses.is_dataclass(hint):
                break
            kind = typing.cast(type, hint)


def usage(doc: str, with_config: bool) -> str:
    """The whole help text: purpose, flags, and the config's keys with types and defaults."""
    main = flags.FLAGS.get_flags_for_module(sys.modules["__main__"])
    lines = [doc.strip(), "", "Flags:"]
    for flag in sorted(main, key=lambda f: f.name):
        default = "" if flag.default is None else f" (default: {flag.default})"
        lines.append(f"  --{flag.name}  {flag.help}{default}")
    if with_config:
        lines += ["", "Config keys, set in the config file or as --config.SECTION.KEY=VALUE:"]
        for section in dataclasses.fields(config.Config):
            kind = typing.cast(type, typing.get_type_hints(config.Config)[section.name])
            purpose = (kind.__doc__ or "").split("\n")[0]
            lines += ["", f"  config.{section.name}: {purpose}"]
            hints = typing.get_type_hints(kind)
            default = getattr(config.Config(), section.name)
            for field in dataclasses.fields(kind):
                hint = hints[field.name]
                shown = (
                    getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
                )
                shown = shown.replace("typing.", "")
                lines.append(f"    {field.name} : {shown} = {getattr(default, field.name)!r}")
    return "\n".join(lines)
