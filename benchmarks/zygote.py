"""--count agents in processes of their own, forked from a zygote, a message a second each."""

import asyncio
import contextlib
import os
import random
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import agentmem
from agentmem.bench.result import Figure, Result
from agentmem.bench.timing import quantile, quantiles
from agentmem.daemon import PROGRAM
from agentmem.zygote import Child, Zygote
from benchmarks.agents import spawned
from benchmarks.measure import Memory, cpu_seconds, mem_available_bytes, memory_of
from benchmarks.stage import MB, MIB, Settings

_AGENTS = 1000
_BASELINE_AGENTS = 20
_BASELINE_S = 20.0
_STEADY_S = 60.0
_PERIOD_S = 1.0
_PAUSE_S = 0.03
_REGISTRATIONS = 300
_PROMPT_BYTES, _TOOLS_BYTES = 16 << 10, 64 << 10
_AGENT_BYTES = 6 * MIB
"""Of memory that must be there for each, so that the machine does not run out."""
_AVAILABLE_BYTES_MIN = 2048 * MIB


class Fleet:
    """Children, with the pipes that all of them share."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self.children: list[Child] = []
        self._stdin, self._end = os.pipe()
        self._reading, self._stdout = os.pipe()

    def spawn(self, period_s: float) -> int:
        """One more; nanoseconds from the request to its first message."""
        began = time.perf_counter_ns()
        child = self._zygote.spawn(str(period_s), stdin=self._stdin, stdout=self._stdout)
        first = self._read(1)[0]
        self.children.append(child)
        return first - began

    def end(self) -> list[int]:
        """Nanoseconds that their messages took, once all have ended."""
        os.close(self._end)
        nanoseconds: list[int] = []
        for _ in self.children:
            nanoseconds += self._read(self._read(1)[0])
        for child in self.children:
            with child:
                assert child.wait(60) == 0
        for descriptor in (self._stdin, self._reading, self._stdout):
            os.close(descriptor)
        return nanoseconds

    def _read(self, count: int) -> tuple[int, ...]:
        data = b""
        while len(data) < 8 * count:
            data += os.read(self._reading, 8 * count - len(data))
        return struct.unpack(f"{count}q", data)


async def run(settings: Settings) -> Result:
    """Spawn, let them talk, look, end."""
    count = settings.count or _AGENTS
    needed_bytes = count * _AGENT_BYTES + _AVAILABLE_BYTES_MIN
    if mem_available_bytes() < needed_bytes:
        raise SystemExit(f"{count} agents need {needed_bytes // MB} MB; give a smaller --count")
    async with daemon() as pid:
        figures = [
            Figure("daemon without agents, PSS", memory_of(pid).pss / MB, "MB", 30.0),
            Figure("one registered idle agent", idle_agent_bytes(pid, count) / 1024, "KiB", 300.0),
        ]
        with agentmem.connect(start=False) as mem, Zygote("benchmarks.agents.spawned") as zygote:
            owner = mem.agent("owner")
            chance = random.Random(settings.seed)
            prompt = owner.put(chance.randbytes(_PROMPT_BYTES), name=spawned.PROMPT).id
            tools = owner.put(chance.randbytes(_TOOLS_BYTES), name=spawned.TOOLS).id
            baseline = await _few(zygote)
            fleet = Fleet(zygote)
            available_bytes = mem_available_bytes()
            firsts = [await _paced(fleet) for _ in range(count)]
            began_s, cpu_s = time.monotonic(), cpu_seconds([pid])
            registered = [_register(mem, number) for number in range(_REGISTRATIONS)]
            await asyncio.sleep(_STEADY_S)
            cpu_share = (cpu_seconds([pid]) - cpu_s) / (time.monotonic() - began_s)
            taken_bytes = available_bytes - mem_available_bytes()
            agents = [memory_of(child.pid) for child in fleet.children]
            others = [memory_of(pid), memory_of(zygote.status()["pid"])]
            puts = fleet.end()
            zygote.stop()
    figures += [
        *_memory(agents, others, taken_bytes, count),
        *quantiles("from spawn() to the first message", firsts, 1000.0),
        *quantiles(f"register, attach, first message beside {count}", registered, None, 1000.0),
        Figure("daemon, of one core", 100 * cpu_share, "%", 10.0),
        *quantiles(f"append with {_BASELINE_AGENTS} agents", baseline),
        *quantiles(f"append with {count} agents", puts),
    ]
    return Result(figures, [count, _PERIOD_S, prompt, tools])


def _memory(
    agents: list[Memory], others: list[Memory], taken_bytes: int, count: int
) -> Iterator[Figure]:
    total_bytes = sum(each.pss for each in agents + others)
    yield Figure(f"{count} agents, zygote and daemon, PSS", total_bytes / MB, "MB", 12_000.0)
    yield Figure("MemAvailable difference", taken_bytes / MB, "MB")
    yield Figure("daemon, PSS", others[0].pss / MB, "MB")
    private = [each.private_anonymous for each in agents]
    yield Figure("private anonymous memory of an agent, p50", quantile(private, 0.5) / MB, "MB")


async def _few(zygote: Zygote) -> list[int]:
    """What messages take while there are few agents."""
    fleet = Fleet(zygote)
    for _ in range(_BASELINE_AGENTS):
        await _paced(fleet)
    await asyncio.sleep(_BASELINE_S)
    return fleet.end()


async def _paced(fleet: Fleet) -> int:
    nanoseconds = fleet.spawn(_PERIOD_S)
    await asyncio.sleep(_PAUSE_S)
    return nanoseconds


def _register(mem: agentmem.Store, number: int) -> int:
    began = time.perf_counter_ns()
    agent = mem.agent(f"registered-{number}")
    spawned.first_message(agent)
    return time.perf_counter_ns() - began


def idle_agent_bytes(pid: int, count: int) -> float:
    """What one agent with a session of its own takes that does nothing, on both sides."""
    before_bytes = memory_of(pid).pss + memory_of(os.getpid()).pss
    stores = [agentmem.connect(start=False) for _ in range(count)]
    agents = [store.agent(f"idle-{number}") for number, store in enumerate(stores)]
    after_bytes = memory_of(pid).pss + memory_of(os.getpid()).pss
    for agent, store in zip(agents, stores, strict=True):
        agent.close()
        store.close()
    return (after_bytes - before_bytes) / count


@contextlib.asynccontextmanager
async def daemon() -> AsyncIterator[int]:
    """A daemon of the benchmark's own, which everything in this process's environment leads to;
    gives its process."""
    with tempfile.TemporaryDirectory(prefix="amb-") as folder, contextlib.ExitStack() as stack:
        socket, configuration = Path(folder) / "socket", Path(folder) / "agentmemd.toml"
        configuration.write_text('memory_max = "4G"\n')
        for name, value in (("AGENTMEM_RUNTIME_DIR", folder), ("AGENTMEM_SOCKET", str(socket))):
            stack.callback(_restore, name, os.environ.get(name))
            os.environ[name] = value
        os.chmod(folder, 0o700)
        options = [f"--socket={socket}", f"--config={configuration}", "--no-keeper"]
        with subprocess.Popen([PROGRAM, "--foreground", *options]) as process:
            try:
                while not socket.exists():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(1)
                yield process.pid
            finally:
                process.terminate()


def _restore(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
