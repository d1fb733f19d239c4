"""Supervisors that are none: they speak the protocol, and have nothing behind it."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentmem.registry import start_ticks

MIB = 1024**2
Answer = Callable[[dict[str, Any]], "dict[str, Any] | bytes | None"]


def status(name: str = "planner", /, **changes: Any) -> dict[str, Any]:
    """What a supervisor says of an agent that is paged out."""
    return {
        "name": name,
        "pid": os.getpid(),
        "root_pid": 4242,
        "command": ["claude", "--resume"],
        "started_ms": 1_700_000_000_000,
        "importance": 50,
        "idle_after_ms": 30_000,
        "memory_max_bytes": None,
        "state": "paged_out",
        "paused": False,
        "idle_ms": 61_000,
        "busy_with": None,
        "processes": 3,
        "resident_before_bytes": 150 * MIB,
        "resident_bytes": 3 * MIB,
        "private_bytes": 2 * MIB,
        "supervisor_bytes": 2 * MIB,
        "held_bytes": 125 * MIB,
        "compressed_bytes": 25 * MIB,
        "ssd_bytes": 0,
        "woken": 7,
        "wake_ms_p50": 80.2,
        "wake_ms_p99": 143.9,
        "last_wake": "terminal",
        "page_outs": 8,
        "page_out_ms": {"live": 420.0, "stopped": 11.5, "cpu": 600},
        "left_alone": [{"pid": 4242, "bytes": 64 * 1024, "why": "the stack"}],
        **changes,
    }


class Fleet:
    """A registry in `folder`, and supervisors on threads of this process."""

    def __init__(self, folder: Path) -> None:
        self.agents = folder / "agents"
        self.requests: list[dict[str, Any]] = []
        folder.mkdir(mode=0o700)
        self.agents.mkdir(mode=0o700)
        self._listeners: list[socket.socket] = []

    def note(self, name: str, *, pid: int, ticks: int) -> None:
        """Leave a note, as a supervisor with that number would."""
        note = {"name": name, "pid": pid, "start_ticks": ticks, "root_pid": 4242}
        note |= {"command": ["claude", "--resume"], "cgroup": None, "started_ms": 1_700_000_000_000}
        (self.agents / f"{name}.json").write_text(json.dumps(note))

    def lost(self, name: str) -> None:
        """A supervisor that was killed: its number belongs to a process that began later."""
        self.note(name, pid=os.getpid(), ticks=1)

    def start(self, name: str = "planner", answer: Answer | None = None, /, **changes: Any) -> None:
        """A supervisor that answers `status` with `changes`, or each request as `answer` says."""
        ticks = start_ticks(os.getpid())
        assert ticks is not None
        self.note(name, pid=os.getpid(), ticks=ticks)
        listener = socket.socket(socket.AF_UNIX)
        descriptor = os.open(self.agents, os.O_PATH)
        listener.bind(f"/proc/self/fd/{descriptor}/{name}.sock")
        os.close(descriptor)
        listener.listen()
        self._listeners.append(listener)
        usual = answer or (lambda request: _usual(request, status(name, **changes)))
        threading.Thread(target=self._serve, args=(listener, usual), daemon=True).start()

    def close(self) -> None:
        for listener in self._listeners:
            # Closing alone would leave the thread in accept.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _serve(self, listener: socket.socket, answer: Answer) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection, answer), daemon=True).start()

    def _talk(self, connection: socket.socket, answer: Answer) -> None:
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                request = json.loads(line)
                self.requests.append(request)
                said = answer(request)
                if said is None:
                    stream.read()  # Until the other side gives up.
                    return
                stream.write(said if isinstance(said, bytes) else json.dumps(said).encode() + b"\n")
                try:
                    stream.flush()
                except BrokenPipeError:
                    return


def _usual(request: dict[str, Any], agent: dict[str, Any]) -> dict[str, Any]:
    if request["op"] != "status":
        return {"ok": True}
    if not request.get("verbose"):
        agent = {name: value for name, value in agent.items() if name != "left_alone"}
    return {"ok": True, "agent": agent}


@contextmanager
def fleet_in(folder: Path) -> Iterator[Fleet]:
    """A fleet that ends with the block."""
    fleet = Fleet(folder)
    try:
        yield fleet
    finally:
        fleet.close()
