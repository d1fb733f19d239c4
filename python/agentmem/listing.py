"""All agents of this user in one list: trees of processes, and agents of the API in the daemon."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from agentmem import fleet, registry
from agentmem.errors import AgentMemError, Io, Unreachable
from agentmem.fleet import Agent

DAEMON_TIMEOUT_S = 2.0
ABSENT = "absent"
"""The state of an agent that no session has taken up since its own was closed."""


@dataclass(frozen=True, kw_only=True)
class ApiAgent:
    """An agent of the API. What it shares with others counts in full."""

    name: str
    state: str
    pid: int | None
    importance: int
    quota_bytes: int | None
    idle_ms: int
    smus: int
    conversations: int
    messages: int
    logical_bytes: int
    hot_bytes: int
    """Raw and resident, the ends of conversations too."""
    warm_bytes: int
    cold_bytes: int

    type = "api"
    has_answered = True
    paused = False
    # What only trees of processes have.
    processes = None
    woken = None
    wake_ms_p50 = None
    wake_ms_p99 = None
    last_wake = None

    @property
    def resident_before_bytes(self) -> int:
        """What it would take without agentmem: what it believes it holds."""
        return self.logical_bytes

    @property
    def resident_bytes(self) -> int:
        """What of it is raw in RAM."""
        return self.hot_bytes

    @property
    def compressed_bytes(self) -> int:
        """What of it is compressed in RAM."""
        return self.warm_bytes

    @property
    def ssd_bytes(self) -> int:
        """What of it is on SSD."""
        return self.cold_bytes

    @property
    def ratio(self) -> float | None:
        """How many times less RAM it takes than what it holds; None where it takes none."""
        taken = self.hot_bytes + self.warm_bytes
        return self.logical_bytes / taken if self.logical_bytes and taken else None

    @classmethod
    def from_stats(cls, figures: Mapping[str, Any], now_s: float) -> "ApiAgent":
        """The agent of which a store has these figures, at that Unix time."""
        return cls(
            name=registry.printable(figures["name"]),
            state=figures["state"] if figures["pid"] else ABSENT,
            pid=figures["pid"] or None,
            importance=figures["importance"],
            quota_bytes=figures["quota_bytes"],
            idle_ms=max(int((now_s - figures["last_active_s"]) * 1000), 0),
            smus=figures["smus"],
            conversations=figures["conversations"],
            messages=figures["messages"],
            logical_bytes=figures["logical_bytes"],
            hot_bytes=figures["hot_bytes"] + figures["tail_bytes"],
            warm_bytes=figures["warm_bytes"],
            cold_bytes=figures["cold_bytes"],
        )

    def as_record(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"type": self.type} | asdict(self) | {"ratio": self.ratio}


class Listing(NamedTuple):
    """What there is."""

    agents: "list[Agent | ApiAgent]"
    """By name."""
    store: Mapping[str, Any] | None
    """Figures of the caller's domain, where shared content counts once; None without a daemon."""
    note: str
    """Why the daemon's agents are missing though one listens; else empty."""


def look(connect: Callable[[], Any], *, verbose: bool = False) -> Listing:
    """All agents: each supervisor is given a second, and the daemon two.

    Args:
        connect: opens a session with the daemon. Only agents of its trust domain are seen.
        verbose: whether to ask what was left alone too.

    Raises:
        PermissionDenied: The registry is open to others.
    """
    trees = fleet.agents(verbose=verbose)
    api: list[ApiAgent] = []
    store, note = None, ""
    try:
        api, store = in_time(lambda: _in_domain(connect))
    except Unreachable:
        pass
    except AgentMemError as error:
        note = str(error)
    both: list[Agent | ApiAgent] = [*trees, *api]
    both.sort(key=lambda agent: (registry.in_order(agent.name), agent.type))
    return Listing(both, store, note)


def _in_domain(connect: Callable[[], Any]) -> tuple[list[ApiAgent], Mapping[str, Any]]:
    with connect() as mem:
        now_s = time.time()
        agents = [ApiAgent.from_stats(each, now_s) for each in mem.all_agent_stats()]
        return agents, mem.stats()


class _Asking(threading.Thread):
    """One question to the daemon, which may be stopped and never answer."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self.answer: Any = None
        self.error: AgentMemError | None = None

    def run(self) -> None:
        try:
            self.answer = self._ask()
        except AgentMemError as error:
            self.error = error


# At most one thread hangs, however often is asked.
_asking: _Asking | None = None


def in_time(ask: Callable[[], Any]) -> Any:
    """What `ask` returns, if that takes no longer than two seconds.

    Raises:
        Io: It took longer, or one that was asked before still hangs.
        AgentMemError: What `ask` raised.
    """
    global _asking
    if _asking is None or not _asking.is_alive():
        _asking = _Asking(ask)
        _asking.start()
        _asking.join(DAEMON_TIMEOUT_S)
        if not _asking.is_alive():
            if _asking.error is not None:
                raise _asking.error
            return _asking.answer
    raise Io(
        "the daemon listens and does not answer: agentmem daemon --stop ends it, if it is not busy"
    )
