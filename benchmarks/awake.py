"""What being managed costs while awake, and what a frozen tree costs.

A managed and a plain Claude Code take turns, in random order within each pair; `--count` pairs
(60). Then the managed one is frozen and its processor time over 30 s must be nothing.
"""

import asyncio
import random

from agentmem.bench.result import Figure, Result
from benchmarks import measure
from benchmarks.claude_code import Claude
from benchmarks.stage import Settings, Stage, meaning, stage, wrong
from benchmarks.tree import Turn

_FROZEN_S = 30.0


async def run(settings: Settings) -> Result:
    """See the module."""
    # The model waits for nothing: what is measured is the client's own work.
    async with stage(settings, first_ms=0.0, stream_ms=0.0) as on:
        plain = await on.claude("plain", managed=False)
        # Never idle during the pairs.
        managed = await on.claude("managed", idle_after="3600s")
        agents = (plain, managed)
        for agent in agents:
            await agent.turns(settings.turns)
        turns, cpu = await _pairs(agents, settings.count_or(60), settings.seed)
        figures = _ratios(turns, cpu, settings.seed)
        figures += await _frozen(on)
        every = [turn for each in turns for turn in each]
        figures += [Figure("answers", len(every), ""), Figure("wrong answers", wrong(every), "", 0)]
        return Result(figures, meaning(on, settings.count_or(60)))


async def _pairs(
    agents: tuple[Claude, Claude], count: int, seed: int
) -> tuple[tuple[list[Turn], list[Turn]], tuple[list[float], list[float]]]:
    """Turns of both, and the processor time of each turn in seconds."""
    choose = random.Random(seed)
    turns: tuple[list[Turn], list[Turn]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    for _ in range(count):
        for which in choose.sample((0, 1), 2):
            began_ns = measure.cpu_nanoseconds(agents[which].pids())
            turns[which].append(await agents[which].turn())
            used_ns = measure.cpu_nanoseconds(agents[which].pids()) - began_ns
            cpu[which].append(used_ns / 1e9)
    return turns, cpu


def _ratios(
    turns: tuple[list[Turn], list[Turn]], cpu: tuple[list[float], list[float]], seed: int
) -> list[Figure]:
    values = {
        "whole turn": [[turn.total_ms for turn in each] for each in turns],
        "first event": [[turn.first_event_ms for turn in each] for each in turns],
        "processor time": [[value * 1000 for value in each] for each in cpu],
    }
    figures = []
    for what, (base, measured) in values.items():
        ratio = measure.Pairs(seed, measured, base).ratio()
        figures += [
            Figure(f"{what}: plain, p50", measure.percentile(base, 0.5), "ms"),
            Figure(f"{what}: managed, p50", measure.percentile(measured, 0.5), "ms"),
            Figure(f"{what}: managed / plain", ratio.value, ""),
            Figure(f"{what}: 95 % interval, low", ratio.low, ""),
            Figure(f"{what}: 95 % interval, high", ratio.high, ""),
        ]
    return figures


async def _frozen(on: Stage) -> list[Figure]:
    """Processor time of a frozen tree, and of its supervisor."""
    agent = await on.claude("frozen")
    await agent.turns(2)
    await on.runtime.reach(agent.name, "paged_out")
    pids = agent.agent_pids()
    tree, supervisor = measure.cpu_nanoseconds(pids), measure.cpu_nanoseconds([agent.pid])
    await asyncio.sleep(_FROZEN_S)
    tree = measure.cpu_nanoseconds(pids) - tree
    supervisor = measure.cpu_nanoseconds([agent.pid]) - supervisor
    return [
        Figure(f"frozen for {_FROZEN_S:.0f} s: the tree", tree / 1e6, "ms of CPU", 0),
        Figure(f"frozen for {_FROZEN_S:.0f} s: its supervisor", supervisor / 1e6, "ms of CPU"),
    ]
