"""The node cache: what tasks of LangGraph's graphs returned, in a store."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from langgraph.cache.base import BaseCache, FullKey, Namespace, ValueT
from langgraph.checkpoint.serde.base import SerializerProtocol

import agentmem
from agentmem.integrations.langgraph.agents import Agents
from agentmem.integrations.langgraph.records import Typed, pack_typed, unpack_typed
from agentmem.integrations.langgraph.table import KnownTable, Table


class AgentMemCache(BaseCache[ValueT]):
    """A cache of what nodes returned, which processes with sessions of one daemon share.

    Args:
        store: Open while this is used.
        name: What the agents begin with that hold it.
        serde: What encodes values; LangGraph's own by default.
    """

    def __init__(
        self,
        store: agentmem.Store,
        *,
        name: str = "langgraph-cache",
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde)
        self._agents = Agents(store, name, KnownTable)

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        """The values of those keys that have one and have not expired."""
        now_s, found = time.time(), dict[FullKey, Typed]()
        for namespace, its in _by_namespace(keys).items():
            name = self._agents.name(_text(namespace))
            with self._agents.locked(name) as (known,), self._agents.turn(name) as agent:
                table = Table(agent, known)
                for key in its:
                    content = table.get(key, now_s)
                    if content is not None:
                        found[namespace, key] = unpack_typed(content)
        return {key: self.serde.loads_typed(value) for key, value in found.items()}

    def set(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        """Keep values, each for a number of seconds, or for good."""
        now_s = time.time()
        for namespace, its in _by_namespace(pairs).items():
            name = self._agents.name(_text(namespace))
            with self._agents.locked(name) as (known,), self._agents.turn(name) as agent:
                table = Table(agent, known)
                for key in its:
                    value, ttl_s = pairs[namespace, key]
                    expires_s = None if ttl_s is None else now_s + ttl_s
                    table.put(key, pack_typed(self.serde.dumps_typed(value)), expires_s)
                table.tidy(now_s)

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Forget the values of some namespaces, or all."""
        names = (
            self._agents.names()
            if namespaces is None
            else [self._agents.name(_text(tuple(namespace))) for namespace in namespaces]
        )
        for name in names:
            with self._agents.locked(name) as (known,), self._agents.turn(name) as agent:
                known.forget(0)
                agent.close()

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        """`get` in a worker thread."""
        return await asyncio.to_thread(self.get, keys)

    async def aset(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        """`set` in a worker thread."""
        await asyncio.to_thread(self.set, pairs)

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """`clear` in a worker thread."""
        await asyncio.to_thread(self.clear, namespaces)


def _by_namespace(keys: Sequence[FullKey] | Mapping[FullKey, object]) -> dict[Namespace, list[str]]:
    found: dict[Namespace, list[str]] = {}
    for namespace, key in keys:
        found.setdefault(tuple(namespace), []).append(key)
    return found


def _text(namespace: Namespace) -> str:
    """A namespace as one text, and as no other's."""
    return "/".join(label.replace("%", "%25").replace("/", "%2F") for label in namespace)
