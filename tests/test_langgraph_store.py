"""The long-term store beside LangGraph's own in-memory store, and the node cache."""

import asyncio
import time
from typing import Any, TypedDict

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy
from words import prose

import agentmem
from agentmem.integrations.langgraph import AgentMemCache, AgentMemStore

LONG = ("l" * 150, "m" * 150)


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(text.count(letter)) for letter in "aeiou"] for text in texts]


INDEX: Any = {"dims": 5, "embed": embed, "fields": ["text"]}


@pytest.fixture
def store(mem: agentmem.Store) -> AgentMemStore:
    return AgentMemStore(mem)


def plain(result: Any) -> Any:
    """A result without the times, which differ."""
    if isinstance(result, Item):
        score = getattr(result, "score", None)
        return result.namespace, result.key, result.value, score and round(score, 5)
    return [plain(each) for each in result] if isinstance(result, list) else result


PUTS = [
    PutOp(("a", "b"), "1", {"text": "an elephant", "n": 1, "in": {"deep": [1, 2]}}),
    PutOp(("a", "b"), "2", {"text": "unusual", "n": 2}),
    PutOp(("a", "c"), "1", {"text": "ooo", "n": 3.5, "large": prose(1, 100_000).decode()}),
    PutOp(LONG, "k" * 600, {"text": "iii", "n": 5}, index=False),
    PutOp(("z",), "1", {"text": "", "n": 4}),
    PutOp(("a", "b"), "1", {"text": "another", "n": 10}),
    PutOp(("a", "b"), "2", None),
    PutOp(("none",), "2", None),
]
READS = [
    GetOp(("a", "b"), "1"),
    GetOp(("a", "b"), "2"),
    GetOp(("nowhere",), "1"),
    GetOp(LONG, "k" * 600),
    SearchOp(("a",)),
    SearchOp((), limit=2, offset=1),
    SearchOp(("a",), filter={"n": {"$gt": 3}}),
    SearchOp(("a",), filter={"n": 10, "text": "another"}),
    SearchOp(("a",), filter={"n": {"$ne": 10}}),
    SearchOp((), query="oooo", limit=3),
    SearchOp(("a",), query="aeo", filter={"n": {"$gte": 2}}),
    ListNamespacesOp(max_depth=1),
    ListNamespacesOp((MatchCondition("prefix", ("a", "*")),)),
    ListNamespacesOp((MatchCondition("suffix", ("c",)),)),
]


@pytest.mark.parametrize("index", [None, INDEX])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_it_does_what_the_reference_does(mem: agentmem.Store, index: Any, kind: str) -> None:
    store, reference = AgentMemStore(mem, index=index), InMemoryStore(index=index)
    for ops in (PUTS[:5], PUTS[5:], [*READS, PutOp(("a", "b"), "3", {"text": "x", "n": 0})], READS):
        expected = reference.batch(ops)
        found = store.batch(ops) if kind == "sync" else asyncio.run(store.abatch(ops))
        for op, one, other in zip(ops, found, expected, strict=True):
            listed = isinstance(op, ListNamespacesOp)
            # The reference lists a namespace that was emptied, and where nothing ever was.
            other = [each for each in other if each != ("none",)] if listed else other
            assert plain(one) == plain(other), op
    # What another process with nothing in mind sees.
    again = AgentMemStore(mem, index=index)
    assert plain(again.batch(READS[:4])) == plain(reference.batch(READS[:4]))


def test_times_tell_when_an_item_came_and_changed(store: AgentMemStore) -> None:
    store.put(("a",), "k", {"n": 1})
    first = store.get(("a",), "k")
    store.put(("a",), "k", {"n": 2})
    second = store.get(("a",), "k")
    assert first is not None
    assert second is not None
    assert first.created_at == first.updated_at == second.created_at < second.updated_at


def test_a_label_with_a_period_is_refused(store: AgentMemStore) -> None:
    with pytest.raises(InvalidNamespaceError):
        store.batch([PutOp(("a.b",), "k", {})])
    assert store.list_namespaces() == []


def test_an_item_lives_for_its_time_since_it_was_read_last(
    mem: agentmem.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]
    monkeypatch.setattr("agentmem.integrations.langgraph.items.time.time", lambda: now[0])
    store = AgentMemStore(mem, ttl={"default_ttl": 10.0})
    store.put(("a",), "default", {"n": 1})
    store.put(("a",), "short", {"n": 2}, ttl=5.0)
    store.put(("a",), "for good", {"n": 3}, ttl=None)
    now[0] += 4 * 60
    assert store.get(("a",), "short") is not None
    now[0] += 4 * 60
    assert store.get(("a",), "short", refresh_ttl=False) is not None
    assert len(store.search(("a",), filter={"n": {"$ne": 1}})) == 2
    now[0] += 4 * 60
    assert store.get(("a",), "default") is None
    assert {item.key for item in store.search(("a",), refresh_ttl=False)} == {"short", "for good"}
    assert store.sweep_ttl() == 1
    now[0] += 60 * 60
    assert store.sweep_ttl() == 1
    assert [item.key for item in store.search(("a",))] == ["for good"]
    store.delete(("a",), "for good")
    assert mem.agents() == []


def test_what_was_overwritten_is_freed(mem: agentmem.Store, store: AgentMemStore) -> None:
    for n in range(400):
        store.put(("a",), str(n % 5), {"text": prose(n, 3000).decode()})
    mem.reclaim(0)
    assert mem.stats()["messages"] <= 150
    for n in range(395, 400):
        item = store.get(("a",), str(n % 5))
        assert item is not None
        assert item.value == {"text": prose(n, 3000).decode()}


# The node cache


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_cache_keeps_values_for_their_time(
    mem: agentmem.Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]
    monkeypatch.setattr("agentmem.integrations.langgraph.cache.time.time", lambda: now[0])
    cache: AgentMemCache[Any] = AgentMemCache(mem)

    def get(*keys: Any) -> Any:
        return cache.get(keys) if kind == "sync" else asyncio.run(cache.aget(keys))

    pairs: Any = {
        (("n", "a/b"), "k"): ({"v": (1, b"x")}, None),
        (("n", "a"), "b/k"): ([2], 60),
        (("n",), "k"): (None, 90),
    }
    if kind == "sync":
        cache.set(pairs)
    else:
        asyncio.run(cache.aset(pairs))
    reference: InMemoryCache[Any] = InMemoryCache()
    reference.set(pairs)
    assert get(*pairs, (("n",), "none")) == reference.get([*pairs, (("n",), "none")])
    now[0] += 70
    assert set(get(*pairs)) == {(("n", "a/b"), "k"), (("n",), "k")}
    cache.clear([("n",)])
    assert set(get(*pairs)) == {(("n", "a/b"), "k")}
    if kind == "sync":
        cache.clear()
    else:
        asyncio.run(cache.aclear())
    assert get(*pairs) == {}
    assert mem.agents() == []


def test_a_graph_uses_the_cache(mem: agentmem.Store) -> None:
    class State(TypedDict):
        asked: str
        answer: str

    calls = []

    def node(state: State) -> Any:
        calls.append(state["asked"])
        return {"answer": state["asked"].upper()}

    builder = StateGraph(State)
    builder.add_node("node", node, cache_policy=CachePolicy(ttl=60))
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    for _ in range(2):
        graph = builder.compile(cache=AgentMemCache(mem))
        for asked in ("a", "b", "a"):
            assert graph.invoke({"asked": asked})["answer"] == asked.upper()  # type: ignore[call-overload]
    assert calls == ["a", "b"]
