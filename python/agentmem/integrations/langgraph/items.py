"""The long-term store: items of LangGraph's agents in a store."""

import asyncio
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import ormsgpack
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)
from langgraph.store.memory import InMemoryStore

import agentmem
from agentmem.integrations.langgraph.agents import Agents
from agentmem.integrations.langgraph.records import Typed
from agentmem.integrations.langgraph.table import KnownTable, Table

Namespace = tuple[str, ...]
_REFRESH_SHARE_MIN = 0.01
"""A read does not write down a new expiry that is this part of the time to live later."""


class _Row(NamedTuple):
    """An item as it is stored: what it was encoded to, times in Unix seconds, the time to live in
    minutes, and a vector of 32-bit floats for each embedded path."""

    value: Typed
    created_s: float
    updated_s: float
    ttl_minutes: float | None
    vectors: dict[str, bytes]


class _Scene(NamedTuple):
    """What some operations look at: items, and when those with a time to live expire."""

    items: InMemoryStore
    ttls: dict[tuple[Namespace, str], tuple[float, float]]


class AgentMemStore(BaseStore):
    """A long-term store that processes with sessions of one daemon share.

    A namespace is an agent of its own, and they come in the order of their names. Searching,
    filtering and ranking is LangGraph's own `InMemoryStore`, which gets the items of the namespaces
    in question, so it takes time in proportion to them. Vectors are kept only where there is an
    index.

    Args:
        store: Open while this is used: `agentmem.connect()`, or `agentmem.open(path)`.
        name: What the agents begin with that hold the namespaces.
        index: How items are embedded; None: there is no search by meaning.
        ttl: For how long items are kept. One that has expired is never given, and is freed when its
            namespace is written to next, or by `sweep_ttl`.
        serde: What encodes values; LangGraph's own by default.
        flush: Whether a batch returns only when what it wrote is durable.
    """

    supports_ttl = True

    def __init__(
        self,
        store: agentmem.Store,
        *,
        name: str = "langgraph-store",
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        serde: SerializerProtocol | None = None,
        flush: bool = False,
    ) -> None:
        self._store = store
        self._agents = Agents(store, name, KnownTable)
        self._index = index
        self._serde = serde or JsonPlusSerializer()
        self._flush = flush
        self.ttl_config = ttl

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several things: first what reads, then what writes.

        Raises:
            InvalidNamespaceError: A namespace is none.
            NameTaken: Another process had a namespace for half a minute.
            OutOfMemory: The store is full.
        """
        given = list(ops)
        scene = self._scene(given)
        results = scene.items.batch(given)
        self._write(given, results, scene)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """`batch` with what waits in worker threads, and embeddings awaited."""
        given = list(ops)
        scene = await asyncio.to_thread(self._scene, given)
        results = await scene.items.abatch(given)
        await asyncio.to_thread(self._write, given, results, scene)
        return results

    def sweep_ttl(self) -> int:
        """Free what has expired in all namespaces; return how many items that were."""
        now_s = time.time()
        count = 0
        for name in self._agents.names():
            with self._table(name, None) as table:
                count += table.tidy(now_s)
        return count

    @contextmanager
    def _table(self, name: str, title: str | None) -> Iterator[Table]:
        with self._agents.locked(name) as (known,), self._agents.turn(name) as agent:
            yield Table(agent, known, title)

    def _scene(self, ops: Sequence[Op]) -> _Scene:
        """Load what the operations look at."""
        scene = _Scene(InMemoryStore(index=self._index), {})
        wanted: dict[Namespace, set[str] | None] = {}
        for op in ops:
            validate_op_namespace(op)
            if isinstance(op, GetOp):
                keys = wanted.setdefault(op.namespace, set())
                if keys is not None:
                    keys.add(op.key)
            elif isinstance(op, SearchOp):
                depth, prefix = len(op.namespace_prefix), op.namespace_prefix
                every = self._namespaces()
                wanted |= dict.fromkeys(each for each in every if each[:depth] == prefix)
            elif isinstance(op, ListNamespacesOp):
                for namespace in self._namespaces():
                    wanted.setdefault(namespace, set())
        now_s = time.time()
        for namespace in sorted(wanted):
            self._load(scene, namespace, wanted[namespace], now_s)
        return scene

    def _namespaces(self) -> list[Namespace]:
        found = []
        for name in self._agents.names():
            text = self._agents.key(name)
            if text is None:
                with self._table(name, None) as table:
                    text = table.title or ""
            found.append(tuple(text.split(".")) if text else ())
        return found

    def _load(
        self, scene: _Scene, namespace: Namespace, keys: set[str] | None, now_s: float
    ) -> None:
        """Add the items of a namespace to a scene, all of them or those with some keys."""
        items = scene.items._data[namespace]
        if keys is not None and not keys:
            return
        with self._table(self._agents.name(_text(namespace)), None) as table:
            found = table.items(now_s) if keys is None else table.some(keys, now_s)
            for key, content in found:
                row = _Row(*ormsgpack.unpackb(content))
                items[key] = Item(
                    value=self._serde.loads_typed(row.value),
                    key=key,
                    namespace=namespace,
                    created_at=datetime.fromtimestamp(row.created_s, UTC),
                    updated_at=datetime.fromtimestamp(row.updated_s, UTC),
                )
                for path, vector in row.vectors.items():
                    scene.items._vectors[namespace][key][path] = array("f", vector).tolist()
                expires_s = table.expires_s(key)
                if row.ttl_minutes is not None and expires_s is not None:
                    scene.ttls[namespace, key] = row.ttl_minutes, expires_s

    def _write(self, ops: Sequence[Op], results: Sequence[Result], scene: _Scene) -> None:
        """Write down what was put, and that items were read whose time to live begins anew."""
        now_s = time.time()
        puts: dict[Namespace, dict[str, PutOp]] = {}
        read: dict[Namespace, dict[str, float]] = {}
        for op, result in zip(ops, results, strict=True):
            if isinstance(op, PutOp):
                puts.setdefault(op.namespace, {})[op.key] = op
            elif isinstance(op, GetOp | SearchOp) and op.refresh_ttl:
                for item in result if isinstance(result, list) else [result]:
                    expires_s = self._refreshed(item, scene, now_s)
                    if isinstance(item, Item) and expires_s is not None:
                        read.setdefault(item.namespace, {})[item.key] = expires_s
        for namespace in {**read, **puts}:
            text = _text(namespace)
            name = self._agents.name(text)
            title = text if self._agents.key(name) is None else None
            with self._table(name, title) as table:
                for key, expires_s in read.get(namespace, {}).items():
                    if key in table:
                        table.refresh(key, expires_s)
                for put in puts.get(namespace, {}).values():
                    self._put(table, put, scene, now_s)
                table.tidy(now_s)
        if self._flush and (read or puts):
            self._store.flush()

    @staticmethod
    def _refreshed(item: object, scene: _Scene, now_s: float) -> float | None:
        """When an item expires that was read now, if that is worth writing down."""
        if not isinstance(item, Item) or (item.namespace, item.key) not in scene.ttls:
            return None
        ttl_minutes, expires_s = scene.ttls[item.namespace, item.key]
        later_s = now_s + 60 * ttl_minutes
        return later_s if later_s - expires_s > 60 * ttl_minutes * _REFRESH_SHARE_MIN else None

    def _put(self, table: Table, op: PutOp, scene: _Scene, now_s: float) -> None:
        if op.value is None:
            table.delete(op.key)
            return
        before = table.get(op.key, now_s)
        vectors = scene.items._vectors[op.namespace][op.key]
        row = _Row(
            value=self._serde.dumps_typed(scene.items._data[op.namespace][op.key].value),
            created_s=now_s if before is None else _Row(*ormsgpack.unpackb(before)).created_s,
            updated_s=now_s,
            ttl_minutes=op.ttl,
            vectors={path: array("f", vector).tobytes() for path, vector in vectors.items()},
        )
        expires_s = None if op.ttl is None else now_s + 60 * op.ttl
        table.put(op.key, ormsgpack.packb(tuple(row)), expires_s)


def _text(namespace: Namespace) -> str:
    """A namespace as one text: no label has a period in it."""
    return ".".join(namespace)
