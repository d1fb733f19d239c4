"""All agents of this user that run under a supervisor, and what each says of itself."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from agentmem import control, registry
from agentmem.errors import AgentMemError, NotFound

LOST = "lost"
"""The state of an agent whose supervisor is gone without having ended."""

SILENT = "no_answer"
"""The state of an agent whose supervisor lives and does not answer."""

STATUS_TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 60.0
_THREADS_MAX = 64
_KILLED = "its supervisor was killed"


class LeftAlone(NamedTuple):
    """Memory that was not paged out."""

    pid: int
    bytes: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Agent:
    """One agent. ARCHITECTURE.md explains the figures; they are 0 when `has_answered` is false."""

    name: str
    state: str
    pid: int = 0
    root_pid: int = 0
    command: str = ""
    started_ms: int = 0
    why: str | None = None
    """Why there are no figures."""
    importance: int = 0
    idle_after_ms: int = 0
    memory_max_bytes: int | None = None
    paused: bool = False
    idle_ms: int = 0
    busy_with: str | None = None
    processes: int = 0
    resident_before_bytes: int | None = None
    resident_bytes: int = 0
    private_bytes: int = 0
    supervisor_bytes: int = 0
    held_bytes: int = 0
    compressed_bytes: int = 0
    ssd_bytes: int = 0
    woken: int = 0
    wake_ms_p50: float | None = None
    wake_ms_p99: float | None = None
    last_wake: str | None = None
    page_outs: int = 0
    page_out_ms: Mapping[str, float] = field(default_factory=dict)
    left_alone: tuple[LeftAlone, ...] = ()

    type = "tree"

    @property
    def has_answered(self) -> bool:
        """Whether the figures are its own."""
        return self.state not in (LOST, SILENT)

    @property
    def ratio(self) -> float | None:
        """How many times less RAM it takes than before; None before the first time."""
        if self.resident_before_bytes is None:
            return None
        return _ratio(self.resident_before_bytes, self)

    @classmethod
    def from_status(cls, name: str, status: Mapping[str, Any]) -> Self:
        """The agent that a supervisor's answer describes; what is not as agreed is left out."""
        known = {
            each.name: status[each.name]
            for each in fields(cls)
            if _fits(str(each.type), status.get(each.name))
        }
        known = {
            key: registry.printable(value) if isinstance(value, str) else value
            for key, value in known.items()
        }
        known["command"] = registry.command_text(status.get("command"))
        known["left_alone"] = tuple(_left_alone(status.get("left_alone")))
        known["page_out_ms"] = _milliseconds(status.get("page_out_ms"))
        known.pop("why", None)
        return cls(**{"state": SILENT} | known | {"name": name})

    def as_record(self) -> dict[str, Any]:
        """As one JSON object; without figures when there are none."""
        if not self.has_answered:
            names = ("name", "state", "why", "pid", "root_pid", "command", "started_ms")
            return {"type": self.type} | {name: getattr(self, name) for name in names}
        record = {"type": self.type} | asdict(self)
        del record["why"]
        return record | {
            "ratio": self.ratio,
            "left_alone": [each._asdict() for each in self.left_alone],
        }


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The sums over agents that answered."""

    agents: int
    processes: int
    resident_before_bytes: int
    """Where an agent was never paged out, what it takes now."""
    resident_bytes: int
    supervisor_bytes: int
    compressed_bytes: int
    ssd_bytes: int
    woken: int

    @property
    def ratio(self) -> float | None:
        """How many times less RAM all take than before; None without any."""
        return _ratio(self.resident_before_bytes, self)


def totals(agents: Iterable[Agent]) -> Totals:
    """What the agents that answered take together."""
    known = [agent for agent in agents if agent.has_answered]

    def total(amount: Callable[[Agent], int]) -> int:
        return sum(amount(agent) for agent in known)

    return Totals(
        agents=len(known),
        processes=total(lambda agent: agent.processes),
        resident_before_bytes=total(
            lambda agent: (
                agent.resident_bytes
                if agent.resident_before_bytes is None
                else agent.resident_before_bytes
            )
        ),
        resident_bytes=total(lambda agent: agent.resident_bytes),
        supervisor_bytes=total(lambda agent: agent.supervisor_bytes),
        compressed_bytes=total(lambda agent: agent.compressed_bytes),
        ssd_bytes=total(lambda agent: agent.ssd_bytes),
        woken=total(lambda agent: agent.woken),
    )


def agents(*, verbose: bool = False) -> list[Agent]:
    """All agents of this user, by name, each asked at the same time and given one second.

    Args:
        verbose: whether to ask what was left alone too.

    Raises:
        PermissionDenied: The registry is open to others.
    """
    folder = registry.folder()
    if folder is None:
        return []
    names = registry.names(folder)
    if not names:
        return []
    with ThreadPoolExecutor(min(len(names), _THREADS_MAX)) as threads:
        found = threads.map(lambda name: _agent(folder, name, verbose), names)
        return [agent for agent in found if agent is not None]


def command(name: str, op: str, **more: Any) -> dict[str, Any]:
    """Have the supervisor of an agent do something, and return its answer.

    Raises:
        NotFound: There is no such agent, or its supervisor is gone.
        AgentMemError: What the supervisor says.
    """
    folder = registry.folder()
    if folder is None:
        raise NotFound(f"no agent {name!r}: none was started with agentmem run yet")
    return control.ask(folder, name, {"op": op, **more}, timeout_s=COMMAND_TIMEOUT_S)


def _agent(folder: Path, name: str, verbose: bool) -> Agent | None:
    """What is known of one agent; None when it ended meanwhile."""
    request = {"op": "status", "verbose": verbose}
    try:
        answer = control.ask(folder, name, request, timeout_s=STATUS_TIMEOUT_S)
    except NotFound:
        return _without_socket(folder, name)
    except AgentMemError as error:
        return _silent(registry.note(folder, name), name, str(error))
    status = answer.get("agent")
    if not isinstance(status, Mapping):
        return _silent(registry.note(folder, name), name, "its answer names no agent")
    return Agent.from_status(name, status)


def _without_socket(folder: Path, name: str) -> Agent | None:
    note = registry.note(folder, name)
    if note is None:
        return None
    if note.is_alive:
        return _silent(note, name, "its supervisor does not listen")
    return _unknown(note, LOST, _KILLED)


def _silent(note: registry.Note | None, name: str, why: str) -> Agent:
    if note is not None and not note.is_alive:
        return _unknown(note, LOST, _KILLED)
    return _unknown(note or registry.Note(name, 0, 0, 0, "", 0), SILENT, why)


def _unknown(note: registry.Note, state: str, why: str) -> Agent:
    return Agent(
        name=note.name,
        state=state,
        pid=note.pid,
        root_pid=note.root_pid,
        command=note.command,
        started_ms=note.started_ms,
        why=registry.printable(why),
    )


def _ratio(before_bytes: int, now: Agent | Totals) -> float | None:
    """RAM before by RAM now, with all that agentmem takes for it."""
    now_bytes = now.resident_bytes + now.compressed_bytes + now.supervisor_bytes
    return before_bytes / now_bytes if before_bytes and now_bytes else None


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str,),
    "bool": (bool,),
    "int": (int,),
    "int | None": (int,),
    "float | None": (int, float),
}


def _fits(annotation: str, value: Any) -> bool:
    """Whether a value from a supervisor has the type of its field."""
    annotation = annotation.removeprefix("<class '").removesuffix("'>")
    types = _TYPES.get(annotation, ())
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def _left_alone(found: Any) -> Iterable[LeftAlone]:
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Mapping):
            pid, amount, why = each.get("pid"), each.get("bytes"), each.get("why")
            if isinstance(pid, int) and isinstance(amount, int):
                yield LeftAlone(pid, amount, registry.printable(str(why)))


def _milliseconds(found: Any) -> dict[str, float]:
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {str(key): value for key, value in pairs if _fits("float | None", value)}
