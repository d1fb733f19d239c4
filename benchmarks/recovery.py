"""How soon a daemon answers again after its engine was killed, with much in it: --count kills (5).

1,000 agents hold 1,000,000 messages and contents of 2 KiB, of which seven in ten are messages of
conversations. The engine is killed by SIGKILL under its keeper, and a session that was there asks
at once; nothing may be missing.
"""

import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import agentmem
from agentmem import daemon
from agentmem.bench import result
from agentmem.bench.result import Figure, Result
from benchmarks.measure import percentile
from benchmarks.stage import MB, Settings

AGENTS = 1000
ITEMS = 1_000_000
ITEM_BYTES = 2048
_MESSAGES_OF_TEN = 7
_TEXTS = 8192
_MEMORY_MAX = "5G"


async def run(settings: Settings) -> Result:
    """See the module."""
    kills, wrong = settings.count_or(5), 0
    answered_ms, held_mb = [], []
    with (
        daemon.private(f'memory_max = "{_MEMORY_MAX}"\n') as socket,
        agentmem.connect(socket) as mem,
    ):
        agents = [mem.agent(f"agent-{number:04}") for number in range(AGENTS)]
        talks = [agent.conversation("talk") for agent in agents]
        texts = _texts(settings.seed)
        for agent, talk in zip(agents, talks, strict=True):
            for number, text in enumerate(islice(texts, ITEMS // AGENTS)):
                if number % 10 < _MESSAGES_OF_TEN:
                    talk.append(text)
                else:
                    agent.put(text, kind="tool_result")
        before = _held(mem)
        for _ in range(kills):
            engine = daemon.processes(socket)[1]
            held_mb.append(_journal_bytes(engine) / MB)
            os.kill(engine, signal.SIGKILL)
            began_s = time.perf_counter()
            mem.agents()
            answered_ms.append((time.perf_counter() - began_s) * 1e3)
            wrong += _held(mem) != before
    figures = [
        Figure("first answer after a kill, p50", percentile(answered_ms, 0.5), "ms"),
        Figure("first answer after a kill, most", max(answered_ms), "ms"),
        Figure("journal, most", max(held_mb), "MB"),
        Figure("logical bytes", before["logical_bytes"] / MB, "MB"),
        Figure("kills after which something was missing", wrong, "", 0),
    ]
    return Result(figures, ["recovery", AGENTS, ITEMS, ITEM_BYTES, kills], [])


def _texts(seed: int) -> Iterator[bytes]:
    """Different texts, without end."""
    texts = result.Settings(seed=seed).values(_TEXTS, ITEM_BYTES)
    number = 0
    while True:
        yield b"%08x" % number + texts[number % _TEXTS][8:]
        number += 1


def _held(mem: agentmem.Store) -> dict[str, int]:
    """What must be there after a kill as before it."""
    stats = mem.stats()
    return {name: stats[name] for name in ("agents", "smus", "conversations", "logical_bytes")}


def _journal_bytes(engine: int) -> int:
    """RAM that the engine's journal takes."""
    for descriptor in Path(f"/proc/{engine}/fd").iterdir():
        try:
            if "memfd:agentmem-journal" in str(descriptor.readlink()):
                return descriptor.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # closed meanwhile
    raise RuntimeError("the engine has no journal")
