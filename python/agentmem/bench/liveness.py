"""Agents that are killed: what only they held is freed at once, and nothing is left of them."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import agentmem
from agentmem import daemon
from agentmem.bench.result import Figure, Result, Settings
from agentmem.process import descriptors_of, fork, memfds_of, summed_bytes

AT_ONCE: Final = 100
ROUNDS: Final = 1_000
ROUND_AGENTS: Final = 4
# Of a round's agents, how many are let come to rest; the others are killed wherever they are.
_ROUND_READY: Final = 2
# Tables and allocators have grown to their size by then.
_FIRST_ROUNDS: Final = 50
# Without work for so long, a daemon has given back what it keeps only to be quick.
_QUIET_S: Final = 4.0
_PATIENCE_S: Final = 30.0

# Nothing is compressed meanwhile: figures change by what is held alone.
_CONFIGURATION: Final = """
memory_max = "2G"
cold = false
warm_after = "1d"
pressure = false
"""
_SHARED: Final = b"You are one of many, and all of you know this. " * 40_000
_LARGE_BYTES: Final = 2 << 20
_MESSAGES: Final = 50
# What of a store's figures must be as before.
_HELD: Final = (
    *("agents", "smus", "conversations", "messages", "frames", "logical_bytes", "stored_bytes"),
    *("shared_bytes", "pinned_bytes"),
)


class Left(NamedTuple):
    """What a daemon has."""

    descriptors: int
    memfds: int
    resident_bytes: int
    """Of its processes, each page once."""
    table_bytes: int


class Killed(NamedTuple):
    """What was seen of a daemon whose agents are killed."""

    freed_ms: float
    """From the first signal until nothing of them was left."""
    still_held: dict[str, int]
    """Figures of the store that were not as before, with the difference."""


class Nursery:
    """Starts agents in processes of their own, and kills them."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._mem = agentmem.connect(socket, start=False)
        self._keeper = self._mem.agent("keeper")
        self.shared = self._keeper.put(_SHARED, kind="system_prompt", name="shared")
        self._before = self._held()
        self._number = 0

    def _held(self) -> dict[str, Any]:
        stats = self._mem.stats()
        return {name: stats[name] for name in _HELD}

    def kill(self, count: int, ready: int) -> Killed:
        """Start `count` agents, wait until `ready` of them hold all that they want, kill all."""
        told, tell = os.pipe()
        stay, leave = os.pipe()
        pids = []
        for _ in range(count):
            self._number += 1
            name = f"agent-{self._number}"
            work = partial(live, self._socket, name, tell, stay, leave)
            pids.append(fork(work))
        os.close(tell)
        os.close(stay)
        for _ in range(ready):
            assert os.read(told, 1), "an agent could not get ready"
        if ready == count:
            assert self.shared.shared_by == count + 1
        began_s = time.monotonic()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        while (held := self._held()) != self._before and time.monotonic() < began_s + _PATIENCE_S:
            time.sleep(0.001)
        freed_ms = (time.monotonic() - began_s) * 1000
        for pid in pids:
            os.waitpid(pid, 0)
        os.close(told)
        os.close(leave)
        changed = {name: held[name] - was for name, was in self._before.items()}
        return Killed(freed_ms, {name: by for name, by in changed.items() if by})

    def left(self) -> Left:
        """What the daemon has once it is quiet."""
        time.sleep(_QUIET_S)
        pids = daemon.processes(self._socket)
        memfds = {number for pid in pids for number in memfds_of(pid)}
        return Left(
            sum(map(descriptors_of, pids)),
            len(memfds),
            summed_bytes(pids),
            self._mem.stats()["table_bytes"],
        )

    def is_intact(self) -> bool:
        """Whether what all of them shared is what it was."""
        with self.shared.view() as view:
            return view == _SHARED and self.shared.shared_by == 1

    def close(self) -> None:
        """End the session."""
        self._mem.close()


@contextmanager
def nursery() -> Iterator[Nursery]:
    """One with a daemon of its own."""
    with daemon.private(_CONFIGURATION) as socket:
        found = Nursery(socket)
        try:
            yield found
        finally:
            found.close()


def live(socket: Path, name: str, tell: int, stay: int, leave: int) -> None:
    """An agent with content of its own and content of all, large and small, until it is killed.

    It says over `tell` that it holds everything, and ends with its parent, which has `leave` open.
    """
    os.close(leave)
    with agentmem.connect(socket, start=False) as mem:
        agent = mem.agent(name)
        held = [agent.attach("shared"), agent.put(_SHARED, kind="system_prompt")]
        held.append(agent.put(os.urandom(_LARGE_BYTES)))
        held += [agent.put(os.urandom(1000)) for _ in range(_MESSAGES)]
        talk = agent.conversation("talk")
        talk.extend([os.urandom(500) for _ in range(_MESSAGES)])
        branch = talk.fork(name="branch")
        branch.append(name.encode())
        views = [smu.view() for smu in held]
        assert agent.stats()["conversations"] == 2
        os.write(tell, b".")
        # With everything pinned.
        os.read(stay, 1)
        del views


def run(settings: Settings) -> Result:
    """A hundred killed at once; then a thousand rounds of a few, some of them at work."""
    at_once, rounds = (10, 20) if settings.quick else (AT_ONCE, ROUNDS)
    first = min(_FIRST_ROUNDS, rounds // 2)
    with nursery() as agents:
        before = agents.left()
        hundred = agents.kill(at_once, at_once)
        after = agents.left()
        slowest_ms, wrong = 0.0, int(bool(hundred.still_held))
        for number in range(rounds):
            if number == first:
                early = agents.left()
            killed = agents.kill(ROUND_AGENTS, _ROUND_READY)
            slowest_ms = max(slowest_ms, killed.freed_ms)
            wrong += bool(killed.still_held)
        late = agents.left()
        assert agents.is_intact()
    figures = [
        Figure(f"{at_once} killed at once: all freed after", hundred.freed_ms, "ms", 1000),
        Figure("of what they held, figures not as before", len(hundred.still_held), "", 0),
        Figure("descriptors left", after.descriptors - before.descriptors, "", 0),
        Figure("memfds left", after.memfds - before.memfds, "", 0),
        Figure("memory left", max(0, after.resident_bytes - before.resident_bytes) / 1e6, "MB"),
        Figure(f"{rounds} rounds of {ROUND_AGENTS}: slowest freed after", slowest_ms, "ms", 1000),
        Figure("rounds after which a figure was not as before", wrong, "", 0),
        Figure(f"descriptors more than after {first}", late.descriptors - early.descriptors, "", 0),
        Figure("memfds more", late.memfds - early.memfds, "", 0),
        Figure("tables more", max(0, late.table_bytes - early.table_bytes) / 1e6, "MB", 0.1),
        Figure("memory more", max(0, late.resident_bytes - early.resident_bytes) / 1e6, "MB", 2),
        Figure("memory of the daemon in the end", late.resident_bytes / 1e6, "MB"),
    ]
    meaning = ["liveness", at_once, rounds, ROUND_AGENTS, _ROUND_READY, len(_SHARED), _LARGE_BYTES]
    return Result(figures, meaning)
