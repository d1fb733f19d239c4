"""Turns: how processes and threads share an agent, one at a time."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import agentmem
from agentmem.errors import Closed, NameTaken

WAIT_S = 30.0
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.0002, 0.01


@contextmanager
def turn(store: agentmem.Store, name: str, *, wait_s: float = WAIT_S) -> Iterator[agentmem.Agent]:
    """The agent called `name`, for the caller alone until the block ends.

    It is taken up, or made, and left again, so it outlives every process; whoever dies within the
    block leaves what it did until then. An agent that holds nothing at the end is closed.

    Args:
        store: Where it is.
        name: Its name.
        wait_s: How long others may have it.

    Raises:
        NameTaken: Somebody else had it all the time.
    """
    agent = _take_up(store, name, wait_s)
    try:
        yield agent
    finally:
        with suppress(Closed):  # the block closed it, or the store
            agent.leave(keep_empty=False)


def _take_up(store: agentmem.Store, name: str, wait_s: float) -> agentmem.Agent:
    end = time.monotonic() + wait_s
    pause_s = _PAUSE_S_MIN
    while True:
        try:
            return store.agent(name, lasting=True)
        except NameTaken:
            if time.monotonic() > end:
                raise NameTaken(f"agent {name!r}: somebody has had it for {wait_s:.0f} s") from None
        # Others that wait must not wake in step.
        time.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(2 * pause_s, _PAUSE_S_MAX)
