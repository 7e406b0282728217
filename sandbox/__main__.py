"""python -m sandbox check | run FILE: what this machine allows, and one program."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sandbox.box import LEVELS, STATUSES, Sandbox, SandboxError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for a program that was not ok, 2 for our own errors."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.action(arguments)
    except (SandboxError, OSError, UnicodeDecodeError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2


def check(arguments: argparse.Namespace) -> int:
    """Prints the level found on this machine and how each protection was proven."""
    with _box(arguments) as box:
        report = box.report
        print(f"level       {report['level']}  (of {', '.join(LEVELS)})")
        print(f"identity    {report['identity']}")
        print(f"namespaces  {', '.join(report['namespaces']) or 'none'}")
        for name, proof in report["protections"].items():
            print(f"{name:<14}{'proven' if proof else 'NO':<8}{proof}")
        for name, (code, wanted) in LIMITS.items():
            found = box.run(code, timeout=1.0).status
            print(f"{name:<14}{'proven' if found == wanted else 'NO':<8}an attack gave {found}")
        if box.why:
            print(f"why no more: {box.why}")
    return 0


LIMITS = {
    "time": ("while True: pass", "timeout"),
    "memory": ("bytearray(1 << 40)", "memory"),
    "file size": ("f = open('f', 'wb'); f.truncate(1 << 40)", "error"),
}


def run(arguments: argparse.Namespace) -> int:
    """Runs one file; its output goes to ours, the verdict to stderr."""
    code = sys.stdin.read() if arguments.file == "-" else Path(arguments.file).read_text("utf-8")
    stdin = None if arguments.stdin is None else Path(arguments.stdin).read_text("utf-8")
    with _box(arguments) as box:
        result = box.run(code, stdin=stdin, timeout=arguments.timeout)
    sys.stdout.write(result.stdout)
    sys.stdout.flush()
    sys.stderr.write(result.stderr)
    print(
        f"[{result.status}, exit code {result.exit_code}, {result.seconds:.3f} s, "
        f"level {result.level}]",
        file=sys.stderr,
    )
    return 0 if result.status == "ok" else 1


def _box(arguments: argparse.Namespace) -> Sandbox:
    return Sandbox(
        workers=1,
        min_level=arguments.min_level,
        memory_mb=arguments.memory_mb,
        preload=[name for name in arguments.preload.split(",") if name],
    )


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--min-level", default="rlimits", choices=LEVELS, help="refuse below it (%(default)s)"
    )
    common.add_argument(
        "--memory-mb", type=int, default=512, help="memory a program may take (%(default)s)"
    )
    common.add_argument(
        "--preload",
        default="numpy,sympy",
        metavar="A,B",
        help="modules imported once, ahead of all programs (%(default)s)",
    )
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="check | run")
    command = commands.add_parser("check", parents=[common], help=check.__doc__)
    command.set_defaults(action=check)
    command = commands.add_parser(
        "run",
        parents=[common],
        help=run.__doc__,
        epilog=f"Exit code 0 where the status is ok, 1 for any other of {', '.join(STATUSES)}, "
        "2 where the sandbox itself failed.",
    )
    command.add_argument("file", metavar="FILE", help="a Python file; - reads it from stdin")
    command.add_argument("--stdin", metavar="FILE", help="what the program reads (nothing)")
    command.add_argument(
        "--timeout", type=float, default=5.0, metavar="S", help="seconds (%(default)s)"
    )
    command.set_defaults(action=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
