"""A process that writes to a store until it is killed, and prints what it has flushed."""

import itertools
import os
import random
import time
from typing import Any

from words import noise

import agentmem


def content(n: int) -> bytes:
    """SMU number `n`: mostly small, now and then too large for one frame."""
    return noise(n, 1_500_000 if n % 300 == 0 else 50 * (n % 100))


def message(n: int) -> dict[str, Any]:
    """Message number `n`."""
    return {"n": n, "content": noise(n, n % 1500).hex()}


def say(verb: str, n: int) -> None:
    """Print a line in one piece, since the end may come at any moment."""
    os.write(1, f"{verb} {n}\n".encode())


def write(path: str, seed: int) -> None:
    """Go on where the last writer was killed. A line says what is flushed, or released, so far."""
    source = random.Random(seed)
    mem = agentmem.open(path, memory_max="32M")
    agent = mem.agent("writer")
    talk = agent.conversation("log")
    handles: dict[int, agentmem.Smu] = {}
    for n in itertools.count(len(talk)):
        handles[n] = agent.put(content(n), name=f"smu {n}")
        talk.append(message(n))
        if n % 7 == 0:
            is_new = f"fork {n}" not in agent.conversations()
            fork = talk.fork(name=f"fork {n}") if is_new else agent.conversation(f"fork {n}")
            if len(fork) == n + 1:
                fork.append({"fork": n})
        if n % 5 == 0 and n - 20 in handles:
            say("releasing", n - 20)
            agent.release(handles[n - 20])
        if source.random() < 0.2:
            mem.flush()
            say("flushed", n)
        if source.random() < 0.02:
            mem.reclaim(0)
        # Else the parent, which checks everything after each kill, is busy for minutes.
        time.sleep(0.0005)
