"""From fork to the program's first line, in the program's own process.

All of it happens ahead of time: the child raises its walls, says that it is up and
waits on descriptor 3 for its job. What it then runs is sandbox.program's.
"""

import base64
import os
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox import kernel, landlock, limits, messages, notebook, program, seccomp
from sandbox.plan import Plan

# Without a /proc of our own: a process may look at itself, not at the network or others.
OWN_PROC = ("cmdline", "fd", "limits", "maps", "stat", "statm", "status")
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
        _run(walls, messages.read(job))
    except BaseException as error:
        os.write(2, f"not run: {error}\n".encode("utf-8", "backslashreplace"))
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


def _filter_without_namespaces(walls: Walls, processes: bool) -> None:
    """Nothing but the filter keeps its signals in; only a session's cells need a fork."""
    own = os.getpid()
    seccomp.install(seccomp.assemble(walls.machine, processes=processes, own_pid=own))


def _run(walls: Walls, job: messages.Message | None) -> None:
    if job is None:  # the slot has ended
        os._exit(1)
    if walls.plan.walls and not walls.plan.jail:
        _filter_without_namespaces(walls, processes="open" in job)
    if "code" in job:
        os.close(JOB)
        _put(job["files"])
        if job["stdin"]:
            _read_from(job["stdin"])
        limits.limit_cpu(job["timeout"])
        program.run(job["code"], job["seed"])
    session = job["open"]
    limits.limit_cpu(session["timeout"])
    notebook.serve(JOB, session["seed"], session["echo"])


def _put(files: dict[str, str]) -> None:
    """The job's files, into the working directory. Their names were checked by the caller."""
    for name, data in files.items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "xb") as file:
            file.write(base64.b64decode(data))


def _read_from(text: str) -> None:
    """Makes `text` the standard input: a file without a name, so that it may be of any size."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode("utf-8", "surrogatepass"))
        file.seek(0)
        os.dup2(file.fileno(), 0)
