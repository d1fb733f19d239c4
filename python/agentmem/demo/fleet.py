"""All processes of a demonstration, seen from the command that started them."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import agentmem
from agentmem import errors
from agentmem.demo import stage, wire
from agentmem.demo.plan import Plan
from agentmem.demo.wire import Frame, Kind
from agentmem.process import Memory, cpu_seconds_of, memory_of, summed_bytes

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

# What the others may say before this process listens.
_PIPE_BYTES: Final = 1 << 20


class Fleet:
    """Starts everything when entered, and ends it when left.

    Attributes:
        agents: the agents' processes.
        store: those that have the store: the daemon's, its engine last, or the one that has all.
        others: those that belong to it too: their parent and this one. The writer's is none of
            them: it stands for the world, from which agents get what they hold.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.agents: list[int] = []
        self.store: list[int] = []
        self.others = [os.getpid()]
        self._began_cpu_s = cpu_seconds_of(self.others)
        self._states: dict[int, dict[str, Any]] = {}
        self._socket = Path()
        self._stats: dict[str, Any] = {}
        self._process = subprocess.Popen(
            stage.command(plan),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=_PIPE_BYTES,
            # A key that interrupts this process is not for those: they end when it lets go of them.
            process_group=0,
        )

    def perform(self, progress: Progress) -> dict[str, Any]:
        """Wait until all is put and read back; what the writer reports.

        Raises:
            Io: The corpus cannot be read, or a process died.
            OutOfMemory: The budget is too small for what cannot be compressed further.
        """
        assert self._process.stdout is not None
        report: dict[str, Any] | None = None
        for frame in wire.read(self._process.stdout):
            match frame.kind:
                case Kind.STAGE:
                    self._meet(json.loads(frame.messages[0]))
                case Kind.STATE:
                    self._states[frame.agent] = json.loads(frame.messages[0])
                    self._tell(progress)
                case Kind.REPORT:
                    report = json.loads(frame.messages[0])
                case Kind.FAILED:
                    raise _error(frame)
            is_told = bool(self._stats) or not self._plan.embedded
            if report is not None and self.checked == self.samples and is_told:
                return report
        raise errors.Io("the processes of the demonstration ended before their work was done")

    def _meet(self, who: dict[str, Any]) -> None:
        match who:
            case {"process": "agents", "pid": pid}:
                self.agents.append(pid)
            case {"process": "store", "pid": pid}:
                self.store.append(pid)
            case {"process": "stage", "pid": pid}:
                self.others.append(pid)
            case {"socket": path}:
                self._socket = Path(path)
            case {"stats": stats}:
                self._stats = stats

    def _tell(self, progress: Progress) -> None:
        if self.checked:
            progress("reading back", self.checked, self.samples)
        else:
            progress("putting", self.logical_bytes, self._plan.logical_bytes)

    def _sum(self, name: str) -> int:
        return sum(state[name] for state in list(self._states.values()))

    @property
    def logical_bytes(self) -> int:
        """What all agents have put so far."""
        return self._sum("logical_bytes")

    @property
    def messages(self) -> int:
        """How many messages that were."""
        return self._sum("messages")

    @property
    def samples(self) -> int:
        """What is read back, or will be."""
        return self._sum("samples")

    @property
    def checked(self) -> int:
        """What was read back so far."""
        return self._sum("checked")

    @property
    def failed(self) -> int:
        """Of these, what was not what had been put."""
        return self._sum("failed")

    def digest(self) -> str:
        """A hash of what was put and chosen: equal whenever the same plan was carried out."""
        each = [self._states[number]["digest"] for number in range(self._plan.agents)]
        return hashlib.sha256(repr(each).encode()).hexdigest()

    def resident_bytes(self) -> int:
        """Memory of all processes but the writer's, each page once."""
        return summed_bytes([*self.others, *self.store, *self.agents])

    def store_bytes(self) -> int:
        """Memory of the processes that have the store, with all that it holds for the agents."""
        return summed_bytes(self.store)

    def memory_of_agents(self) -> list[Memory]:
        """Memory of each agent's process."""
        return [memory_of(pid) for pid in self.agents]

    def cpu_seconds(self) -> float:
        """Processor time of all processes but the writer's, since the beginning."""
        used_s = cpu_seconds_of([*self.others, *self.store, *self.agents])
        return used_s - self._began_cpu_s

    def stats(self) -> dict[str, Any]:
        """What the store says of itself, as `stage.figures_of` has it."""
        if not self._stats:
            with agentmem.connect(self._socket, start=False) as mem:
                self._stats = stage.figures_of(mem)
        return self._stats

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        # Whoever is still talking must not wait for a listener.
        self._process.stdout.close()
        self._process.wait()


def _error(frame: Frame) -> errors.AgentMemError:
    """The error that a process ended with."""
    name, text = (message.decode(errors="replace") for message in frame.messages)
    kind = getattr(errors, name, errors.Io)
    assert issubclass(kind, errors.AgentMemError)
    return kind(text)
