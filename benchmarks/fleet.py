"""`--count` instances of Claude Code at once (100), all idle and paged out; then 20 are asked.

Without the binary, whose pages all instances share, each may take 33 MB: its own memory, its
supervisor and its frames. With MCP servers (`--mcp`, 25 trees) there is no such limit.
"""

import random
import sys

from agentmem.bench.result import Figure, Result
from benchmarks import claude_code, measure
from benchmarks.claude_code import Claude
from benchmarks.managed import ManagedError
from benchmarks.stage import MB, Settings, Stage, meaning, stage, wrong
from benchmarks.tree import Turn

_EACH_MB_MAX = 33.0
_ASKED = 20
_SAY_EVERY = 10


async def run(settings: Settings) -> Result:
    """See the module."""
    async with stage(settings) as on:
        available = measure.mem_available_bytes()
        agents, turns = await _start(on, settings.count_or(25 if settings.mcp else 100))
        again = await _settle(on, agents)
        figures = [Figure("instances", len(agents), ""), *_memory(on, agents, available)]
        asked = random.Random(settings.seed).sample(agents, min(_ASKED, len(agents)))
        woken = [await agent.turn() for agent in asked]
        first = [turn.first_event_ms for turn in woken]
        alive = sum(agent.process.returncode is None for agent in agents)
        figures += [
            Figure("woken and asked", len(woken), ""),
            Figure("woken: first event, p50", measure.percentile(first, 0.5), "ms"),
            Figure("woken: first event, most", max(first), "ms"),
            Figure("answers", len(turns) + len(woken), ""),
            Figure("wrong answers", wrong(turns) + wrong(woken), "", 0),
            Figure("instances that ended", len(agents) - alive, "", 0),
        ]
        notes = [f"not paged out in time: {again}"] if again else []
        return Result(figures, meaning(on, [agent.name for agent in asked]), notes)


async def _start(on: Stage, count: int) -> tuple[list[Claude], list[Turn]]:
    """Instances one after the other, each with its turns; the first ones are idle meanwhile."""
    agents, turns = list[Claude](), list[Turn]()
    for number in range(count):
        agents.append(await on.claude(f"fleet-{number:03}"))
        turns += [await agents[-1].turn() for _ in range(on.settings.turns)]
        if (number + 1) % _SAY_EVERY == 0:
            left = measure.mem_available_bytes() / MB
            print(f"{number + 1} instances, {left:,.0f} MB available", file=sys.stderr)
    return agents, turns


async def _settle(on: Stage, agents: list[Claude]) -> dict[str, str]:
    """Wait until all are paged out; those that are not, and why."""
    late = {}
    for agent in agents:
        try:
            await on.runtime.reach(agent.name, "paged_out")
        except ManagedError as error:
            late[agent.name] = str(error)
    return late


def _memory(on: Stage, agents: list[Claude], available: int) -> list[Figure]:
    available -= measure.mem_available_bytes()
    pids = [pid for agent in agents for pid in agent.agent_pids()]
    memory = measure.memory_of_all(pids)
    binary = measure.file_resident_bytes(pids, claude_code.install())
    supervisors = sum(measure.supervisor_bytes(agent.pid) for agent in agents)
    count = len(agents)
    each = (memory.pss - binary + supervisors) / count / MB
    goal = None if on.settings.mcp else _EACH_MB_MAX
    return [
        Figure("processes, without supervisors", len(pids), ""),
        Figure("each, everything without the binary", each, "MB", goal),
        Figure("each, its own PSS", (memory.pss - binary) / count / MB, "MB"),
        Figure("each, private anonymous", memory.private_anonymous / count / MB, "MB"),
        Figure("each, supervisor and frames", supervisors / count / MB, "MB"),
        Figure("the binary's resident pages, once", binary / MB, "MB"),
        Figure("all together", (memory.pss + supervisors) / MB, "MB"),
        Figure("MemAvailable difference each", available / count / MB, "MB"),
    ]
