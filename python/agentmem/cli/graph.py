"""Figures over time, drawn in characters."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentmem.fleet import Agent
from agentmem.listing import ApiAgent

_LEVELS = " ▁▂▃▄▅▆▇█"
_SAMPLES_MAX = 400


def graph(values: Sequence[float], width: int, height: int = 1, *, top: float = 0) -> list[str]:
    """The last `width` values as lines of characters, from zero to `top` or the largest of them."""
    shown = list(values)[-width:]
    top = max(top, *shown, 0) or 1
    steps = len(_LEVELS) - 1
    # What is not zero is always seen.
    levels = [max(round(value / top * height * steps), int(value > 0)) for value in shown]
    lines = []
    for row in reversed(range(height)):
        line = "".join(_LEVELS[min(max(level - row * steps, 0), steps)] for level in levels)
        lines.append(line.rjust(width))
    return lines


class History:
    """What agents had in RAM, sample after sample; those that are gone are forgotten."""

    def __init__(self) -> None:
        self.total: deque[int] = deque(maxlen=_SAMPLES_MAX)
        self._agents: dict[tuple[str, str], deque[int]] = {}

    def add(self, agents: Iterable[Agent | ApiAgent], store: Mapping[str, Any] | None) -> None:
        """Take one sample. What the API's agents share is in the figures of the store once."""
        known = [agent for agent in agents if agent.has_answered]
        none: deque[int] = deque(maxlen=_SAMPLES_MAX)
        self._agents = {_key(agent): self._agents.get(_key(agent), none.copy()) for agent in known}
        for agent in known:
            self._agents[_key(agent)].append(agent.resident_bytes)
        trees = sum(agent.resident_bytes for agent in known if isinstance(agent, Agent))
        self.total.append(trees + (store["resident_bytes"] if store else 0))

    def of(self, agent: Agent | ApiAgent) -> Sequence[int]:
        """The samples of an agent."""
        return self._agents.get(_key(agent), ())


def _key(agent: Agent | ApiAgent) -> tuple[str, str]:
    return agent.type, agent.name
