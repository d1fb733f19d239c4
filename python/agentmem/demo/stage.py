"""The parent of the demonstration's processes: a daemon of its own and every agent, or one that has
them all; and the writer.

It imports what agents need and forks them, so that they share it and each takes little. When its
stdin ends, all of them do.
"""

import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import agentmem
from agentmem import daemon
from agentmem.demo import member, node, wire, writer
from agentmem.demo.member import Member
from agentmem.demo.plan import Plan
from agentmem.demo.wire import Kind
from agentmem.errors import AgentMemError, Io
from agentmem.machine import cache_folder
from agentmem.process import fork

# Agents put little at a time, and there are many of them.
_ARENA: Final = "1M"


def command(plan: Plan) -> list[str]:
    """What to start for the processes of `plan`; it says what happens on stdout, in frames."""
    return [sys.executable, "-m", "agentmem.demo.stage", json.dumps(asdict(plan))]


@contextmanager
def private_daemon(plan: Plan) -> Iterator[Path]:
    """A daemon with the plan's budget, a socket of its own and a cold tier of its own."""
    configuration = (
        f"memory_max = {plan.memory_max_bytes}\n"
        f"cold = {str(plan.cold).lower()}\n"
        f'arena_bytes = "{_ARENA}"\n'
    )
    with cold_folder(plan) as folder:
        options = [] if folder is None else [f"--path={folder}"]
        with daemon.private(configuration, *options) as path:
            yield path


@contextmanager
def cold_folder(plan: Plan) -> Iterator[str | None]:
    """Where the cold tier lies for a while, if there is one; temporary folders may lie in RAM."""
    if not plan.cold:
        yield None
        return
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="demo-", dir=cache_folder()) as folder:
        yield folder


class Stage:
    """The processes that were forked, by their number."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._names: dict[int, str] = {}

    def fork(self, name: str, work: Callable[[], None]) -> int:
        """Start a process that does `work` and ends; returns its number."""

        def guarded() -> None:
            try:
                work()
            except AgentMemError as error:
                wire.tell(self._pipe, wire.failure(error))

        pid = fork(guarded)
        self._names[pid] = name
        return pid

    def watch(self) -> None:
        """Say which processes end badly, until stdin ends; then end all."""
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
            for pid in self._names:
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
            while all(self._look(selector, key) for key, _ in selector.select()):
                pass
        for pid in self._names:
            os.kill(pid, signal.SIGKILL)
        for pid in self._names:
            os.waitpid(pid, 0)

    def _look(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> bool:
        """What one descriptor has to say; whether to go on."""
        if key.data is None:
            return False
        selector.unregister(key.fd)
        os.close(key.fd)
        code = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
        name = self._names.pop(key.data)
        if code:
            wire.tell(self._pipe, wire.failure(Io(f"{name}'s process ended with {code}")))
        return True


def perform_embedded(plan: Plan, folder: str | None, pipe: int) -> None:
    """Fork one process for all agents and their store, say that it is there, and wait."""
    feed, fed = socket.socketpair()

    def work() -> None:
        feed.close()
        options: dict[str, Any] = {"memory_max": plan.memory_max_bytes, "cold": plan.cold}
        with agentmem.open(folder, **options) as mem:
            everybody = {number: Member(mem, number, plan.seed) for number in range(plan.agents)}
            member.follow(fed, pipe, everybody)
            wire.tell_json(pipe, Kind.STAGE, {"stats": figures_of(mem)})
            os.read(0, 1)

    stage = Stage(pipe)
    pid = stage.fork("the agents", work)
    fed.close()
    _tell_processes(pipe, stage=[os.getpid()], store=[pid])
    stage.fork("the writer", lambda: writer.serve(plan, [feed] * plan.agents, pipe))
    feed.close()
    stage.watch()


def figures_of(mem: agentmem.Store) -> dict[str, Any]:
    """What a store says of itself that the demonstration reports."""
    stats = mem.stats()
    return {name: stats[name] for name in ("stored_bytes", "disk_bytes", "by_kind", "counters")}


def _tell_processes(pipe: int, **pids: list[int]) -> None:
    for name, numbers in pids.items():
        for number in numbers:
            wire.tell_json(pipe, Kind.STAGE, {"process": name, "pid": number})


def perform(plan: Plan, path: Path, pipe: int) -> None:
    """Fork everybody, say who is there, and wait for the end."""
    stage = Stage(pipe)
    feeds: list[socket.socket] = []
    agents = []
    gc.collect()
    gc.freeze()
    for number in range(plan.agents):
        feed, fed = socket.socketpair()
        feeds.append(feed)

        def work(number: int = number, fed: socket.socket = fed) -> None:
            for other in feeds:
                other.close()
            perform_member = node.perform if plan.is_in_node(number) else member.perform
            perform_member(path, number, plan.seed, fed, pipe)

        agents.append(stage.fork(f"agent-{number:03}", work))
        fed.close()
    wire.tell_json(pipe, Kind.STAGE, {"socket": str(path)})
    # Known before anything is written, so that nothing is missed.
    _tell_processes(pipe, stage=[os.getpid()], store=daemon.processes(path), agents=agents)
    stage.fork("the writer", lambda: writer.serve(plan, feeds, pipe))
    for feed in feeds:
        feed.close()
    stage.watch()


def main() -> None:
    """Perform the plan that the only argument describes."""
    fields: dict[str, Any] = json.loads(sys.argv[1])
    plan = Plan(**fields | {"corpus": tuple(fields["corpus"])})
    # What else prints must not end up between the frames.
    pipe = os.dup(1)
    os.dup2(2, 1)
    # Three descriptors for each agent, for a moment.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        if plan.embedded:
            with cold_folder(plan) as folder:
                perform_embedded(plan, folder, pipe)
        else:
            with private_daemon(plan) as path:
                perform(plan, path, pipe)
    except AgentMemError as error:
        wire.tell(pipe, wire.failure(error))


if __name__ == "__main__":
    main()
