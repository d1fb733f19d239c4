"""The memory budget holds, measured by the kernel, and what does not fit is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from conftest import PythonProcess, daemon
from words import noise, prose

import agentmem
from agentmem.daemon import processes
from agentmem.errors import OutOfMemory

T = TypeVar("T")
MiB = 1 << 20

# PSS counts what is mapped; the blocks of memfds count what is held and not mapped too.
MEASURE = """
import os, re, threading

def held_bytes(pid="self"):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        fields = dict(re.findall(r"(\\w+):\\s+(\\d+) kB", file.read()))
    memfds = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("/memfd:"):
                held = os.stat(f"/proc/{pid}/fd/{fd}")
                memfds[held.st_ino] = held.st_blocks * 512
        except OSError:
            pass
    anonymous = int(fields.get("Pss_Anon", fields["Pss"])) * 1024
    return max(int(fields["Pss"]) * 1024, anonymous + sum(memfds.values()))

class Peak(threading.Thread):
    def __init__(self, pid="self"):
        super().__init__(daemon=True)
        self.pid, self.bytes, self.done = pid, 0, threading.Event()
    def run(self):
        while not self.done.wait(0.02):
            self.bytes = max(self.bytes, held_bytes(self.pid))
"""

FILL = (
    MEASURE
    + """
import random, sys
import agentmem
from words import prose

budget, total, piece = (int(text) for text in sys.argv[1:])
source = random.Random(1)
text = b"".join(prose(seed, 1 << 20) for seed in range(8))

def content(n):
    # Half prose, half noise, and nothing twice: the number is in the middle of each block.
    source.seed(n)
    if n % 2:
        return source.randbytes(piece)
    at = source.randrange(len(text) - piece)
    blocks = range(at, at + piece, 4096)
    return b"".join(b"%016d" % source.getrandbits(48) + text[b + 16 : b + 4096] for b in blocks)

