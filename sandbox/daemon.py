"""The daemon: owns zygotes and slots, runs no program and holds no secret.

    python -m sandbox.daemon      started by exec from sandbox.link

On its stdin, a socket, it is given its configuration, says {"ready": true, level...} or {"error":
...} once, then takes {"slot": index, "tier": n} with the slot's socket, and {"kill": index,
"gone": whether nobody holds that socket any more}. It ends with the trainer, however that ends,
and with it all below it: its children are told by the kernel, orphans come to it, and what it
made on the machine (cgroups, scratch directories of slots without a jail) is removed.
"""

import contextlib
import dataclasses
import importlib.util
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from sandbox import cgroup, descriptors, kernel, messages, probe, zygote
from sandbox.advice import advice
from sandbox.messages import Message
from sandbox.plan import LEVELS, Plan, plans, rank
from sandbox.probe import Bait, Verdict
from sandbox.scratch import Scratch
from sandbox.sweep import sweep, sweep_strangers

PROBE_MEMORY = 128 << 20  # bytes that the slot of the probe may have, so that the attack is cheap
PROBE = 0  # the index of its slot; the trainer counts from 1
OVERHEAD = 64 << 20  # bytes of a slot's own, and what its forks copy
PROCESSES = 256  # of a slot, where a cgroup counts them
STARTS = 3  # of a zygote that dies before it is up


class Refusal(Exception):
    """This machine does not do what was asked for; one line."""


@dataclasses.dataclass
class Zygote:
    """`waiting` are slots asked for before it is up; `deaths` came before that, in a row."""

    control: socket.socket
    up: bool = False
    failed: str = ""
    deaths: int = 0
    waiting: list[tuple[int, socket.socket]] = dataclasses.field(default_factory=list)

    @property
    def fd(self) -> int:
        return self.control.fileno()  # -1 once it was given up


@dataclasses.dataclass
class Record:
    """A slot from request to end, and the zygote that was asked for it."""

    group: "cgroup.Group | None"
    zygote: Zygote
    pid: int | None = None
    doomed: bool = False


