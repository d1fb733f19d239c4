"""What paging out costs, first and with most blocks unchanged; and input that arrives meanwhile."""

import asyncio
import random

from agentmem.bench.result import Figure, Result
from benchmarks import measure, programs
from benchmarks.stage import Settings, Stage, meaning, stage
from benchmarks.tree import Tree

_MIB = 150
_BLOCKS = _MIB * 16
_UNCHANGED = 0.8
_INTERRUPTED_MS_MAX = 60.0
_IDLE_AFTER_S = 1.0
_SPREAD_S = 1.2


async def run(settings: Settings) -> Result:
    """See the module."""
    async with stage(settings) as on:
        program = programs.blocks(_MIB, settings.seed)
        managed = await on.lines("managed", program, idle_after=f"{_IDLE_AFTER_S:.0f}s")
        untouched = await on.lines("untouched", program, managed=False)
        for tree in (managed, untouched):
            await tree.receive()
        figures, bad = await _costs(on, managed, untouched)
        more, also_bad = await _interrupted(on, managed, untouched, settings.count_or(60))
        figures += [*more, Figure("wrong answers", bad + also_bad, "", 0)]
        return Result(figures, meaning(on, settings.count_or(60)))


async def _costs(on: Stage, managed: Tree, untouched: Tree) -> tuple[list[Figure], int]:
    """Page out three times: everything new, a fifth of the blocks new, nothing new."""
    figures, bad = [], 0
    changed = round(_BLOCKS * (1 - _UNCHANGED))
    for what, count in (("first", 0), ("80 % unchanged", changed), ("unchanged", 0)):
        line = f"dirty {count}"
        bad += not (await managed.ask(line, (await untouched.ask(line)).answer)).right
        status = await on.runtime.reach(managed.name, "paged_out")
        cost = status["page_out_ms"]
        figures += [Figure(f"{what}: {name}", cost[name], "ms") for name in cost]
        bad += not (await managed.ask("check", (await untouched.ask("check")).answer)).right
    return figures, bad


async def _interrupted(
    on: Stage, managed: Tree, untouched: Tree, count: int
) -> tuple[list[Figure], int]:
    """Lines sent at random moments around a page-out.

    One that comes before the first drop aborts it; one that comes after that wakes the tree.
    """
    choose, bad, base = random.Random(on.settings.seed), 0, list[float]()
    times: dict[str, list[float]] = {"aborted": [], "woken": []}
    for number in range(count):
        # A part of the blocks is new each time, so that there is something to be aborted.
        line = f"dirty {_BLOCKS // 2}"
        bad += not (await managed.ask(line, (await untouched.ask(line)).answer)).right
        before = (await on.runtime.status(managed.name))["page_outs"]
        await asyncio.sleep(_IDLE_AFTER_S + choose.uniform(-0.1, _SPREAD_S))
        turn = await managed.ask(f"echo {number}", f"echo {number}")
        bad += not turn.right
        after = (await on.runtime.status(managed.name))["page_outs"]
        times["aborted" if after == before else "woken"].append(turn.total_ms)
        base.append((await untouched.ask(f"echo {number}")).total_ms)
    figures = [Figure("untouched: answer, p99", measure.percentile(base, 0.99), "ms")]
    for name, each in times.items():
        goal = _INTERRUPTED_MS_MAX if name == "aborted" else None
        figures.append(Figure(f"input meanwhile, {name}: times", len(each), ""))
        if each:
            most = max(each)
            figures += [
                Figure(f"{name}: answer, p50", measure.percentile(each, 0.5), "ms"),
                Figure(f"{name}: answer, most", most, "ms", goal),
            ]
    return figures, bad
