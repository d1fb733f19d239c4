"""What nobody holds any more gives its RAM and its disk back; what a fork shares stays."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from words import message

import agentmem

COUNT = 60
MESSAGES = 200
WAIT_S = 30.0


def values(n: int) -> list[dict[str, object]]:
    return [message(n * MESSAGES + m) for m in range(MESSAGES)]


@pytest.fixture(scope="module")
def conversations() -> dict[str, list[dict[str, object]]]:
    return {f"talk {n}": values(n) for n in range(COUNT)}


@pytest.fixture(scope="module")
def kept(conversations: dict[str, object]) -> set[str]:
    """A random half of the names."""
    return set(random.Random(3).sample(sorted(conversations), k=COUNT // 2))


def open_store(cold: Path | None) -> agentmem.Store:
    return agentmem.open(cold, memory_max="64M", cold=cold is not None)


def load(mem: agentmem.Store, conversations: dict[str, list[dict[str, object]]]) -> agentmem.Agent:
    agent = mem.agent("a")
    # In turns, as agents work: so that frames are not all of one conversation by accident.
    talks = {name: agent.conversation(name) for name in conversations}
    for m in range(MESSAGES):
        for name, talk in talks.items():
            talk.append(conversations[name][m])
    settle(mem)
    return agent


def settle(mem: agentmem.Store) -> None:
    mem.reclaim()
    if mem.path:
        mem.flush()


def ram(mem: agentmem.Store) -> int:
    stats = mem.stats()
    # The ring is as large as what went through it at once; what is held has no part in that.
    return int(stats["resident_bytes"] - stats["arena_bytes"])


def disk(mem: agentmem.Store) -> int:
    assert mem.path is not None
    return sum(f.stat().st_blocks * 512 for f in Path(mem.path).rglob("*") if f.is_file())


def falls(mem: agentmem.Store, measure: Callable[[agentmem.Store], int], most: float) -> bool:
    """Whether it comes down to `most` while the engine tidies up, and callers flush as usual."""
    deadline = time.monotonic() + WAIT_S
    while measure(mem) > most and time.monotonic() < deadline:
        time.sleep(0.5)
        settle(mem)
    return measure(mem) <= most


@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_half_released_costs_at_most_a_fifth_more_than_the_other_half_alone(
    tier: str,
    tmp_path: Path,
    conversations: dict[str, list[dict[str, object]]],
    kept: set[str],
) -> None:
    measure = ram if tier == "ram" else disk
    rest = {name: values for name, values in conversations.items() if name in kept}
    with open_store(tmp_path / "fresh" if tier == "disk" else None) as fresh:
        # The tables have a size before anything is in them.
        empty = measure(fresh)
        load(fresh, rest)
        least = measure(fresh) - empty
    with open_store(tmp_path / "used" if tier == "disk" else None) as mem:
        agent = load(mem, conversations)
        full = measure(mem) - empty
        for name in conversations.keys() - kept:
            agent.release(agent.conversation(name))
        settle(mem)
        assert full > 1.5 * least, "nothing has to be given back"
        assert falls(mem, measure, empty + 1.2 * least), (least, measure(mem) - empty, full)
        assert set(agent.conversations()) == kept
        for name in kept:
            assert agent.conversation(name)[:] == rest[name]
        report = mem.verify()
        assert (report["damaged"], report["orphans"]) == ([], 0)


def test_forks_survive_the_release_of_what_they_came_from(
    tmp_path: Path, conversations: dict[str, list[dict[str, object]]]
) -> None:
    with open_store(tmp_path) as mem:
        agent = load(mem, conversations)
        other = mem.agent("other")
        source = random.Random(4)
        ends = {name: source.randrange(1, MESSAGES // 4) for name in conversations}
        for name, end in ends.items():
            fork = agent.conversation(name).fork(end, name=name, agent=other)
            fork.append({"fork": name})
            agent.release(agent.conversation(name))
        before = disk(mem)
        agent.close()
        settle(mem)
        # Frames of which only the front is needed are written anew: about an eighth of all.
        assert falls(mem, disk, before * 0.25)
        assert mem.stats()["counters"]["gc_rewrite"] > 0
        for name, end in ends.items():
            assert other.conversation(name)[:] == [*conversations[name][:end], {"fork": name}]
    with open_store(tmp_path) as mem:
        other = mem.agent("other")
        for name, end in ends.items():
            assert other.conversation(name)[:] == [*conversations[name][:end], {"fork": name}]
        assert mem.verify()["damaged"] == []


def test_everything_released_gives_everything_back(tmp_path: Path) -> None:
    with open_store(tmp_path) as mem:
        agent = mem.agent("a")
        settle(mem)
        empty = disk(mem)
        for _ in range(3):
            handles = [agent.put(random.randbytes(200_000)) for _ in range(40)]
            agent.conversation("c").extend(values(1))
            settle(mem)
            full = disk(mem)
            for held in (*handles, agent.conversation("c")):
                agent.release(held)
            settle(mem)
            assert falls(mem, disk, empty + (full - empty) / 10)
            stats = mem.stats()
            assert (stats["smus"], stats["conversations"], stats["logical_bytes"]) == (0, 0, 0)
            assert stats["stored_bytes"] == 0
