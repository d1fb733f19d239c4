"""Agents that stand for what a framework names: one at a time for one caller at a time."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Generic, TypeVar

import agentmem
from agentmem.turn import turn

_LOCKS = 64
_KNOWN_MAX = 256
_NAME_BYTES_MAX = 255

K = TypeVar("K")


class Agents(Generic[K]):
    """The agents of a store whose names begin alike, and what this process remembers of each.

    Args:
        store: where they are.
        prefix: what their names begin with.
        unknown: makes what is remembered of one of which nothing is.
    """

    def __init__(self, store: agentmem.Store, prefix: str, unknown: Callable[[], K]) -> None:
        self._store = store
        self._prefix = prefix
        self._unknown = unknown
        self._locks = [threading.RLock() for _ in range(_LOCKS)]
        self._known: OrderedDict[str, K] = OrderedDict()
        self._known_lock = threading.Lock()

    def name(self, key: str) -> str:
        """The name of the agent for a key."""
        name = f"{self._prefix}/{key}"
        if len(name.encode()) <= _NAME_BYTES_MAX:
            return name
        return f"{self._prefix}#{hashlib.sha256(key.encode()).hexdigest()}"

    def key(self, name: str) -> str | None:
        """The key that an agent's name says; None if it was too long for a name."""
        key = name.removeprefix(f"{self._prefix}/")
        return key if key != name else None

    def names(self) -> list[str]:
        """Names of all of them."""
        starts = f"{self._prefix}/", f"{self._prefix}#"
        return [name for name in self._store.agents() if name.startswith(starts)]

    @contextmanager
    def locked(self, *names: str) -> Iterator[list[K]]:
        """What is known of some agents, while no other thread of this process uses them."""
        with ExitStack() as stack:
            for number in sorted({hash(name) % _LOCKS for name in names}):
                stack.enter_context(self._locks[number])
            yield [self._remembered(name) for name in names]

    def _remembered(self, name: str) -> K:
        with self._known_lock:
            if name not in self._known:
                self._known[name] = self._unknown()
            self._known.move_to_end(name)
            if len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
            return self._known[name]

    @contextmanager
    def turn(self, name: str) -> Iterator[agentmem.Agent]:
        """An agent, for this process alone. What is known of it is forgotten if this fails."""
        try:
            with turn(self._store, name) as agent:
                yield agent
        except BaseException:
            with self._known_lock:
                self._known.pop(name, None)  # it may be ahead of what was written
            raise
