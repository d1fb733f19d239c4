"""The saver beside LangGraph's own in-memory saver: nobody can tell them apart."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from conftest import daemon
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT

import agentmem
from agentmem.integrations.langgraph import AgentMemSaver

THREADS = ["one", "two", "long " * 60]
NAMESPACES = ["", "child:1"]
RUNS = ["run-1", "run-2"]
CHANNELS = ["messages", "notes", "state", "files"]
TEXTS = st.text(max_size=8) | st.integers(1, 900).map(lambda n: f"{n} ".ljust(n, "x"))
MESSAGES = st.builds(
    lambda kind, text, n: kind(content=text, id=str(n)),
    st.sampled_from([HumanMessage, AIMessage]),
    TEXTS,
    st.integers(0, 3),
) | st.builds(
    lambda text: ToolMessage(text, tool_call_id="call", additional_kwargs={"a": [1]}), TEXTS
)
LEAVES = st.none() | st.booleans() | st.integers(-9, 2**40) | TEXTS | st.binary(max_size=400)
VALUES = (
    LEAVES | MESSAGES | st.lists(LEAVES | MESSAGES, max_size=4) | st.dictionaries(TEXTS, LEAVES)
)


class TwoSavers(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.reference = InMemorySaver()
        self.versions = 0
        self.ids = 0
        self.kept: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.open_store()

    def open_store(self) -> None:
        self.store = agentmem.open(self.folder, memory_max="64M")
        self.saver, self.other = AgentMemSaver(self.store), AgentMemSaver(self.store)

    def close_store(self) -> None:
        self.store.close()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.close_store()
            shutil.rmtree(self.folder)

    @rule()
    def open_again(self) -> None:
        self.close_store()
        self.open_store()

    @rule()
    def remember_nothing(self) -> None:
        self.saver = AgentMemSaver(self.store)

    @rule()
    def take_turns(self) -> None:
        # As two processes do, each with what it remembers.
        self.saver, self.other = self.other, self.saver

    @rule()
    def compress(self) -> None:
        self.store.reclaim(0)

    def ids_of(self, thread: str, namespace: str) -> list[str]:
        return list(self.reference.storage.get(thread, {}).get(namespace, {}))

    # Writing

    @rule(
        data=st.data(),
        thread=st.sampled_from(THREADS),
        namespace=st.sampled_from(NAMESPACES),
        channels=st.sets(st.sampled_from(CHANNELS), max_size=2),
        run=st.sampled_from(RUNS),
        origin=st.sampled_from(["saver", "reference", "kept"]),
    )
    def put(
        self,
        data: st.DataObject,
        thread: str,
        namespace: str,
        channels: set[str],
        run: str,
        origin: str,
    ) -> None:
        parent = data.draw(st.sampled_from([None, *self.ids_of(thread, namespace)[-3:]]))
        config = named(thread, namespace, parent)
        checkpoint = empty_checkpoint()
        if parent is not None:
            saver = self.reference if origin == "reference" else self.saver
            before = saver.get_tuple(config)
            assert before is not None
            kept = self.kept.get((thread, namespace, parent)) if origin == "kept" else None
            checkpoint["channel_values"] = dict(kept or before.checkpoint["channel_values"])
            checkpoint["channel_versions"] = dict(before.checkpoint["channel_versions"])
        fresh = {}
        for channel in sorted(channels):
            self.versions += 1
            fresh[channel] = checkpoint["channel_versions"][channel] = f"{self.versions:09}.5"
            self.change(data, checkpoint["channel_values"], channel)
        self.ids += 1
        checkpoint["id"] = f"{self.ids:06}-{data.draw(st.sampled_from('ab'))}"
        metadata = {"source": "loop", "step": self.ids % 3, "run_id": run, "parents": {}}
        given = self.saver.put(config, checkpoint, metadata, fresh)  # type: ignore[arg-type]
        assert given == self.reference.put(config, checkpoint, metadata, fresh)  # type: ignore[arg-type]
        # The objects themselves, as a graph that goes on has them.
        self.kept = {(thread, namespace, checkpoint["id"]): checkpoint["channel_values"]}

    def change(self, data: st.DataObject, values: dict[str, Any], channel: str) -> None:
        """As reducers do it, and as they should not."""
        old = values.get(channel)
        how = data.draw(st.sampled_from(["new", "add", "edit", "cut", "mutate", "empty"]))
        if how == "empty":
            values.pop(channel, None)
        elif how == "add" and isinstance(old, list):
            values[channel] = [*old, *data.draw(st.lists(VALUES, min_size=1, max_size=3))]
        elif how == "add" and isinstance(old, dict):
            values[channel] = {**old, data.draw(TEXTS): data.draw(VALUES)}
        elif how == "edit" and isinstance(old, list) and old:
            at = data.draw(st.integers(0, len(old) - 1))
            values[channel] = [*old[:at], data.draw(VALUES), *old[at + 1 :]]
        elif how == "cut" and isinstance(old, list):
            values[channel] = old[data.draw(st.integers(0, 2)) :]
        elif how == "mutate" and isinstance(old, list) and old and hasattr(old[-1], "content"):
            old[-1].content = data.draw(TEXTS)
        else:
            many = data.draw(st.booleans())
            values[channel] = data.draw(st.lists(MESSAGES, max_size=12) if many else VALUES)

    @rule(
        data=st.data(),
        thread=st.sampled_from(THREADS),
        namespace=st.sampled_from(NAMESPACES),
        task=st.sampled_from(["task-1", "task-2"]),
        path=st.sampled_from(["", "a", "b"]),
        writes=st.lists(
            st.tuples(st.sampled_from([*CHANNELS, ERROR, INTERRUPT]), VALUES), max_size=3
        ),
    )
    def put_writes(
        self,
        data: st.DataObject,
        thread: str,
        namespace: str,
        task: str,
        path: str,
        writes: list[tuple[str, Any]],
    ) -> None:
        checkpoint_id = data.draw(st.sampled_from(["later", *self.ids_of(thread, namespace)]))
        config = named(thread, namespace, checkpoint_id)
        self.saver.put_writes(config, writes, task, path)
        self.reference.put_writes(config, writes, task, path)

    # Deleting and copying, which the reference does only in part

    @rule(thread=st.sampled_from(THREADS))
    def delete_thread(self, thread: str) -> None:
        self.saver.delete_thread(thread)
        self.reference.delete_thread(thread)

    @rule(source=st.sampled_from(THREADS), to=st.sampled_from(THREADS))
    def copy_thread(self, source: str, to: str) -> None:
        if source == to:
            return
        self.delete_thread(to)
        self.saver.copy_thread(source, to)
        memory = self.reference
        if source in memory.storage:
            copied = {name: dict(found) for name, found in memory.storage[source].items()}
            memory.storage[to].update(copied)
        for table in (memory.writes, memory.blobs):
            for key in [key for key in table if key[0] == source]:
                value = table[key]  # type: ignore[index]
                table[to, *key[1:]] = dict(value) if isinstance(value, dict) else value  # type: ignore[index]

    @rule(run=st.sampled_from(RUNS))
    def delete_for_runs(self, run: str) -> None:
        self.saver.delete_for_runs([run])
        for found in list(self.reference.list(None)):
            if found.metadata.get("run_id") == run:
                self.forget(found)

    @rule(thread=st.sampled_from(THREADS))
    def prune(self, thread: str) -> None:
        self.saver.prune([thread])
        for namespace in NAMESPACES:
            ids = self.ids_of(thread, namespace)
            for found in list(self.reference.list(named(thread, namespace))):
                if found.checkpoint["id"] != max(ids):
                    self.forget(found)
        for key in [key for key in self.reference.writes if key[0] == thread]:
            if key[2] not in self.ids_of(thread, key[1]):
                del self.reference.writes[key]

    def forget(self, found: CheckpointTuple) -> None:
        place = found.config["configurable"]
        thread, namespace, checkpoint_id = place.values()
        del self.reference.storage[thread][namespace][checkpoint_id]
        self.reference.writes.pop((thread, namespace, checkpoint_id), None)

    # Reading

    @rule(data=st.data(), thread=st.sampled_from(THREADS), namespace=st.sampled_from(NAMESPACES))
    def get_tuple(self, data: st.DataObject, thread: str, namespace: str) -> None:
        found = st.sampled_from([None, "later", *self.ids_of(thread, namespace)])
        config = named(thread, namespace, data.draw(found))
        same(self.saver.get_tuple(config), self.reference.get_tuple(config))
        given = {"config": config, "channels": CHANNELS}
        same(
            self.saver.get_delta_channel_history(**given),
            self.reference.get_delta_channel_history(**given),
        )

    @rule(
        data=st.data(),
        thread=st.sampled_from(THREADS),
        namespace=st.sampled_from([None, *NAMESPACES]),
        step=st.none() | st.integers(0, 2),
        limit=st.none() | st.integers(0, 3),
    )
    def list_some(
        self,
        data: st.DataObject,
        thread: str,
        namespace: str | None,
        step: int | None,
        limit: int | None,
    ) -> None:
        ids = st.sampled_from([None, *self.ids_of(thread, namespace or "")])
        before = data.draw(ids)
        given: dict[str, Any] = {
            "config": named(thread, namespace),
            "filter": None if step is None else {"step": step},
            "before": None if before is None else named(thread, "", before),
            "limit": limit,
        }
        found, expected = list(self.saver.list(**given)), list(self.reference.list(**given))
        if namespace is None:
            # Which namespace comes first is not said.
            found.sort(key=place_of)
            expected.sort(key=place_of)
        if namespace is not None or limit is None:
            same(found, expected)
        assert len(found) == len(expected)

    @invariant()
    def the_same_threads(self) -> None:
        def places(saver: AgentMemSaver | InMemorySaver) -> Iterator[tuple[str, ...]]:
            for found in saver.list(None):
                yield place_of(found)

        if hasattr(self, "store"):
            assert sorted(places(self.saver)) == sorted(places(self.reference))


class TwoSaversOfADaemon(TwoSavers):
    """The same, and the two savers have sessions of their own."""

    def open_store(self) -> None:
        self.stack = ExitStack()
        socket = Path(self.folder) / "agentmem.sock"
        self.stack.enter_context(daemon(socket, f'path = "{self.folder}/cold"'))
        self.store, other = (
            self.stack.enter_context(agentmem.connect(socket, start=False)) for _ in range(2)
        )
        self.saver, self.other = AgentMemSaver(self.store), AgentMemSaver(other)

    def close_store(self) -> None:
        self.stack.close()


def named(thread: str, namespace: str | None, checkpoint_id: str | None = None) -> Any:
    place = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"configurable": {key: value for key, value in place.items() if value is not None}}


def place_of(found: CheckpointTuple) -> tuple[str, ...]:
    return tuple(found.config["configurable"].values())


def same(found: Any, expected: Any) -> None:
    assert found == expected
    # 1 == True == 1.0, so equality alone does not see a changed type.
    assert repr(found) == repr(expected)


TestTwoSavers = TwoSavers.TestCase
TestTwoSavers.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestTwoSaversOfADaemon = TwoSaversOfADaemon.TestCase
TestTwoSaversOfADaemon.settings = settings(TestTwoSavers.settings, max_examples=6)
