"""Agents that last and are left: how processes share what one agent holds."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import PythonProcess, until

import agentmem
from agentmem.errors import Closed, NameTaken
from agentmem.turn import turn


def test_an_agent_that_was_left_is_taken_up_with_all_that_it_holds(mem: agentmem.Store) -> None:
    first = mem.agent("shared", importance=70)
    first.conversation("talk").append(b"one")
    first.put(b"content", name="content")
    first.put(b"content")
    first.leave()
    second = mem.agent("shared")
    assert list(second.conversation("talk")) == [b"one"]
    assert second.importance == 70
    # There are no handles any more that could give a second reference back.
    assert [smu.read() for smu in second.smus()] == [b"content"]
    assert second.stats()["logical_bytes"] == len(b"onecontent")
    second.conversation("talk").append(b"two")
    assert list(second.conversation("talk")) == [b"one", b"two"]


def test_handles_of_an_agent_that_was_left_are_closed(mem: agentmem.Store) -> None:
    left = mem.agent("shared")
    talk = left.conversation("talk")
    talk.append(b"one")
    left.leave()
    calls: list[Any] = [
        left.conversations,
        left.leave,
        lambda: left.put(b"x"),
        lambda: talk.append(b"x"),
        lambda: talk[0],
        lambda: len(talk),
        talk.fork,
    ]
    for again in (False, True):
        for call in calls:
            with pytest.raises(Closed):
                call()
        left.close()  # of what somebody else may have, nothing goes
        if not again:
            taken = mem.agent("shared")
    assert list(taken.conversation("talk")) == [b"one"]


def test_an_agent_that_was_left_counts_what_others_added(daemon_socket: Path) -> None:
    with (
        agentmem.connect(daemon_socket, start=False) as one,
        agentmem.connect(daemon_socket, start=False) as other,
    ):
        for n in range(5):
            for mem in (one, other):
                agent = mem.agent("shared", quota_bytes=1000)
                talk = agent.conversation("talk")
                talk.append(b"%d" % n)
                assert len(talk) == agent.stats()["messages"]
                assert talk.logical_bytes == agent.stats()["logical_bytes"] == len(talk)
                agent.leave()


def test_an_agent_that_holds_nothing_can_be_closed_where_it_is_left(mem: agentmem.Store) -> None:
    for keep_empty in (True, False):
        mem.agent("empty", importance=70).leave(keep_empty=keep_empty)
        assert mem.agents() == ["empty"] * keep_empty
    for fill in (lambda agent: agent.put(b"content"), lambda agent: agent.conversation("talk")):
        agent = mem.agent("full")
        fill(agent)
        agent.leave(keep_empty=False)
        mem.agent("full").close()


@pytest.mark.parametrize("count", [3, 64, 200])
def test_whoever_takes_an_agent_up_finds_its_conversations(mem: agentmem.Store, count: int) -> None:
    names = sorted(f"talk-{n}" for n in range(count))
    agent = mem.agent("shared")
    for n, name in enumerate(names):
        agent.conversation(name).extend([b"x"] * (n % 5))
    for turn_number in range(3):
        agent.leave()
        agent = mem.agent("shared")
        assert agent.conversations() == names
        counts = [len(agent.conversation(name)) for name in names]
        assert counts == [n % 5 + turn_number for n in range(count)]
        for name in names:
            agent.conversation(name).append(b"x")


def test_a_conversation_that_was_given_back_is_another_when_it_is_made_anew(
    mem: agentmem.Store,
) -> None:
    with turn(mem, "shared") as agent:
        agent.conversation("talk").append(b"old")
    with turn(mem, "shared") as agent:
        for n in range(200):
            agent.release(agent.conversation("talk"))
            assert agent.conversations() == []
            agent.conversation("talk").append(b"%d" % n)
            agent.conversation("talk").fork(name="copy")
            assert agent.conversations() == ["copy", "talk"]
            assert list(agent.conversation("copy")) == [b"%d" % n]
            agent.release(agent.conversation("copy"))
    with turn(mem, "shared") as agent:
        assert list(agent.conversation("talk")) == [b"199"]


WRITE_AND_DIE = """
import os, signal, sys
import agentmem
mem = agentmem.connect(sys.argv[1], start=False)
for name, lasting in (("lasting", True), ("mortal", False)):
    agent = mem.agent(name, lasting=lasting)
    agent.put(b"content", name=name)
    for n in range(100):
        agent.conversation("talk").append({"n": n})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_lasting_agent_keeps_what_a_process_that_died_published(daemon_socket: Path) -> None:
    process = PythonProcess(WRITE_AND_DIE, daemon_socket)
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.communicate()
    with agentmem.connect(daemon_socket, start=False) as mem, turn(mem, "lasting") as agent:
        assert list(agent.conversation("talk")) == [{"n": n} for n in range(100)]
        assert [smu.read() for smu in agent.smus()] == [b"content"]
        assert mem.agents() == ["lasting"]