mem = agentmem.open(memory_max=budget)
agents = [mem.agent(f"agent {n}") for n in range(16)]
content(0)
before, peak = held_bytes(), Peak()
peak.start()
handles = [agents[n % 16].put(content(n)) for n in range(total // piece)]
for n in random.Random(2).sample(range(len(handles)), k=len(handles) // 20):
    assert handles[n].read() == content(n), n
peak.done.set()
peak.join()
stats = mem.stats()
print(peak.bytes - before, stats["resident_bytes"], stats["disk_bytes"], len(handles))
mem.close()
"""
)

# What this process itself holds for a moment: one content being made, put and compared.
SLACK_BYTES = 6 * MiB


@pytest.mark.parametrize("piece", [16 << 10, 256 << 10], ids=["small", "large"])
def test_memory_max_holds_within_a_tenth(python: type[PythonProcess], piece: int) -> None:
    budget, total = 128 * MiB, 1024 * MiB
    grown, resident, disk, count = map(
        int, python(FILL, budget, total if piece > 100_000 else total // 4, piece).output().split()
    )
    # Python's own handles: about 200 bytes each, and the list.
    handles = 300 * count
    assert grown <= budget * 1.1 + SLACK_BYTES + handles
    assert resident <= budget * 1.1
    # Noise does not shrink, so that much at least had to go to disk.
    assert disk > (total if piece > 100_000 else total // 4) // 2 - budget


FLUSH = (
    MEASURE
    + """
import sys, time
import agentmem
from words import prose

budget, tails, tail_bytes = map(int, sys.argv[2:])
# Below what a flush packs: it writes these message by message.
messages = [prose(seed, tail_bytes // 20) for seed in range(20)]
mem = agentmem.open(sys.argv[1], memory_max=budget)
agent = mem.agent("a")
mem.flush()
before, peak = held_bytes(), Peak()
peak.start()
for n in range(tails):
    agent.conversation(f"talk {n}").extend([b"%012d" % n + message[12:] for message in messages])
while mem.stats()["messages"] < 20 * tails:
    time.sleep(0.01)
[figures] = mem.all_agent_stats()
raw_bytes = figures["tail_bytes"]
mem.flush()
peak.done.set()
peak.join()
print(peak.bytes - before, raw_bytes)
mem.close()
"""
)


def test_a_flush_of_many_raw_tails_stays_within_memory_max(
    python: type[PythonProcess], tmp_path: Path
) -> None:
    budget, tails, tail_bytes = 128 * MiB, 1200, 50_000
    grown, raw_bytes = map(int, python(FLUSH, tmp_path, budget, tails, tail_bytes).output().split())
    # With a copy of them beside them it would not.
    assert raw_bytes > 0.9 * tails * tail_bytes > 0.4 * budget
    assert grown <= budget * 1.1 + SLACK_BYTES


SESSIONS = (
    MEASURE
    + """
import sys
from concurrent.futures import ThreadPoolExecutor
import agentmem
from words import prose

socket, engine, sessions, rounds = sys.argv[1], *map(int, sys.argv[2:])
texts = [prose(seed, 1 << 20) for seed in range(8)]
stores = [agentmem.connect(socket, start=False) for _ in range(sessions)]
agents = [store.agent(f"agent {n}") for n, store in enumerate(stores)]

def messages(n, talk):
    text = texts[(n + talk) % 8]
    return [b"%06d %06d " % (n, talk) + text[at : at + 4083] for at in range(0, len(text), 4096)]

def fill(n):
    for talk in range(rounds):
        agents[n].conversation(f"talk {talk}").extend(messages(n, talk))

def read(n):
    for talk in range(rounds):
        kept = agents[n].conversation(f"talk {talk}")
        expected = messages(n, talk)
        for at in range(len(expected) - 1, -1, -16):
            assert kept.raw(at) == expected[at], (n, talk, at)

peak = Peak(engine)
peak.start()
with ThreadPoolExecutor(sessions) as pool:
    list(pool.map(fill, range(sessions)))
    list(pool.map(read, range(sessions)))
peak.done.set()
peak.join()
print(peak.bytes, stores[0].stats()["disk_bytes"])
for store in stores:
    store.close()
"""
)


def test_the_budget_of_a_daemon_holds_while_many_sessions_read_at_once(
    python: type[PythonProcess], tmp_path: Path
) -> None:
    budget = 128 * MiB
    with daemon(tmp_path / "agentmem.sock", f"memory_max = {budget}") as socket:
        _keeper, engine = processes(socket)
        peak, disk = map(int, python(SESSIONS, socket, engine, 60, 6).output().split())
    # The messages did not fit, not even compressed.
    assert disk > budget / 2
    assert peak <= budget * 1.1


def until_refused(step: Callable[[int], T]) -> list[T]:
    """What `step` gave for 0, 1, 2 and so on, until the store was full."""
    done: list[T] = []
    while len(done) < 500:
        try:
            done.append(step(len(done)))
        except OutOfMemory as error:
            assert isinstance(error, MemoryError)  # noqa: PT017
            return done
    pytest.fail("nothing was refused")


def test_without_cold_tier_a_full_store_refuses_and_keeps_what_it_took() -> None:
    with agentmem.open(memory_max="32M", cold=False) as mem:
        agent = mem.agent("a")
        handles = until_refused(lambda n: agent.put(noise(n, 200_000)))
        # Noise cannot shrink; a good part of the budget must be usable all the same.
        assert 80 < len(handles) < 168
        assert mem.stats()["counters"]["reject_memory"] > 0
        for n, smu in enumerate(handles):
            assert smu.read() == noise(n, 200_000)
        for smu in handles[::2]:
            agent.release(smu)
        assert agent.put(noise(1000, 200_000)).read() == noise(1000, 200_000)
        for n in range(1, len(handles), 2):
            assert handles[n].read() == noise(n, 200_000)


def test_without_cold_tier_compression_makes_room() -> None:
    with agentmem.open(memory_max="32M", cold=False) as mem:
        agent = mem.agent("a")
        handles = [agent.put(prose(n, 200_000)) for n in range(250)]
        for n, smu in enumerate(handles):
            assert smu.read() == prose(n, 200_000)
        assert mem.stats()["resident_bytes"] <= 1.1 * 32 * MiB


def test_pinned_bytes_are_not_taken_away() -> None:
    with agentmem.open(memory_max="16M", cold=False) as mem:
        agent = mem.agent("a")
        # Prose could be compressed, were it not pinned.
        views = until_refused(lambda n: agent.put(prose(n, 200_000)).view())
        assert 30 < len(views) < 84
        for n, view in enumerate(views):
            assert memoryview(view) == prose(n, 200_000)
        for view in views:
            view.release()
        assert agent.put(prose(500, 200_000)).read() == prose(500, 200_000)
        assert min(smu.read() for smu in agent.smus()) == prose(0, 200_000)


def test_a_refused_append_leaves_the_conversation_as_it_was() -> None:
    with agentmem.open(memory_max="16M", cold=False) as mem:
        talk = mem.agent("a").conversation("c")
        accepted = len(until_refused(lambda n: talk.append(noise(n, 200_000))))
        assert len(talk) == accepted
        assert 30 < accepted < 84
        for n in range(accepted):
            assert talk.raw(n) == noise(n, 200_000)
        assert mem.verify()["damaged"] == []