class Daemon:
    """Its own loop over descriptors; `serve` returns when the trainer is gone."""

    def __init__(self, config: dict[str, Any], control: socket.socket, trainer: int) -> None:
        self._config = config
        self._control = control
        self._trainer = trainer
        self._zygotes: list[Zygote] = []
        self._slots: dict[int, Record] = {}
        self._wake = descriptors.wake_on_signals()
        self._files = descriptors.allow_many()
        self._limit = config["memory"] + config["quota"] + OVERHEAD
        self._common = Scratch.adopt(config["scratch"])
        self._den = Scratch(config["scratch"], 0o711)
        tree = cgroup.find(config["name"]) if config["max_level"] == LEVELS[-1] else ""
        self._tree = tree if isinstance(tree, cgroup.Tree) else None
        self._no_tree = tree if isinstance(tree, str) else ""

    def start(self) -> Verdict:
        """Finds the tightest plan that holds, and keeps its zygotes. Raises Refusal."""
        for name in self._config["preload"]:
            if importlib.util.find_spec(name) is None:
                raise Refusal(f"preload asks for {name!r}, which {sys.executable} does not have")
        reasons: list[str] = []
        best: Verdict | None = None
        for plan in plans(os.geteuid() == 0, self._config["max_level"]):
            verdict = self._try(plan)
            if best is None or rank(verdict.level) > rank(best.level):
                best = verdict
            if rank(best.level) >= rank(plan.level):
                break
            if verdict.why not in reasons:
                reasons.append(verdict.why)
        assert best is not None  # there is always the plan without any wall
        if not best.level:
            raise Refusal(f"programs do not work here: {'; '.join(reasons)}")
        if best.level == "full" and self._no_tree:
            reasons.append(self._no_tree)
        best = dataclasses.replace(best, why="; ".join(reasons))
        if rank(best.level) < rank(self._config["min_level"]):
            wanted = self._config["min_level"]
            raise Refusal(
                f"isolation level {best.level} found, {wanted} wanted ({best.why}); to get it: "
                f"{advice(best.level)}; to accept less, pass min_level={best.level!r}"
            )
        self._launch(best.plan)
        return best

    def serve(self) -> None:
        """Until the trainer hangs up, ends, or sends SIGTERM."""
        while True:
            poller = select.poll()
            for fd in (self._control.fileno(), self._trainer, self._wake):
                poller.register(fd, select.POLLIN)
            controls = {zygote.fd for zygote in self._zygotes if zygote.fd >= 0}
            for fd in controls:
                poller.register(fd, select.POLLIN)
            for fd, _ in poller.poll():
                if fd == self._trainer:
                    return
                if fd == self._wake and signal.SIGTERM in os.read(fd, 64):
                    return
                if fd == self._control.fileno() and not self._take_request():
                    return
                if fd in controls:  # unless it has been heard, or given up, meanwhile
                    self._hear_all()
            self._reap()

    def close(self) -> None:
        """Leaves nothing: no process, no cgroup, no file."""
        sweep(False)
        for index in list(self._slots):
            self._forget(index)
        self._den.remove()
        if descriptors.readable(self._trainer):  # also what an earlier daemon of its has left
            self._common.remove()
        if self._tree is not None:
            self._tree.remove()

    def _try(self, plan: Plan) -> Verdict:
        """Attacks a slot of this plan. Leaves no process of it."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack:
            for sock in (ours, theirs):
                stack.enter_context(sock)
            stack.callback(self._end_zygotes)
            self._launch(plan, PROBE_MEMORY)
            said, _ = messages.receive(self._zygotes[0].control)
            if said != {"up": True}:
                why = (said or {}).get("failed", "the zygote ended")
                return Verdict("", why, plan)
            bait = stack.enter_context(contextlib.closing(Bait(self._den.path, plan)))
            record = self._request(0, PROBE, theirs, PROBE_MEMORY)
            theirs.close()
            grouped = record.group is not None
            return probe.attack(plan, ours.fileno(), bait, self._config["preload"], grouped)

    def _launch(self, plan: Plan, memory: int | None = None) -> None:
        """The first zygote, and the orders for all later ones."""
        settings = zygote.Settings(
            plan=plan,
            memory=memory or self._config["memory"],
            output=self._config["output"],
            quota=self._config["quota"],
            scratch=self._den.path,
            root=os.geteuid() == 0 and plan.uid is None,
            daemon=os.getpid(),
        )
        if os.geteuid() == 0 and not plan.jail and plan.uid is not None:
            os.fchown(self._den.fd, plan.uid, plan.uid)  # slots make their directories there
        ours, theirs = socket.socketpair()
        self._first = os.fork()
        if self._first == 0:
            descriptors.sleep_on_signals()
            descriptors.keep_only(zygote.DAEMON + 1, theirs.fileno(), self._files)
            zygote.run(settings, theirs)
        theirs.close()
        self._plan = plan
        self._zygotes = [Zygote(ours)]
        if memory is None:
            self._grow()

    def _grow(self) -> None:
        """Orders the missing tiers; each is forked by the one before it."""
        for module in self._config["preload"][len(self._zygotes) - 1 :]:
            ours, theirs = socket.socketpair()
            with theirs:
                _send(self._zygotes[-1].control, {"grow": module}, [theirs.fileno()])
            self._zygotes.append(Zygote(ours))

    def _end_zygotes(self) -> None:
        for dead in self._zygotes:
            dead.control.close()
        self._zygotes = []
        sweep(False)
        for index in list(self._slots):
            self._forget(index)

    def _take_request(self) -> bool:
        """False where the trainer has closed its end."""
        message, fds = messages.receive(self._control)
        if message is None:
            return False
        if "kill" in message:
            self._end_slot(message["kill"], message["gone"])
            return True
        with socket.socket(fileno=fds[0]) as sock:
            found = self._zygotes[message["tier"]]
            if found.failed:
                _send(sock, {"error": found.failed})
            elif found.up:
                self._request(message["tier"], message["slot"], sock, self._limit)
            else:
                found.waiting.append((message["slot"], sock.dup()))
        return True

    def _request(self, tier: int, index: int, sock: socket.socket, memory: int) -> Record:
        """Has a slot forked, in a cgroup of its own where there are any."""
        group = None
        fds = [sock.fileno()]
        if self._tree is not None:
            group = self._tree.slot(index, memory, PROCESSES)
            fds += [group.ooms_fd, *group.join_fds()]
        record = self._slots[index] = Record(group, self._zygotes[tier])
        _send(self._zygotes[tier].control, {"slot": index}, fds)
        if group is not None:
            group.close_joins()
        return record

    def _end_slot(self, index: int, gone: bool) -> None:
        """`gone`: neither it nor its nurse lives; its birth has been told, if there was one."""
        if gone:
            self._hear_all()
        if (record := self._slots.get(index)) is not None:
            record.doomed = True
            self._end_if_doomed(record)
            if gone and record.pid is None:  # a dead nurse's: its end will never be told
                self._forget(index)

    def _hear(self, zygote: Zygote) -> None:
        """What a zygote says of itself, or a nurse of the slot it has made."""
        try:
            message, _ = messages.receive(zygote.control)
        except (messages.FrameError, ConnectionError):
            message = None
        if message is None:
            self._lost(self._zygotes.index(zygote))
        elif "born" in message:
            self._born(message["born"], message["pid"])
        else:
            self._settle(self._zygotes.index(zygote), message.get("failed", ""))

    def _settle(self, tier: int, failure: str) -> None:
        """A zygote is up, or it and all that would be forked from it never will be."""
        for level, found in enumerate(self._zygotes[tier:] if failure else [self._zygotes[tier]]):
            found.up, found.failed = not failure, failure
            waiting, found.waiting = found.waiting, []
            for index, sock in waiting:
                with sock:
                    if failure:
                        _send(sock, {"error": failure})
                    else:
                        self._request(tier + level, index, sock, self._limit)

    def _born(self, index: int, pid: int) -> None:
        record = self._slots[index]
        record.pid = pid
        self._end_if_doomed(record)

    def _lost(self, tier: int) -> None:
        """A zygote has ended, and with it those forked from it: they are started again.

        One that always dies before it is up is given up.
        """
        lost = self._zygotes[tier:]
        if lost[0].up:
            lost[0].deaths = 0
        elif tier == 0 or self._zygotes[tier - 1].up:  # else it was never forked
            lost[0].deaths += 1
        hopeless = lost[0].deaths >= STARTS
        if not hopeless:
            del self._zygotes[tier:]
            self._grow() if tier else self._launch(self._plan)
        for old, new in zip(lost, self._zygotes[tier:], strict=True):
            if old.fd >= 0:
                self._bury(old)
            new.waiting, new.deaths = old.waiting, old.deaths
        if hopeless:
            name = f"{self._config['preload'][tier - 1]} of preload" if tier else "zygote"
            self._settle(tier, f"{name}: the process that imports it ended, {STARTS} times")

    def _bury(self, zygote: Zygote) -> None:
        """Hears its last births; the other slots that it was asked for will never be."""
        with contextlib.suppress(OSError):
            zygote.control.shutdown(socket.SHUT_WR)
        with contextlib.suppress(messages.FrameError, ConnectionError):
            while (message := messages.receive(zygote.control)[0]) is not None:
                if "born" in message:
                    self._born(message["born"], message["pid"])
        zygote.control.close()
        for index, record in list(self._slots.items()):
            if record.zygote is zygote and record.pid is None:
                self._forget(index)

    def _end_if_doomed(self, record: Record) -> None:
        if record.doomed and record.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Takes the ends of slots and zygotes; only we can, so no id is used again before."""
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                if self._slot_of(pid) is None:
                    # A nurse tells of a birth before the slot can be ours to reap.
                    self._hear_all()
                if (index := self._slot_of(pid)) is not None:
                    self._forget(index)

    def _slot_of(self, pid: int) -> int | None:
        return next((index for index, slot in self._slots.items() if slot.pid == pid), None)

    def _hear_all(self) -> None:
        for found in list(self._zygotes):
            while found in self._zygotes and found.fd >= 0 and descriptors.readable(found.fd):
                self._hear(found)

    def _forget(self, index: int) -> None:
        group = self._slots.pop(index).group
        # Without a pid namespace a program can outlive its slot, in its group, as our child.
        if not self._plan.jail and self._zygotes:
            sweep_strangers(self._children)
        ooms = 0
        if group is not None:
            try:
                ooms = cgroup.count_ooms(group.ooms_fd)
                group.remove()
            except OSError as error:  # one more try when all has ended
                print(error, file=sys.stderr, flush=True)
            finally:
                group.close()
        if index != PROBE:
            _send(self._control, {"ended": index, "ooms": ooms})
        # It removes its own directory, unless it was killed.
        if not self._plan.jail and (name := f"slot-{index}") in os.listdir(self._den.fd):
            self._den.discard(name)

    def _children(self) -> list[int]:
        self._hear_all()  # who was ours to reap when the sweep looked has had its birth told
        return [self._first, *(slot.pid for slot in self._slots.values() if slot.pid is not None)]


def _send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """To a process that may have ended: then nothing is owed to it any more."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        messages.send(sock, message, fds)


def main() -> int:
    """Returns the exit status."""
    control = descriptors.take_stdin()
    config = messages.receive(control)[0] or {}  # it was sent before we were started
    trainer = descriptors.watch_parent(config["trainer"])
    status = 1 if trainer is None else _live(config, control, trainer)
    if status:
        with contextlib.suppress(OSError):  # its owner has ended, or may never close what it made
            os.rmdir(config["scratch"])
    return status


def _live(config: dict[str, Any], control: socket.socket, trainer: int) -> int:
    kernel.adopt_orphans()
    os.chdir("/")
    if config["cores"]:
        os.sched_setaffinity(0, config["cores"])
    daemon = Daemon(config, control, trainer)
    try:
        verdict = daemon.start()
        facts = dataclasses.asdict(verdict) | {"ready": True, "plan": str(verdict.plan)}
        messages.send(control, facts)
        daemon.serve()
    except Refusal as error:
        _send(control, {"error": str(error)})
        return 3
    finally:
        daemon.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
