"""A store in the hands of several threads at once, with too little memory for what they hold."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from words import noise, prose

import agentmem
from agentmem.errors import NotFound, Released

THREADS = 4
STEPS = 600


def content(n: int) -> bytes:
    """Some of a few hundred contents, which threads meet again and again."""
    return (prose if n % 2 else noise)(n % 200, (n % 7) * 9_000 + n % 13)


def live(mem: agentmem.Store, number: int) -> int:
    """What an agent does, checked at each step; how many messages it wrote."""
    source = random.Random(number)
    agent = mem.agent(f"agent {number}")
    talk = agent.conversation("talk")
    held: list[tuple[agentmem.Smu, bytes]] = []
    said: list[dict[str, Any]] = []
    for step in range(STEPS):
        choice = source.randrange(10)
        if choice < 3:
            data = content(source.randrange(400))
            held.append((agent.put(data, name=f"name {source.randrange(20)}"), data))
        elif choice < 5:
            said.append({"step": step, "text": content(source.randrange(400)).hex()})
            talk.append(said[-1])
        elif choice < 7 and held:
            smu, data = source.choice(held)
            with smu.view() as buffer:
                assert buffer == data
        elif choice == 7 and said:
            index = source.randrange(len(said))
            assert talk[index] == said[index]
        elif choice == 8 and held:
            smu, data = held.pop(source.randrange(len(held)))
            with smu.view() as buffer:
                agent.release(smu)
                assert buffer == data
            with pytest.raises(Released):
                smu.read()
        else:
            try:
                other = agent.attach(f"name {source.randrange(20)}")
            except NotFound:
                continue
            held.append((other, other.read()))
    for smu, data in held:
        assert smu.read() == data
    assert talk[:] == said
    return len(said)


@pytest.mark.parametrize("cold", [True, False], ids=["cold tier", "ram only"])
def test_agents_in_threads_do_not_disturb_each_other(cold: bool) -> None:
    budget = "16M" if cold else "256M"
    done = threading.Event()
    with agentmem.open(memory_max=budget, cold=cold) as mem:

        def disturb() -> None:
            while not done.wait(0.01):
                mem.reclaim(4 << 20)
                mem.stats()

        with ThreadPoolExecutor(THREADS + 1) as pool:
            disturbing = pool.submit(disturb)
            living = [pool.submit(live, mem, number) for number in range(THREADS)]
            try:
                messages = sum(future.result() for future in living)
            finally:
                done.set()
            disturbing.result()
        assert mem.stats()["messages"] == messages
        assert mem.verify()["damaged"] == []


def test_threads_that_put_the_same_share_one(mem: agentmem.Store) -> None:
    contents = [noise(n, 20_000) for n in range(50)]
    agents = [mem.agent(f"agent {number}") for number in range(THREADS)]
    barrier = threading.Barrier(THREADS)

    def put_all(agent: agentmem.Agent) -> list[agentmem.Smu]:
        barrier.wait()
        return [agent.put(data) for data in contents]

    with ThreadPoolExecutor(THREADS) as pool:
        handles = list(pool.map(put_all, agents))
    for together in zip(*handles, strict=True):
        assert len({smu.id for smu in together}) == 1
    assert {smu.shared_by for smu in handles[0]} == {THREADS}
    assert mem.stats()["smus"] == len(contents)


def test_closing_while_others_work_is_an_error_for_them_and_nothing_worse() -> None:
    for _ in range(10):
        mem = agentmem.open(memory_max="16M")
        agents = [mem.agent(f"agent {number}") for number in range(THREADS)]

        def work(agent: agentmem.Agent) -> int:
            talk = agent.conversation("c")
            for n in range(1_000_000):
                try:
                    smu = agent.put(content(n))
                    talk.append(b"x")
                    with smu.view() as buffer:
                        assert buffer == content(n)
                except agentmem.errors.Closed:
                    return n
            return -1

        with ThreadPoolExecutor(THREADS) as pool:
            working = [pool.submit(work, agent) for agent in agents]
            threading.Event().wait(0.05)
            mem.close()
            assert all(future.result() >= 0 for future in working)
