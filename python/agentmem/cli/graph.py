"""Figures over time, drawn in characters."""

from collections import deque
from collections.abc import Iterable, Sequence

from agentmem.fleet import Agent

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
        self._agents: dict[str, deque[int]] = {}

    def add(self, agents: Iterable[Agent]) -> None:
        """Take one sample."""
        known = [agent for agent in agents if agent.has_answered]
        self._agents = {
            agent.name: self._agents.get(agent.name, deque(maxlen=_SAMPLES_MAX)) for agent in known
        }
        for agent in known:
            self._agents[agent.name].append(agent.resident_bytes)
        self.total.append(sum(agent.resident_bytes for agent in known))

    def of(self, name: str) -> Sequence[int]:
        """The samples of an agent."""
        return self._agents.get(name, ())
