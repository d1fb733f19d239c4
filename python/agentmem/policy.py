"""Reclaim policies written in Python."""

from collections.abc import Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """One SMU that could be demoted, as the engine sees it when it asks."""

    agent: str
    """Name of the agent that used it last."""
    agent_state: str
    """`active`, `paused` or `idle`."""
    agent_importance: int
    """0 to 100, as registered."""
    agent_idle_s: float
    """Seconds since the agent last did anything."""
    kind: str
    """`system_prompt`, `tool_definition`, `tool_result` or `message`."""
    importance: int
    """0 to 100, as given to `put`."""
    resident_bytes: int
    """What demoting it would free, at most."""
    idle_s: float
    """Seconds since its last use."""
    uses: int
    """How often it has been used."""
    restore_cost: float
    """What bringing it back would cost, in microseconds of expected waiting."""


class Policy:
    """Base of a reclaim policy written in Python; pass an instance as `agentmem.open(policy=...)`.

    The engine asks once per reclaim batch, never per put or view, and on its own thread: `choose`
    may take its time, but must not call the store that asks.

    Example:
        class BiggestFirst(agentmem.Policy):
            def choose(self, batch):
                return sorted(range(len(batch)), key=lambda i: -batch[i].resident_bytes)
    """

    def choose(self, batch: list[Candidate]) -> Sequence[int]:
        """The indices of `batch` in the order to demote, first first.

        The engine demotes in this order until its target is met; what is left out goes last, and
        only if the rest did not free enough. An exception, or an index that is out of range or
        given twice, makes the engine fall back to `lru` for this batch and count a
        `policy_error`.
        """
        raise NotImplementedError
