"""Policies on replayed transcripts: what had to be brought back because it was demoted too soon."""

import random
from typing import Literal

import agentmem
from agentmem.bench.result import Figure, Result, Settings
from agentmem.demo.plan import MB

_AGENTS = 60
_ACTIVE = 6
_BYTES = 4_000_000
_TURNS = 4_000
_BUDGETS_PERCENT = (15, 25, 40)
_FIXED_BYTES = 24 << 20
PolicyName = Literal["semantic", "lru"]


def run(settings: Settings) -> Result:
    """The same history under each policy, at three budgets: shares of the logical bytes."""
    agents = _AGENTS // (6 if settings.quick else 1)
    turns = _TURNS // (20 if settings.quick else 1)
    history = [settings.messages(_BYTES // (8 if settings.quick else 1), n) for n in range(agents)]
    logical_bytes = sum(sum(map(len, messages)) for messages in history)
    figures = []
    for percent in _BUDGETS_PERCENT:
        budget = _FIXED_BYTES + logical_bytes * percent // 100
        refaults = {
            name: _refault_bytes(name, budget, history, turns, settings.seed)
            for name in ("semantic", "lru")
        }
        figures += [
            Figure(f"{name}, budget {percent} %: refaults", bytes_ / MB, "MB")
            for name, bytes_ in refaults.items()
        ]
    return Result(figures, ["policy", agents, turns, logical_bytes, _BUDGETS_PERCENT])


def _refault_bytes(
    policy: PolicyName, budget: int, history: list[list[bytes]], turns: int, seed: int
) -> int:
    """Bytes that came back from warm and cold while agents woke, read, wrote and slept."""
    chance = random.Random(seed)
    with agentmem.open(memory_max=budget, policy=policy, pressure=False) as mem:
        # Agents that matter more wake more often, as those do that people wait for.
        agents = [
            mem.agent(f"agent-{number}", importance=20 + 60 * (number % 4 == 0))
            for number in range(len(history))
        ]
        conversations = [agent.conversation("task") for agent in agents]
        at = [len(messages) // 2 for messages in history]
        for conversation, messages, end in zip(conversations, history, at, strict=True):
            conversation.extend(messages[:end])
        for agent in agents:
            agent.idle()
        before = _refaults(mem)
        active: list[int] = []
        weights = [agent.importance for agent in agents]
        for turn in range(turns):
            if turn % 10 == 0:
                _change_shift(agents, active, weights, chance)
            number = chance.choice(active)
            conversation, messages = conversations[number], history[number]
            # A turn sends the recent part of the conversation; now and then all of it.
            first = 0 if chance.random() < 0.1 else max(0, len(conversation) - 40)
            for _ in conversation[first:]:
                pass
            for message in messages[at[number] : at[number] + 2]:
                conversation.append(message)
            at[number] += 2
        return _refaults(mem) - before


def _change_shift(
    agents: list[agentmem.Agent], active: list[int], weights: list[int], chance: random.Random
) -> None:
    """One agent stops, for now or for long, and another wakes."""
    if len(active) >= min(_ACTIVE, len(agents) - 1):
        stops = active.pop(0)
        if chance.random() < 0.5:
            agents[stops].idle()
        else:
            agents[stops].pause()
    while True:
        wakes = chance.choices(range(len(agents)), weights)[0]
        if wakes not in active:
            break
    agents[wakes].resume()
    active.append(wakes)


def _refaults(mem: agentmem.Store) -> int:
    counters = mem.stats()["counters"]
    return int(counters["refault_warm_bytes"] + counters["refault_cold_bytes"])
