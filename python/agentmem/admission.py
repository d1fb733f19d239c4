"""Whether there is room for another agent: a decision, from figures that are handed in."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agentmem.fleet import Agent
from agentmem.units import format_bytes

RESERVE_SHARE = 0.05
"""The part of the machine's memory that is kept free,"""

RESERVE_BYTES_MIN = 256 * 1024**2
"""and the least of it."""

RATIO_ASSUMED = 3.0
"""How far an agent's memory is taken to shrink while no agent has shown it: less than any did."""


class Room(NamedTuple):
    """What was decided, and from what."""

    is_room: bool
    need_bytes: int
    available_bytes: int
    """What the kernel could give without swapping."""
    reserve_bytes: int
    """What is not given away."""
    reclaimable_bytes: int
    """What idle agents would give, once they are paged out."""
    idle_agents: int
    """How many those are."""
    fleet_left_bytes: int | None = None
    """What the fleet's budget leaves; negative beyond it, None where there is none."""

    @property
    def why(self) -> str:
        """One line."""
        said = "room" if self.is_room else "no room"
        agents = "1 idle agent" if self.idle_agents == 1 else f"{self.idle_agents} idle agents"
        budget = ""
        if self.fleet_left_bytes is not None:
            left = format_bytes(abs(self.fleet_left_bytes))
            is_beyond = self.fleet_left_bytes < 0
            budget = f", {left} {'beyond' if is_beyond else 'left of'} the fleet's budget"
        return (
            f"{said} for {format_bytes(self.need_bytes)}:"
            f" {format_bytes(self.available_bytes)} available,"
            f" {format_bytes(self.reserve_bytes)} of it kept in reserve,"
            f" {format_bytes(self.reclaimable_bytes)} to be had from {agents}{budget}"
        )


def fleet_left(figures: Mapping[str, float]) -> int | None:
    """What the budget of content and managed trees leaves; None where there is no such budget.

    Args:
        figures: the daemon's metrics by name.
    """
    budget = figures.get("agentmem_fleet_budget_bytes", 0)
    taken = figures.get("agentmem_resident_bytes", 0) + figures.get("agentmem_tree_bytes", 0)
    return int(budget - taken) if budget else None


def decide(
    need_bytes: int,
    total_bytes: int,
    available_bytes: int,
    agents: Iterable[Agent],
    fleet_left_bytes: int | None = None,
) -> Room:
    """Whether `need_bytes` more fit.

    Args:
        need_bytes: what the new agent will take.
        total_bytes: the machine's memory.
        available_bytes: what of it the kernel could give without swapping.
        agents: those that run. Only idle ones count: what is paged out has given already, and what
            works needs what it has.
        fleet_left_bytes: what the fleet's budget leaves, where it has one.
    """
    known = [agent for agent in agents if agent.has_answered]
    fleet_ratio = _ratio(known) or RATIO_ASSUMED
    idle = [agent for agent in known if agent.state == "idle"]
    reclaimable = sum(
        int(agent.private_bytes * (1 - 1 / max(_ratio([agent]) or fleet_ratio, 1.0)))
        for agent in idle
    )
    reserve = max(int(total_bytes * RESERVE_SHARE), RESERVE_BYTES_MIN)
    rooms = [available_bytes - reserve]
    if fleet_left_bytes is not None:
        rooms.append(fleet_left_bytes)
    return Room(
        is_room=min(rooms) + reclaimable >= need_bytes,
        need_bytes=need_bytes,
        available_bytes=available_bytes,
        reserve_bytes=reserve,
        reclaimable_bytes=reclaimable,
        idle_agents=len(idle),
        fleet_left_bytes=fleet_left_bytes,
    )


def _ratio(agents: Iterable[Agent]) -> float | None:
    """How far what agents hold in frames has shrunk in RAM; None when they hold nothing."""
    agents = list(agents)
    held = sum(agent.held_bytes for agent in agents)
    compressed = sum(agent.compressed_bytes for agent in agents)
    return held / compressed if held and compressed else None
