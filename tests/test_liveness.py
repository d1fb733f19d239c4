"""Agents that are killed leave nothing; `agentmem bench liveness` is the long form."""

import time
from pathlib import Path

import pytest
from conftest import until

import agentmem
from agentmem import daemon
from agentmem.bench.liveness import nursery

_AT_ONCE = 25
_ROUNDS = 40


def test_killed_agents_leave_nothing() -> None:
    with nursery() as agents:
        assert agents.kill(_AT_ONCE, _AT_ONCE).still_held == {}
        early = agents.left()
        for number in range(_ROUNDS):
            killed = agents.kill(4, number % 5)
            assert killed.still_held == {}, number
        late = agents.left()
        assert agents.is_intact()
    assert late.descriptors == early.descriptors
    assert late.memfds == early.memfds
    # Where hash tables grow depends on the order of things.
    assert late.table_bytes < early.table_bytes + (64 << 10)
    # What the allocator keeps; one agent's large content alone is 2 MiB.
    assert late.resident_bytes < early.resident_bytes + (4 << 20)


def test_a_quiet_sessions_arena_gives_its_memory_back_while_others_put(daemon_socket: Path) -> None:
    quiet, busy = (agentmem.connect(daemon_socket, start=False) for _ in range(2))
    with quiet, busy:
        agent = quiet.agent("quiet")
        for number in range(1500):
            agent.put(number.to_bytes(2) * 500)
        used_bytes = quiet.stats()["arena_bytes"]
        other = busy.agent("busy")

        def is_given_back() -> bool:
            other.put(b"something")
            return bool(busy.stats()["arena_bytes"] < used_bytes - 1_000_000)

        assert until(is_given_back)


@pytest.mark.parametrize("last", ["paused", "gone"])
def test_what_others_hold_stays_hot_when_who_came_last_is_away(last: str) -> None:
    with daemon.private("pressure = false") as socket, agentmem.connect(socket) as mem:
        shared = mem.agent("first").put(b"You are one of many. " * 1000, name="shared")
        late = mem.agent("late")
        late.attach("shared")
        assert shared.shared_by == 2
        if last == "paused":
            late.pause()
        else:
            late.close()
        # Longer than the engine lets pass between two looks for what is old.
        time.sleep(1)
        assert mem.stats()["by_tier"]["hot"]["count"] == 1
