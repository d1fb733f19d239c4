"""The baseline: Claude Code without agentmem. `--count` instances at once (4), `--turns` each."""

import asyncio
import os
import signal

from agentmem.bench.result import Figure, Result
from benchmarks import claude_code, measure
from benchmarks.claude_code import Claude
from benchmarks.stage import MB, Settings, Stage, meaning, stage, wrong
from benchmarks.tree import Turn

_IDLE_S = 10.0
_STOPS = 20
_STOPPED_S = 1.0


async def run(settings: Settings) -> Result:
    """See the module."""
    async with stage(settings) as on:
        before = measure.mem_available_bytes()
        agents, turns = [], list[list[Turn]]()
        for number in range(settings.count_or(4)):
            agents.append(await on.claude(f"plain-{number}", managed=False))
            turns.append([await agents[-1].turn() for _ in range(settings.turns)])
        figures = await _memory(agents, before)
        figures += _times("turn", [turn for each in turns for turn in each[1:]])
        figures += await _idle(agents)
        stopped = await _stops(agents[0])
        figures += _times("turn that follows SIGSTOP and SIGCONT", stopped)
        everything = [*stopped, *(turn for each in turns for turn in each)]
        starts = [each[0].first_event_ms for each in turns]
        figures += [
            Figure("first event after the start, p50", measure.percentile(starts, 0.5), "ms"),
            Figure("answers", len(everything), ""),
            Figure("wrong answers", wrong(everything), "", 0),
        ]
        return Result(figures, meaning(on, len(agents)), _notes(on))


async def _memory(agents: list[Claude], before: int) -> list[Figure]:
    await asyncio.sleep(1.0)
    available = before - measure.mem_available_bytes()
    each = [measure.memory_of_all(agent.pids()) for agent in agents]
    pids = [pid for agent in agents for pid in agent.pids()]
    binary = measure.file_resident_bytes(pids, claude_code.install())
    private = [memory.private_anonymous / MB for memory in each]
    pss = sum(memory.pss for memory in each)
    return [
        Figure("instances", len(agents), ""),
        Figure("processes", len(pids), ""),
        Figure("private anonymous each, mean", sum(private) / len(private), "MB"),
        Figure("private anonymous each, least", min(private), "MB"),
        Figure("private anonymous each, most", max(private), "MB"),
        Figure("PSS each, without the binary", (pss - binary) / len(each) / MB, "MB"),
        Figure("the binary's resident pages, once", binary / MB, "MB"),
        Figure("MemAvailable difference each", available / len(each) / MB, "MB"),
    ]


def _times(what: str, turns: list[Turn]) -> list[Figure]:
    first = [turn.first_event_ms for turn in turns]
    total = [turn.total_ms for turn in turns]
    return [
        Figure(f"{what}: first event, p50", measure.percentile(first, 0.5), "ms"),
        Figure(f"{what}: first event, p99", measure.percentile(first, 0.99), "ms"),
        Figure(f"{what}: whole, p50", measure.percentile(total, 0.5), "ms"),
    ]


async def _idle(agents: list[Claude]) -> list[Figure]:
    """What instances that do nothing do."""
    pids = [pid for agent in agents for pid in agent.pids()]
    cpu, switches = measure.cpu_nanoseconds(pids), measure.context_switches(pids)
    await asyncio.sleep(_IDLE_S)
    cpu = measure.cpu_nanoseconds(pids) - cpu
    after = measure.context_switches(pids)
    woken = sum(after[thread] - count for thread, count in switches.items() if thread in after)
    per_s = len(agents) * _IDLE_S
    return [
        Figure("idle: processor time each", cpu / 1e9 / per_s * 100, "% of a core"),
        Figure("idle: wakeups each", woken / per_s, "/s"),
    ]


async def _stops(agent: Claude) -> list[Turn]:
    """Turns of an agent that is stopped, and continued at the moment the line is sent."""
    turns = []
    for _ in range(_STOPS):
        os.kill(agent.pid, signal.SIGSTOP)
        await asyncio.sleep(_STOPPED_S)
        os.kill(agent.pid, signal.SIGCONT)
        turns.append(await agent.turn())
        await asyncio.sleep(0.2)
    return turns


def _notes(on: Stage) -> list[str]:
    states = {name: state for tree in on.trees for name, state in _servers(tree).items()}
    return [f"MCP servers: {states}"] if on.settings.mcp else []


def _servers(tree: object) -> dict[str, str]:
    return tree.mcp_servers if isinstance(tree, Claude) else {}
