"""One Claude Code after `--turns` turns, idle and paged out: in RAM, and with its frames on SSD."""

import asyncio

from agentmem.bench.result import Figure, Result
from benchmarks import claude_code, measure
from benchmarks.claude_code import Claude
from benchmarks.managed import Status
from benchmarks.stage import MB, Settings, Stage, meaning, stage, wrong

_PRIVATE_MB_MAX = 4.0
_COMPRESSED_MB_MAX = 26.0
_SUPERVISOR_MB_MAX = 3.0
_SQUEEZED_AFTER_S = 160.0


async def run(settings: Settings) -> Result:
    """See the module."""
    async with stage(settings) as on:
        # As users have it: a runtime gives memory back by itself in the first seconds of idleness.
        agent = await on.claude("idle", idle_after="30s", ssd=True)
        turns = [await agent.turn() for _ in range(settings.turns)]
        before = measure.memory_of_all(agent.agent_pids()).private_anonymous
        status = await on.runtime.reach(agent.name, "paged_out")
        figures = [Figure("awake: private anonymous", before / MB, "MB")]
        figures += _paged_out(agent, status)
        figures.append(await _squeezed(on, agent))
        figures += await _on_ssd(on, agent)
        turns.append(await agent.turn())
        status = await on.runtime.status(agent.name, verbose=True)
        figures += [
            Figure("answers", len(turns), ""),
            Figure("wrong answers", wrong(turns), "", 0),
        ]
        notes = [f"left alone: {_left_alone(status)}", f"last wake: {status['last_wake']}"]
        return Result(figures, meaning(on), notes)


def _paged_out(agent: Claude, status: Status) -> list[Figure]:
    pids = agent.agent_pids()
    memory = measure.memory_of_all(pids)
    binary = measure.file_resident_bytes(pids, claude_code.install())
    supervisor = measure.supervisor_bytes(agent.pid)
    everything = memory.pss + supervisor - binary
    return [
        Figure("idle: private anonymous", memory.private_anonymous / MB, "MB", _PRIVATE_MB_MAX),
        Figure("idle: compressed, at once", status["compressed_bytes"] / MB, "MB"),
        Figure("idle: that stands for", status["held_bytes"] / MB, "MB"),
        Figure("idle: PSS without the binary", (memory.pss - binary) / MB, "MB"),
        Figure("idle: supervisor with frames", supervisor / MB, "MB"),
        Figure("idle: everything without the binary", everything / MB, "MB"),
        Figure("page-out: stopped", status["page_out_ms"]["stopped"], "ms"),
        Figure("page-out: live", status["page_out_ms"]["live"], "ms"),
        Figure("page-out: processor time", status["page_out_ms"]["cpu"], "ms"),
    ]


async def _squeezed(on: Stage, agent: Claude) -> Figure:
    """What was compressed in a hurry is compressed again once the agent is away for a while."""
    await asyncio.sleep(_SQUEEZED_AFTER_S)
    status = await on.runtime.status(agent.name)
    return Figure("idle: compressed", status["compressed_bytes"] / MB, "MB", _COMPRESSED_MB_MAX)


async def _on_ssd(on: Stage, agent: Claude) -> list[Figure]:
    status = await on.runtime.to_ssd(agent.name)
    await on.runtime.request(agent.name, "limit", memory_max_bytes=None)
    supervisor = measure.supervisor_bytes(agent.pid)
    return [
        Figure("on SSD: compressed in RAM", status["compressed_bytes"] / MB, "MB", 0),
        Figure("on SSD: there", status["ssd_bytes"] / MB, "MB"),
        Figure("on SSD: supervisor", supervisor / MB, "MB", _SUPERVISOR_MB_MAX),
    ]


def _left_alone(status: Status) -> str:
    reasons: dict[str, int] = {}
    for each in status.get("left_alone", ()):
        reasons[each["why"]] = reasons.get(each["why"], 0) + each["bytes"]
    return ", ".join(f"{why} {count / MB:.1f} MB" for why, count in reasons.items()) or "nothing"
