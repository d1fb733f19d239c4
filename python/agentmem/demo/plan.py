"""How big a demonstration is."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from agentmem.machine import cache_folder
from agentmem.process import mem_available_bytes

MB: Final = 1_000_000

Language = Literal["python", "node", "mixed"]
"""What the agents of a demonstration are written in."""

PROMPT_BYTES: Final = 50 * MB
TOOLS_BYTES: Final = 100 * MB
CONVERSATION_BYTES: Final = 300 * MB

FULL_AGENTS: Final = 100

# Where the budget is not given: this share of the logical bytes, and what the engine takes whatever
# it holds. At full size without SSD: 3,680 MB stored, 226 MB of tables, 150 MB that all look at.
# Where each agent is a process, up to 29 MB of rings and 80 MB of journal come on top.
_BUDGET_SHARE_WARM: Final = 1 / 10.5
_BUDGET_SHARE_EMBEDDED: Final = 1 / 10.8
_BUDGET_SHARE_COLD: Final = 1 / 46
_BUDGET_FIXED_BYTES: Final = 60 << 20

# What a run may take of the machine if nobody says how big it is to be.
_MEMORY_SHARE: Final = 1 / 2
_DISK_SHARE: Final = 1 / 4
_SECONDS: Final = 105.0
# Real conversations take at least this many times less room on SSD.
_COLD_RATIO: Final = 4


@dataclass(frozen=True)
class Plan:
    """What a demonstration does; the same plan always stores the same bytes.

    Attributes:
        agents: how many.
        scale: multiplies the sizes of what each of them holds.
        memory_max_bytes: the store's budget.
        cold: whether the store has a cold tier.
        corpus: where the text comes from; generated if empty.
        seed: of all that is random.
        language: what agents are written in; mixed: every other one in Node.
        embedded: whether all agents are in one process, which has the store within.
    """

    agents: int
    scale: float
    memory_max_bytes: int
    cold: bool
    corpus: tuple[str, ...]
    seed: int
    language: Language = "python"
    embedded: bool = False

    @property
    def prompt_bytes(self) -> int:
        """Size of the system prompt, which is the same for all."""
        return max(1, round(PROMPT_BYTES * self.scale))

    @property
    def tools_bytes(self) -> int:
        """Size of the tool definitions, which are the same for all."""
        return max(1, round(TOOLS_BYTES * self.scale))

    @property
    def conversation_bytes(self) -> int:
        """Size of the conversations of each agent, which are its own."""
        return max(1, round(CONVERSATION_BYTES * self.scale))

    @property
    def logical_bytes(self) -> int:
        """What all agents are to hold together."""
        return self.agents * (self.prompt_bytes + self.tools_bytes + self.conversation_bytes)

    def is_in_node(self, agent: int) -> bool:
        """Whether agent number `agent` is written in JavaScript."""
        return self.language == "node" or (self.language == "mixed" and agent % 2 == 1)

    def with_budget(self, memory_max_bytes: int | None) -> "Plan":
        """The same with that budget, or with one that makes the store compress what it holds."""
        if memory_max_bytes is None:
            warm = _BUDGET_SHARE_EMBEDDED if self.embedded else _BUDGET_SHARE_WARM
            share = _BUDGET_SHARE_COLD if self.cold else warm
            # Some agent always looks at the one while another looks at the other.
            shared = self.prompt_bytes + self.tools_bytes
            wanted = int(self.logical_bytes * share)
            wanted = max(2 * shared, wanted) if self.cold else shared + wanted
            memory_max_bytes = _BUDGET_FIXED_BYTES + wanted
        return replace(self, memory_max_bytes=memory_max_bytes)

    def fitted(self, bytes_per_second: Callable[["Plan"], float]) -> "Plan":
        """The same at the largest scale that is fair to the machine and takes about two minutes.

        `bytes_per_second` measures how fast a small plan is carried out.
        """
        full = replace(self, scale=1.0)
        rate = bytes_per_second(replace(self, agents=min(self.agents, 10), scale=0.05))
        limits = [
            1.0,
            rate * _SECONDS / full.logical_bytes,
            mem_available_bytes() * _MEMORY_SHARE / (full.logical_bytes * _BUDGET_SHARE_WARM),
        ]
        if self.cold:
            free_bytes = shutil.disk_usage(_existing(cache_folder())).free
            limits.append(free_bytes * _DISK_SHARE / (full.logical_bytes / _COLD_RATIO))
        # Two digits, so that it can be typed again.
        return replace(self, scale=max(0.001, float(f"{min(limits):.2g}")))


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
