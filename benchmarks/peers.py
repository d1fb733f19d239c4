"""What else can be done with an idle Claude Code: RAM, wake, processor time, and what is lost.

Nothing at all; SIGSTOP with swap in zram; kill and `--resume`; agentmem. One after the other, each
with `--turns` turns before and `--count` times (10).
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agentmem.bench.result import Figure, Result
from benchmarks import claude_code, measure, zram
from benchmarks.claude_code import Claude
from benchmarks.managed import agentmem_command
from benchmarks.stage import MB, MIB, Settings, Stage, meaning, stage

_SETTLE_S = 3.0
_ZRAM_BYTES = 2048 * MIB


@dataclass
class Row:
    """What one way gave, a value for each time."""

    ram_bytes: list[int] = field(default_factory=list)
    """Idle: private memory of the tree, and what holds its compressed pages."""
    wake_ms: list[float] = field(default_factory=list)
    """From sending the user's line to the first event."""
    cpu_ms: list[float] = field(default_factory=list)
    """Of everything, for becoming idle and for being woken, the turn included."""
    wrong: int = 0
    lost: str = "nothing"


async def run(settings: Settings) -> Result:
    """See the module."""
    rows, notes = dict[str, Row](), list[str]()
    async with stage(settings) as on:
        count = settings.count_or(10)
        for name, way in _WAYS.items():
            try:
                rows[name] = await way(on, count)
            except (zram.Unavailable, SystemExit) as error:
                notes.append(f"{name}: left out: {error}")
        figures = []
        for name, row in rows.items():
            notes.append(f"{name}: lost: {row.lost}")
            ram = sum(row.ram_bytes) / len(row.ram_bytes) / MB
            figures += [
                Figure(f"{name}: RAM without the binary", ram, "MB"),
                Figure(f"{name}: first event, p50", measure.percentile(row.wake_ms, 0.5), "ms"),
                Figure(f"{name}: first event, most", max(row.wake_ms), "ms"),
                Figure(f"{name}: CPU a cycle, p50", measure.percentile(row.cpu_ms, 0.5), "ms"),
                Figure(f"{name}: wrong answers", row.wrong, "", 0),
            ]
        return Result(figures, meaning(on, count, sorted(rows)), notes)


def _private(agent: Claude) -> int:
    """PSS of a tree without the binary's pages."""
    pids = agent.agent_pids()
    binary = measure.file_resident_bytes(pids, claude_code.install())
    return measure.memory_of_all(pids).pss - binary


def _cpu_ns(agent: Claude) -> int:
    return measure.cpu_nanoseconds(agent.pids())


async def _cycle(
    agent: Claude, row: Row, rest: Callable[[], Awaitable[int]], wake: Callable[[], None]
) -> None:
    """Become idle, which gives the RAM then; wake; a turn."""
    began_ns = _cpu_ns(agent)
    row.ram_bytes.append(await rest())
    wake()
    turn = await agent.turn()
    row.wake_ms.append(turn.first_event_ms)
    row.wrong += not turn.right
    row.cpu_ms.append((_cpu_ns(agent) - began_ns) / 1e6)


async def _nothing(on: Stage, count: int) -> Row:
    agent, row = await on.claude("nothing", managed=False), Row()
    await agent.turns(on.settings.turns)

    async def rest() -> int:
        await asyncio.sleep(_SETTLE_S)
        return _private(agent)

    for _ in range(count):
        await _cycle(agent, row, rest, lambda: None)
    await on.end(agent)
    return row


async def _swapped(on: Stage, count: int, algorithm: str) -> Row:
    agent, row = await on.claude(f"zram-{algorithm}", managed=False), Row()
    await agent.turns(on.settings.turns)
    with zram.swap(_ZRAM_BYTES, algorithm) as device:
        try:
            async with _stopping(agent) as (stop, go_on):

                async def rest() -> int:
                    await asyncio.sleep(_SETTLE_S)
                    stop()
                    # In the kernel, on our account: no part of the tree's processor time.
                    began_ns = time.process_time_ns()
                    await asyncio.to_thread(zram.page_out, agent.agent_pids())
                    spent_ms.append((time.process_time_ns() - began_ns) / 1e6)
                    return _private(agent) + zram.used_bytes(device)

                spent_ms = list[float]()
                for _ in range(count):
                    await _cycle(agent, row, rest, go_on)
                    row.cpu_ms[-1] += spent_ms[-1]
        finally:
            # Before the device goes: else the kernel has to bring back all of it first.
            await on.end(agent)
    return row


@asynccontextmanager
async def _stopping(
    agent: Claude,
) -> AsyncIterator[tuple[Callable[[], None], Callable[[], None]]]:
    """SIGSTOP and SIGCONT for a tree, which runs in any case afterwards."""
    pids = agent.pids()

    def tell(number: int) -> None:
        for pid in pids:
            os.kill(pid, number)

    try:
        yield lambda: tell(signal.SIGSTOP), lambda: tell(signal.SIGCONT)
    finally:
        tell(signal.SIGCONT)


async def _resumed(on: Stage, count: int) -> Row:
    agent = await on.claude("resumed", managed=False)
    row = Row(lost="the processes, shells, MCP servers and their state, caches, an open draft")
    await agent.turns(on.settings.turns)
    for _ in range(count):
        assert agent.session is not None, "it has had a turn"
        await on.end(agent)
        row.ram_bytes.append(0)
        before, began_s = agent, time.perf_counter()
        agent = await on.claude("resumed", managed=False, options=["--resume", str(before.session)])
        agent.oracle = before.oracle
        started_ms = (time.perf_counter() - began_s) * 1000
        turn = await agent.turn()
        row.wake_ms.append(started_ms + turn.first_event_ms)
        row.wrong += not turn.right
        row.cpu_ms.append(_cpu_ns(agent) / 1e6)
    await on.end(agent)
    return row


async def _agentmem(on: Stage, count: int) -> Row:
    agentmem_command()
    agent, row = await on.claude("agentmem"), Row()
    await agent.turns(on.settings.turns)

    async def rest() -> int:
        await on.runtime.reach(agent.name, "paged_out")
        return _private(agent) + measure.supervisor_bytes(agent.pid)

    for _ in range(count):
        await _cycle(agent, row, rest, lambda: None)
    await on.end(agent)
    return row


_WAYS: dict[str, Callable[[Stage, int], Awaitable[Row]]] = {
    "nothing": _nothing,
    "SIGSTOP and zram (zstd)": lambda on, count: _swapped(on, count, "zstd"),
    "SIGSTOP and zram (lz4)": lambda on, count: _swapped(on, count, "lz4"),
    "kill and resume": _resumed,
    "agentmem": _agentmem,
}
