"""A worker: a keeper that outlives the zygote, and a zygote that forks programs.

    trainer --exec--> keeper --fork--> zygote --fork--> program (one at a time)

The zygote has imported the preloaded modules and answers the pool. The keeper
imports nothing and only watches: when the pool hangs up, the zygote ends or a
SIGTERM comes, it kills whatever is left below it and removes the worker's scratch.
Where the kernel allows it the zygote is the first process of a pid namespace: no
program can signal it, and with it all its descendants end.
"""

import contextlib
import dataclasses
import gc
import json
import os
import select
import signal
import sys
from typing import Any

from sandbox import isolation, messages, probe, program, supervise
from sandbox.scratch import Scratch

LEVELS = ("rlimits", "restricted", "full")
PARENT_GONE = signal.SIGUSR1


def main(config: dict[str, Any]) -> int:
    """Runs one worker until the pool closes; returns the exit status."""
    told = _watch_for_signals()
    isolation.die_with_parent(PARENT_GONE)
    isolation.adopt_orphans()
    os.chdir("/")
    scratch = Scratch(config["scratch"], mode=0o711)
    try:
        bait = probe.Bait()
        namespaces, missing = isolation.enter_namespaces()
        pid = os.fork()
        if pid == 0:
            _zygote(config, scratch, bait, namespaces, missing)
        os.close(1)  # the zygote's end alone decides when the pool reads end-of-file
        bait.close()
        return _keep(pid, told)
    finally:
        supervise.sweep()
        scratch.remove()
        if _trainer_is_gone(told):
            # Nobody else will: the last worker to leave removes the common directory.
            with contextlib.suppress(OSError):
                os.rmdir(config["scratch"])


def _watch_for_signals() -> int:
    """A descriptor that tells of the end asked for, which otherwise interrupts nothing.

    SIGTERM: the pool wants this worker to end. PARENT_GONE: the kernel says that the
    trainer has ended. Each signal is one byte. Sweeping up comes first in both cases.
    """
    told, tell = os.pipe()
    for fd in (told, tell):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(tell)
    for number in (signal.SIGTERM, PARENT_GONE):
        signal.signal(number, lambda number, frame: None)
    return told


def _trainer_is_gone(told: int) -> bool:
    poller = select.poll()
    poller.register(0, 0)  # a living pool closes its end only after we have ended
    try:
        signals = os.read(told, 64)
    except BlockingIOError:
        signals = b""
    return PARENT_GONE in signals or bool(poller.poll(0))


def _keep(zygote: int, told: int) -> int:
    """Waits for the end of either side."""
    poller = select.poll()
    poller.register(0, 0)  # only its hang-up
    poller.register(told, select.POLLIN)
    pidfd = os.pidfd_open(zygote)
    poller.register(pidfd, select.POLLIN)
    if pidfd not in {fd for fd, _ in poller.poll()}:
        # Idle or not, it has nothing to finish: nobody is left to hear the answer.
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _, status = os.waitpid(zygote, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _zygote(
    config: dict[str, Any],
    scratch: Scratch,
    bait: probe.Bait,
    namespaces: frozenset[str],
    missing: str,
) -> None:
    """The forked side of main. Does not return."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, PARENT_GONE):
            signal.signal(number, signal.SIG_DFL)
        isolation.die_with_parent()
        isolation.adopt_orphans()
        status = _serve(config, scratch, bait, namespaces, missing)
    except supervise.Hangup:
        status = 0
    except BaseException as error:
        text = str(error) or type(error).__name__
        print(f"{type(error).__name__}: {text}".replace("\n", " "), file=sys.stderr, flush=True)
    finally:
        supervise.sweep(namespaces)
        os._exit(status)


def _serve(
    config: dict[str, Any],
    scratch: Scratch,
    bait: probe.Bait,
    namespaces: frozenset[str],
    missing: str,
) -> int:
    requests, replies = messages.take_stdio()
    own_proc = isolation.mount_own_proc(namespaces)
    program.warm(config["preload"])
    _check_threads()
    settings = supervise.Settings(
        scratch=scratch,
        memory=config["memory_mb"] << 20,
        output=config["output_kb"] << 10,
        requests=requests,
        namespaces=namespaces,
        own_proc=own_proc,
    )
    gc.collect()
    gc.freeze()
    gc.disable()
    settings.base = isolation.memory_base()
    found = probe.find(settings, bait, config["preload"], missing)
    bait.close()
    settings.identity = found.identity
    if LEVELS.index(found.level) < LEVELS.index(config["min_level"]):
        why = found.why or f"{config['min_level']} is not available yet"
        print(
            f"isolation level {found.level} found, {config['min_level']} wanted: {why}; "
            f"to accept less, pass min_level={found.level!r}",
            file=sys.stderr,
            flush=True,
        )
        return 3
    facts = dataclasses.asdict(found) | {"namespaces": sorted(namespaces)}
    messages.write(replies, {"ready": True, **facts})
    while (message := messages.read(requests)) is not None:
        # What execute raises is our failure: this worker ends, a fresh one tries again.
        result = supervise.execute(message["code"], message["stdin"], message["timeout"], settings)
        messages.write(replies, result | {"level": found.level})
    return 0


def _check_threads() -> None:
    """fork() keeps one thread only, and whatever lock another one held stays held."""
    count = len(os.listdir("/proc/self/task"))
    if count != 1:
        raise supervise.Infrastructure(
            f"{count} threads run after preloading: preload fewer modules"
        )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