def test_a_lasting_agent_of_a_process_of_its_own_waits_when_that_dies(
    mem: agentmem.Store, python: type[PythonProcess]
) -> None:
    process = python("input()")
    agent = mem.agent("shared", pid=process.pid, lasting=True)
    agent.conversation("talk").append(b"one")
    process.kill()
    process.communicate()
    with turn(mem, "shared", wait_s=10) as taken:
        assert list(taken.conversation("talk")) == [b"one"]
    with pytest.raises(Closed):
        agent.conversations()


# Turns

COUNT = """
import sys
import agentmem
from agentmem.turn import turn
mem = agentmem.connect(sys.argv[1], start=False)
for _ in range(int(sys.argv[2])):
    with turn(mem, "counter") as agent:
        talk = agent.conversation("count")
        talk.append(b"%d" % len(talk))
"""


def test_processes_take_turns(daemon_socket: Path) -> None:
    processes = [PythonProcess(COUNT, daemon_socket, 100) for _ in range(4)]
    for process in processes:
        process.output()
    with agentmem.connect(daemon_socket, start=False) as mem, turn(mem, "counter") as agent:
        assert list(agent.conversation("count")) == [b"%d" % n for n in range(400)]


def test_threads_take_turns(mem: agentmem.Store) -> None:
    def count(_: int) -> None:
        for _ in range(50):
            with turn(mem, "counter") as agent:
                talk = agent.conversation("count")
                talk.append(b"%d" % len(talk))

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(count, range(8)))) == 8
    with turn(mem, "counter") as agent:
        assert list(agent.conversation("count")) == [b"%d" % n for n in range(400)]


def test_a_turn_leaves_what_is_held_and_closes_what_is_empty(mem: agentmem.Store) -> None:
    with turn(mem, "empty"):
        assert mem.agents() == ["empty"]
    assert mem.agents() == []
    with turn(mem, "talks") as agent:
        agent.conversation("talk").append(b"one")
    with turn(mem, "holds") as agent:
        agent.put(b"content")
    with turn(mem, "closed") as agent:
        agent.conversation("talk").append(b"one")
        agent.close()
    assert mem.agents() == ["holds", "talks"]


def test_what_nobody_has_is_compressed_as_an_idle_agents_content_is() -> None:
    # A tenth of the age, as nobody can be active who is not there.
    with agentmem.open(memory_max="64M", warm_after_s=20.0) as mem:
        held = mem.agent("held").conversation("talk")
        with turn(mem, "left") as agent:
            for talk in (held, agent.conversation("talk")):
                talk.extend([b"once more with feeling " * 20] * 20)

        def tails() -> list[int]:
            return [figures["tail_bytes"] for figures in mem.all_agent_stats()]

        begin = time.monotonic()
        assert until(lambda: tails()[1] == 0, timeout_s=15)
        assert time.monotonic() - begin >= 1
        assert tails()[0] > 0
        with turn(mem, "left") as agent:
            assert list(agent.conversation("talk")) == list(held)


def test_a_turn_that_fails_is_over(mem: agentmem.Store) -> None:
    def fail() -> None:
        with turn(mem, "shared") as agent:
            agent.conversation("talk").append(b"one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with turn(mem, "shared") as agent:
        assert list(agent.conversation("talk")) == [b"one"]


def test_a_turn_that_does_not_come_says_whose_it_is(mem: agentmem.Store) -> None:
    with (
        mem.agent("busy"),
        pytest.raises(NameTaken, match="'busy': somebody has had it"),
        turn(mem, "busy", wait_s=0),
    ):
        pass
