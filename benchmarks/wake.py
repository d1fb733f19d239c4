"""A turn that wakes a frozen agent, against one of an agent that nobody touches.

From sending the user's line to the first event of the answer; both by turns in one run, `--count`
times (50). From SSD beside it, a third as often.
"""

import asyncio
import random

from agentmem.bench.result import Figure, Result
from benchmarks import measure
from benchmarks.claude_code import Claude
from benchmarks.stage import Settings, Stage, meaning, stage, wrong
from benchmarks.tree import Turn

_PAUSE_S = (1.0, 1.5)


async def run(settings: Settings) -> Result:
    """See the module."""
    async with stage(settings) as on:
        count, choose = settings.count_or(50), random.Random(settings.seed)
        untouched = await on.claude("untouched", managed=False)
        managed = await on.claude("managed", ssd=True)
        turns = {name: list[Turn]() for name in ("untouched", "woken", "woken from SSD")}
        for agent in (untouched, managed):
            await agent.turns(settings.turns)
        for number in range(count + count // 3):
            ssd = number >= count
            await on.runtime.reach(managed.name, "paged_out")
            if ssd:
                await on.runtime.to_ssd(managed.name)
            # Neither is always the first, and neither begins while the other still tidies up.
            for agent in choose.sample((untouched, managed), 2):
                await asyncio.sleep(choose.uniform(*_PAUSE_S))
                name = "untouched" if agent is untouched else f"woken{' from SSD' * ssd}"
                turns[name].append(await agent.turn())
            if ssd:
                await on.runtime.request(managed.name, "limit", memory_max_bytes=None)
        figures = [figure for name, each in turns.items() for figure in _times(name, each)]
        figures += _added(turns)
        figures += await _wakes(on, managed)
        every = [turn for each in turns.values() for turn in each]
        figures += [Figure("answers", len(every), ""), Figure("wrong answers", wrong(every), "", 0)]
        return Result(figures, meaning(on, count))


def _times(name: str, turns: list[Turn]) -> list[Figure]:
    first = [turn.first_event_ms for turn in turns]
    total = [turn.total_ms for turn in turns]
    return [
        Figure(f"{name}: turns", len(turns), ""),
        Figure(f"{name}: first event, p50", measure.percentile(first, 0.5), "ms"),
        Figure(f"{name}: first event, p99", measure.percentile(first, 0.99), "ms"),
        Figure(f"{name}: whole turn, p50", measure.percentile(total, 0.5), "ms"),
    ]


def _added(turns: dict[str, list[Turn]]) -> list[Figure]:
    base = measure.percentile([turn.first_event_ms for turn in turns["untouched"]], 0.5)
    return [
        Figure(
            f"{name}: added to the first event, p50",
            measure.percentile([turn.first_event_ms for turn in each], 0.5) - base,
            "ms",
        )
        for name, each in turns.items()
        if name != "untouched"
    ]


async def _wakes(on: Stage, agent: Claude) -> list[Figure]:
    """What the supervisor itself says of its wakes."""
    status = await on.runtime.status(agent.name)
    return [
        Figure("supervisor: wakes", status["woken"], ""),
        Figure("supervisor: wake, p50", status["wake_ms_p50"], "ms"),
        Figure("supervisor: wake, p99", status["wake_ms_p99"], "ms"),
    ]
