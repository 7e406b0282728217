"""From fork to the program's first line, in the program's own process.

All of it happens ahead of time: the child raises its walls, says that it is up and
waits on descriptor 3 for its job. What it then runs is sandbox.program's.
"""

import base64
import contextlib
import errno
import os
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sandbox import kernel, landlock, limits, messages, notebook, program, seccomp
from sandbox.plan import Plan

# Without a /proc of our own: a process may look at itself, not at the network or others.
OWN_PROC = ("cmdline", "fd", "limits", "maps", "stat", "statm", "status")
PIECE = 1 << 18  # characters of standard input
JOB = 3  # the descriptor on which a child hears what to run


@dataclass(frozen=True)
class Walls:
    """What every program of a slot gets. Sizes in bytes."""

    plan: Plan
    memory: int  # above `base`
    base: tuple[int, int]
    processes: int
    home: str
    temporary: str
    readable: Sequence[str]
    writable: Sequence[str]
    landlock_may_lack: bool  # another wall stands everywhere that Landlock does
    machine: str


def become(walls: Walls, fds: Sequence[int]) -> None:
    """`fds` become 0 to 3. Does not return."""
    job = fds[JOB]
    try:
        os.setsid()
        for target, fd in enumerate(fds):
            # The slot's own 0-3 are taken, so no source is overwritten before its turn.
            os.dup2(fd, target, inheritable=target < JOB)
        job = JOB
        os.closerange(JOB + 1, os.sysconf("SC_OPEN_MAX"))
        os.chdir(walls.home)
        os.umask(0o077)
        limits.limit(walls.memory, walls.base, walls.processes)
        _drop_privileges(walls.plan)
        if walls.plan.walls and not walls.plan.user:
            raise_walls(walls)
        messages.write(job, {"up": True})
    except BaseException:
        messages.write(job, {"failed": traceback.format_exc().strip().splitlines()[-1]})
        os._exit(1)
    try:
        with _naming("the program with its standard input and files", walls):
            message = messages.read(job)
        _run(walls, message)
    except BaseException as error:
        reason = str(error) or type(error).__name__
        os.write(2, f"not run: {reason}\n".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(1)  # what the slot has on its stack is not for this process to unwind


def raise_walls(walls: Walls) -> None:
    """Landlock, and seccomp where it does not depend on the process; for good.

    A slot in a user namespace of its own does so once, for all that it forks. Elsewhere
    it still has an identity to change in each child, which the filter refuses.
    """
    own = [] if walls.plan.jail else [f"/proc/{os.getpid()}/{name}" for name in OWN_PROC]
    if not walls.landlock_may_lack or landlock.abi():
        landlock.restrict([*walls.readable, *own], walls.writable)
    if walls.plan.jail:
        seccomp.install(seccomp.assemble(walls.machine, processes=True, own_pid=None))


def _drop_privileges(plan: Plan) -> None:
    if plan.user:
        # The slot keeps capabilities that its children have not: so they cannot look into it.
        kernel.drop_capabilities()
        kernel.prefer_as_victim()
        return
    if plan.uid is not None and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(plan.uid, plan.uid, plan.uid)
        os.setresuid(plan.uid, plan.uid, plan.uid)
    kernel.drop_ambient()
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.die_with_parent()
    # The slot is undumpable, which would close /proc/self and /dev/stdin to its children.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def _filter_without_namespaces(walls: Walls, session: bool) -> None:
    """Only a session's cells need a fork, after which no filter can know their ids.

    So where Landlock does not keep signals in they can send some to their group only.
    """
    own = 0 if session else os.getpid()
    scoped = session and landlock.abi() >= landlock.KEEPS_SIGNALS
    bpf = seccomp.assemble(walls.machine, processes=session, own_pid=own, scoped=scoped)
    seccomp.install(bpf)


def _run(walls: Walls, job: messages.Message | None) -> None:
    if job is None:  # the slot has ended
        os._exit(1)
    if walls.plan.walls and not walls.plan.jail:
        _filter_without_namespaces(walls, session="open" in job)
    if "code" in job:
        os.close(JOB)
        # Out of the job: the memory that they take is the program's from here on.
        _put(job.pop("files"), walls)
        if job["stdin"]:
            _read_from(job.pop("stdin"), walls)
        limits.limit_cpu(job["timeout"])
        program.run(job["code"], job["seed"])
    session = job["open"]
    limits.limit_cpu(session["timeout"])
    notebook.serve(JOB, session["seed"], session["echo"])


class NotRun(Exception):
    """What keeps a program from being run: one line, for its stderr."""


@contextlib.contextmanager
def _naming(what: str, walls: Walls) -> Iterator[None]:
    """Raises NotRun where `what` cannot be had."""
    try:
        yield
    except MemoryError:
        room = f"the memory of {walls.memory >> 20} MB"
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NotRun(f"{what}: {error.strerror}") from error
        room = "the space for files"
    except UnicodeError as error:
        raise NotRun(f"{what}: {error}") from error
    else:
        return
    raise NotRun(f"{what} does not fit into {room}")


def _put(files: dict[str, str], walls: Walls) -> None:
    """The job's files, into the working directory. Their names were checked by the caller."""
    for name, text in files.items():
        with _naming(f"file {name!r} of {_size(text)} bytes", walls):
            os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
            with open(name, "xb") as file:
                file.write(base64.b64decode(text))


def _size(text: str) -> int:
    """Of what this base64 stands for."""
    return len(text) // 4 * 3 - text.count("=", -2)


def _read_from(text: str, walls: Walls) -> None:
    """Makes `text` the standard input: a file without a name, so that it may be of any size."""
    size = sum(map(len, _pieces(text)))
    with _naming(f"standard input of {size} bytes", walls), tempfile.TemporaryFile() as file:
        file.writelines(_pieces(text))
        file.seek(0)
        os.dup2(file.fileno(), 0)


def _pieces(text: str) -> Iterator[bytes]:
    """All of it in UTF-8, never in memory as a whole."""
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE].encode("utf-8", "surrogatepass")
