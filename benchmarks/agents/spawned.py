"""An agent in a process of its own: prompt, tools, a conversation, and a message now and then.

Forked by a zygote (`main`), or started plainly (`alone`). It writes the clock's nanoseconds of its
first message to stdout, and at the end of stdin those that each later one took.
"""

import os
import random
import select
import struct
import sys
import time

import agentmem
from agentmem.zygote import current

PROMPT, TOOLS = "prompt", "tools"
PUTS_MAX = 500
"""As many fit into one write to a pipe, which is not mixed with those of others."""

_WORDS = ["the", "lock", "is", "held", "so", "others", "wait", "find", "why", "read", "and", "say"]


def main() -> None:
    _work(current().agent, period_s=float(sys.argv[1]))


def alone() -> None:
    with agentmem.connect(start=False) as mem:
        _work(mem.agent(f"alone-{os.getpid()}"), period_s=float(sys.argv[1]))


def first_message(agent: agentmem.Agent) -> agentmem.Conversation:
    """What every agent begins with."""
    agent.attach(PROMPT)
    agent.attach(TOOLS)
    conversation = agent.conversation()
    conversation.append(
        b'{"role": "user", "content": "Find out why the build fails, and mend it."}'
    )
    return conversation


def _work(agent: agentmem.Agent, *, period_s: float) -> None:
    conversation = first_message(agent)
    os.write(1, struct.pack("q", time.perf_counter_ns()))
    nanoseconds: list[int] = []
    pause_s = random.uniform(0, period_s)
    while not select.select([0], [], [], pause_s or None)[0]:
        text = " ".join(random.choices(_WORDS, k=200))
        message = f'{{"role": "assistant", "content": "{text}"}}'.encode()
        began = time.perf_counter_ns()
        conversation.append(message)
        nanoseconds.append(time.perf_counter_ns() - began)
        pause_s = period_s
    kept = nanoseconds[-PUTS_MAX:]
    os.write(1, struct.pack(f"{len(kept) + 1}q", len(kept), *kept))
