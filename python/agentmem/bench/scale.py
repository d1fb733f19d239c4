"""A store with ten million messages in it."""

import random
import time

import agentmem
from agentmem.bench.result import Figure, Result, Settings
from agentmem.bench.timing import each, quantiles
from agentmem.demo.plan import MB
from agentmem.process import pss_bytes

_MESSAGES = 10_000_000
_MESSAGES_A_CONVERSATION = 100
_CONTENTS = 1_000_000
_AGENTS = 10_000
_PROBES = 20_000
_TEXT = (
    b"Read the file, find the call that holds the lock for too long, and say in two sentences why "
    b"the others wait; then change it and run the tests that cover it."
)


def run(settings: Settings) -> Result:
    """Fill it, look at its tables, then put, view and read in random order."""
    part = 100 if settings.quick else 1
    chance = random.Random(settings.seed)
    empty_bytes = pss_bytes()
    with agentmem.open(memory_max="6G", cold=False, warm_after_s=1e6) as mem:
        agents = [mem.agent(f"agent-{number}") for number in range(_AGENTS // part)]
        table_bytes = _table_bytes(mem)
        began = time.perf_counter()
        conversations = _fill(agents, _MESSAGES // part // _MESSAGES_A_CONVERSATION)
        mem.reclaim()
        fill_s = time.perf_counter() - began
        message_table = _table_bytes(mem) - table_bytes
        table_bytes = _table_bytes(mem)
        smus = [
            agents[number % len(agents)].put(b"result %d: " % number + _TEXT)
            for number in range(_CONTENTS // part)
        ]
        assert smus[-1].id
        content_table = _table_bytes(mem) - table_bytes
        nanoseconds = _probe(agents, smus, conversations, chance)
        resident, pss = mem.stats()["resident_bytes"], pss_bytes() - empty_bytes
    figures = [
        Figure("tables, a packed message", message_table / (_MESSAGES // part), "bytes", 16.0),
        Figure("tables, another SMU", content_table / (_CONTENTS // part), "bytes", 250.0),
        *quantiles("put of 1 KiB", nanoseconds["put"], 1.0, 5.0),
        *quantiles("view, hot, random", nanoseconds["view"], 1.0),
        *quantiles("read of a packed message, random", nanoseconds["read"]),
        Figure("messages put and packed", _MESSAGES / part / fill_s / 1000, "thousand/s"),
        Figure("engine's own account", resident / MB, "MB"),
        Figure("kernel's (PSS), Python's handles included", pss / MB, "MB"),
    ]
    return Result(figures, ["scale", _MESSAGES // part, _CONTENTS // part, len(agents)])


def _table_bytes(mem: agentmem.Store) -> int:
    return int(mem.stats()["table_bytes"])


def _fill(agents: list[agentmem.Agent], count: int) -> list[agentmem.Conversation]:
    """So many conversations of short messages, no two of which are equal."""
    conversations = []
    for number in range(count):
        conversation = agents[number % len(agents)].conversation()
        for at in range(_MESSAGES_A_CONVERSATION):
            conversation.append(
                b'{"role": "user", "n": "%d/%d", "content": "' % (number, at) + _TEXT
            )
        conversations.append(conversation)
    return conversations


def _probe(
    agents: list[agentmem.Agent],
    smus: list[agentmem.Smu],
    conversations: list[agentmem.Conversation],
    chance: random.Random,
) -> dict[str, list[int]]:
    """Nanoseconds of each kind of call, in random order."""
    puts = [
        (chance.choice(agents), b"probe %d " % number + chance.randbytes(1010))
        for number in range(_PROBES // 2)
    ]
    reads = [
        (chance.choice(conversations), chance.randrange(_MESSAGES_A_CONVERSATION))
        for _ in range(_PROBES // 10)
    ]
    return {
        "put": each(lambda probe: probe[0].put(probe[1]), puts),
        "view": each(_view, chance.choices(smus, k=_PROBES)),
        "read": each(lambda probe: probe[0][probe[1]], reads),
    }


def _view(smu: agentmem.Smu) -> None:
    with smu.view():
        pass
