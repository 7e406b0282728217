"""python -m sandbox check | run FILE | serve: what this machine allows, one program, many."""

import argparse
import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sandbox.advice import advice
from sandbox.box import MOST_SESSIONS, Sandbox
from sandbox.plan import LEVELS
from sandbox.results import STATUSES, SandboxError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for a program that was not ok, 2 for our own errors, 130."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.action(arguments)
    except (SandboxError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def check(arguments: argparse.Namespace) -> int:
    """Prints the level found on this machine and how each protection was proven."""
    arguments.min_level = LEVELS[0]
    with _box(arguments) as box:
        report = box.report
        print(f"level          {report['level']}  (of {', '.join(LEVELS)})")
        print(f"by             {report['plan']}")
        rows, gaps = dict(report["protections"]), dict(NEEDS)
        for name, (code, seconds, wanted) in LIMITS.items():
            found = box.run(code, timeout=seconds).status
            rows[name] = f"an attack gave {found}" if found == wanted else ""
            gaps[name] = f"an attack gave {found}, expected {wanted}"
        print(f"{'PROTECTION':<15}{'ACTIVE':<8}PROVEN BY")
        for name, proof in rows.items():
            reason = gaps.get(name, "an attack succeeded")
            print(f"{name:<15}{'yes' if proof else 'NO':<8}{proof or reason}")
        if box.why:
            print(f"why no more: {box.why}")
        if report["level"] != LEVELS[-1]:
            print(f"to get more: {advice(report['level'])}")
    return 0


NEEDS = {
    "own processes": "needs namespaces",
    "disk": "needs namespaces",
    "memory in sum": "needs namespaces and a control group",
}
# (program, seconds it may take, status expected). Only the first is stopped by time: the others
# have plenty, so that a busy machine is not taken for one whose limits do not hold.
LIMITS = {
    "time": ("while True: pass", 1.0, "timeout"),
    "memory": ("bytearray(1 << 40)", 30.0, "memory"),
    "output": ("while True: print('x' * 1000000)", 30.0, "killed"),
    "file size": ("f = open('f', 'wb'); f.truncate(1 << 40)", 30.0, "error"),
}


def run(arguments: argparse.Namespace) -> int:
    """Runs one file; its output goes to ours, the verdict to stderr."""
    code = _text(arguments.file)
    stdin = None if arguments.stdin is None else _text(arguments.stdin)
    with _box(arguments) as box:
        result = box.run(code, stdin=stdin, timeout=arguments.timeout, seed=arguments.seed)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # it may be ASCII only
    sys.stdout.write(result.stdout)
    sys.stdout.flush()
    sys.stderr.write(result.stderr)
    print(
        f"[{result.status}, exit code {result.exit_code}, {result.seconds:.3f} s, "
        f"level {result.level}]",
        file=sys.stderr,
    )
    return 0 if result.status == "ok" else 1


def _text(path: str) -> str:
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SandboxError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error


def serve(arguments: argparse.Namespace) -> int:
    """Answers over HTTP as SandboxFusion does, until SIGTERM; docs/sandbox.md has the routes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until it serves
    for name, (least, most) in RANGES.items():
        value = getattr(arguments, name)
        if not least <= value <= most:
            flag = "--" + name.replace("_", "-")
            raise SandboxError(f"{flag} is {value:g}, expected {least:g} to {most:g}")
    try:
        from sandbox import server, service
    except ImportError as error:
        print(
            f"sandbox: serve needs {error.name}, which is not installed: "
            "pip install 'torl_jax[serve]'",
            file=sys.stderr,
        )
        return 2
    address = server.Address(arguments.host, arguments.port, arguments.token_file)
    settings = service.Settings(
        workers=arguments.workers,
        memory_mb=arguments.memory_mb,
        max_timeout=arguments.max_timeout,
        max_body=int(arguments.max_body_mb * (1 << 20)),
        queue=arguments.queue,
        sessions=arguments.sessions,
        idle=arguments.idle,
    )
    with _box(arguments, arguments.workers) as box:
        return server.serve(box, address, settings)


RANGES = {
    "port": (0, 65535),
    "workers": (1, 4096),
    "max_timeout": (0.001, 86400.0),
    "max_body_mb": (0.001, 64.0),  # a frame holds no more
    "queue": (0, 1_000_000),
    "sessions": (0, MOST_SESSIONS),
    "idle": (0.001, 1e6),
}


def _box(arguments: argparse.Namespace, workers: int = 1) -> Sandbox:
    return Sandbox(
        workers=workers,
        min_level=arguments.min_level,
        max_level=arguments.max_level,
        memory_mb=arguments.memory_mb,
        preload=[name for name in arguments.preload.split(",") if name],
    )


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--min-level", default="full", choices=LEVELS, help="refuse below it (%(default)s)"
    )
    common.add_argument(
        "--max-level", default=LEVELS[-1], choices=LEVELS, help="try no better (%(default)s)"
    )
    common.add_argument(
        "--memory-mb",
        type=int,
        default=512,
        metavar="N",
        help="memory a program may take (%(default)s)",
    )
    common.add_argument(
        "--preload",
        default="numpy,sympy",
        metavar="A,B",
        help="modules imported once, ahead of all programs (%(default)s)",
    )
    return common


def _parser() -> argparse.ArgumentParser:
    common = _common()
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="check | run | serve")
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
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of random (%(default)s)")
    command.add_argument(
        "--timeout", type=float, default=5.0, metavar="S", help="seconds (%(default)s)"
    )
    command.set_defaults(action=run)
    _add_serve(commands, common)
    return parser


def _add_serve(commands: "argparse._SubParsersAction", common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "serve",
        parents=[common],
        help=serve.__doc__,
        epilog="The token is read from --token-file, else from the environment variable "
        "SANDBOX_TOKEN. /v1/ping needs none. SIGTERM: what runs is answered, then exit code 0.",
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    command.add_argument("--port", type=int, default=8080, help="0 takes a free one (%(default)s)")
    command.add_argument("--workers", type=int, default=2, help="programs at a time (%(default)s)")
    command.add_argument(
        "--token-file", metavar="FILE", help="holds the token that callers must show (none)"
    )
    for flag, kind, default, words in (
        ("--max-timeout", float, 120.0, "longest run_timeout of a request, in seconds"),
        ("--max-body-mb", float, 16.0, "longest request body"),
        ("--queue", int, 256, "jobs that may wait; more are answered 503"),
        ("--sessions", int, 64, "sessions open at a time"),
        ("--idle", float, 600.0, "seconds after which an idle session is closed"),
    ):
        command.add_argument(
            flag, type=kind, default=default, metavar="N", help=f"{words} (%(default)s)"
        )
    command.set_defaults(action=serve)


if __name__ == "__main__":
    sys.exit(main())
