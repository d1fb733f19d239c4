"""Streams: the conversations of an agent, in generations.

`log.3` is the log of generation 3. Numbers are times, so that one is never used again, though the
agent is closed and made anew. What is to be freed is left out when the next generation is
written, which counts from the moment that its log is there, and that is one step: a fork of what
was written under another name. Whatever else lies there, of a generation that is over or was never
finished, is released by the next.
"""

import time
from collections.abc import Iterable

import agentmem

LOG = "log"
"""The stream that makes a generation count."""
_NEXT = "next"


class Streams:
    """Streams of an agent that belongs to the caller.

    Args:
        agent: the agent.
    """

    def __init__(self, agent: agentmem.Agent) -> None:
        self._agent = agent
        self._open: dict[str, agentmem.Conversation] = {}
        numbers = {name: _generation(name) for name in agent.conversations()}
        logs = [number for name, number in numbers.items() if name.startswith(f"{LOG}.")]
        self.is_new = not logs
        """Whether there is none yet."""
        self.generation: int = max(logs) if logs else _fresh(numbers.values())
        """The one that counts, or that will."""

    def __getitem__(self, name: str) -> agentmem.Conversation:
        """A stream of the generation; the first use of it makes it."""
        if name not in self._open:
            self._open[name] = self._agent.conversation(f"{name}.{self.generation}")
        return self._open[name]

    def names(self) -> list[str]:
        """Streams that the generation has."""
        names = self._agent.conversations()
        return [name.partition(".")[0] for name in names if _generation(name) == self.generation]

    def next(self) -> "NextStreams":
        """Begin the next generation."""
        return NextStreams(self._agent)

    def copy_to(self, agent: agentmem.Agent, extra: Iterable[bytes]) -> None:
        """Make the generation one of another agent, which has none, with some more messages in its
        log. Nothing that is stored is stored again."""
        copy = NextStreams(agent)
        for name in self.names():
            if name != LOG:
                self[name].fork(name=f"{name}.{copy.generation}", agent=agent)
        begun = self[LOG].fork(name=_NEXT, agent=agent)
        begun.extend(list(extra))
        copy.finish()


class NextStreams:
    """A generation that does not count yet.

    Args:
        agent: its agent.
    """

    def __init__(self, agent: agentmem.Agent) -> None:
        self._agent = agent
        self._open: dict[str, agentmem.Conversation] = {}
        self._release(name for name in agent.conversations() if name == _NEXT)
        self.generation = _fresh(map(_generation, agent.conversations()))
        """Its number."""

    def __getitem__(self, name: str) -> agentmem.Conversation:
        """A stream of it."""
        if name not in self._open:
            full_name = _NEXT if name == LOG else f"{name}.{self.generation}"
            self._open[name] = self._agent.conversation(full_name)
        return self._open[name]

    def finish(self) -> None:
        """Let it count, and release what does not any more."""
        self[LOG].fork(name=f"{LOG}.{self.generation}")
        names = self._agent.conversations()
        self._release(name for name in names if _generation(name) != self.generation)

    def _release(self, names: Iterable[str]) -> None:
        for name in names:
            self._agent.release(self._agent.conversation(name))


def _fresh(there: Iterable[int]) -> int:
    """A number that comes after those that are there."""
    return max(time.time_ns(), 1 + max(there, default=0))


def _generation(name: str) -> int:
    number = name.rpartition(".")[2]
    return int(number) if number.isdigit() else -1
