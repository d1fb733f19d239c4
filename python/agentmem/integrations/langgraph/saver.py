"""The saver: checkpoints of LangGraph's graphs in a store."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

import agentmem
from agentmem.errors import NameTaken
from agentmem.integrations.langgraph import generations
from agentmem.integrations.langgraph.agents import Agents
from agentmem.integrations.langgraph.records import (
    CheckpointRecord,
    Record,
    ThreadRecord,
    WritesRecord,
    encode,
)
from agentmem.integrations.langgraph.streams import Streams
from agentmem.integrations.langgraph.thread import Known, Stored, Thread


class AgentMemSaver(BaseCheckpointSaver[str]):
    """A checkpoint saver that keeps each message once, however often the state is saved.

    The state is split by its structure, and a checkpoint says only what is new since an earlier
    one. Copies of threads share what they have in common. Processes with sessions of one daemon
    may use the same threads; each call is there whole or not at all.

    Args:
        store: Open while this is used: `agentmem.connect()`, or `agentmem.open(path)`.
        name: What the agents begin with that hold the threads: others in the same store see other
            threads.
        serde: What encodes values; LangGraph's own by default.
        flush: Whether a call returns only when what it wrote is durable. If not, what was written
            in the last half minute is lost with the machine, and with this process where the
            store is embedded.

    Its methods raise what the store does: `OutOfMemory` where it is full, `NameTaken` where another
    process had the thread for half a minute, `Damaged` where stored bytes fail their checksum.
    """

    def __init__(
        self,
        store: agentmem.Store,
        *,
        name: str = "langgraph",
        serde: SerializerProtocol | None = None,
        flush: bool = False,
    ) -> None:
        super().__init__(serde=serde)
        self._store = store
        self._flush = flush
        self._agents = Agents(store, name, Known)

    @contextmanager
    def _thread(self, name: str) -> Iterator[Thread]:
        """The thread of an agent, for the caller alone."""
        with self._agents.locked(name) as (known,), self._agents.turn(name) as agent:
            yield Thread(agent, known, self.serde)

    def _title(self, thread_id: str) -> list[Record]:
        """What says the id of a thread, where the name of its agent does not."""
        is_said = self._agents.key(self._agents.name(thread_id)) is not None
        return [] if is_said else [ThreadRecord(thread_id)]

    def _begin(self, thread: Thread, thread_id: str) -> None:
        if not thread.known.records:
            for record in self._title(thread_id):
                thread.append(record)

    def _settle(self) -> None:
        if self._flush:
            self._store.flush()

    # Reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config names, or the latest; None if there is none."""
        thread_id, namespace = _place(config)
        name = self._agents.name(str(thread_id))
        with self._agents.locked(name) as (known,):
            with self._agents.turn(name) as agent:
                thread = Thread(agent, known, self.serde)
                found = thread.find(namespace, get_checkpoint_id(config))
                stored = None if found is None else thread.stored(found)
            if stored is None:
                return None
            decoded = self._decoded(thread_id, stored)
            for channel, split in stored.splits.items():
                value = decoded.checkpoint["channel_values"][channel]
                known.remember((namespace, channel), split.seen_as(value))
        return decoded._replace(config=config) if get_checkpoint_id(config) else decoded

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints of a thread, namespace by namespace and newest first; without a config those
        of all threads.

        Args:
            config: Names the thread, and if it does the namespace and the checkpoint.
            filter: What the metadata must have.
            before: Only checkpoints older than the one that this names.
            limit: The most to be given.
        """
        namespace = config["configurable"].get("checkpoint_ns") if config else None
        wanted_id = get_checkpoint_id(config) if config else None
        before_id = get_checkpoint_id(before) if before else None
        names = [self._agents.name(str(_place(config)[0]))] if config else self._agents.names()
        left = limit
        for name in names:
            with self._thread(name) as thread:
                # A copy may have that of the thread that it was copied from.
                thread_id = self._agents.key(name) or thread.known.thread_id or name
                found = [
                    (each, checkpoint_id)
                    for each, ids in thread.known.checkpoints.items()
                    if namespace is None or each == namespace
                    for checkpoint_id in sorted(ids, reverse=True)
                    if wanted_id is None or checkpoint_id == wanted_id
                    if before_id is None or checkpoint_id < before_id
                ]
            for each, checkpoint_id in found:
                if left is not None and left <= 0:
                    return
                listed = self._listed(name, thread_id, each, checkpoint_id, filter)
                if listed:
                    left = None if left is None else left - 1
                    yield listed

    def _listed(
        self,
        name: str,
        thread_id: str,
        namespace: str,
        checkpoint_id: str,
        filter: dict[str, Any] | None,
    ) -> CheckpointTuple | None:
        """A checkpoint, unless it was deleted meanwhile or its metadata is not as wanted."""
        with self._thread(name) as thread:
            place = thread.find(namespace, checkpoint_id)
            if place is None:
                return None
            metadata = self.serde.loads_typed(thread.record(place).metadata)
            if any(metadata.get(key) != value for key, value in (filter or {}).items()):
                return None
            stored = thread.stored(place)
        return self._decoded(thread_id, stored)

    def _decoded(self, thread_id: str, stored: Stored) -> CheckpointTuple:
        record, load = stored.record, self.serde.loads_typed
        channels = {name: load(value) for name, value in stored.channels.items()}

        def config(checkpoint_id: str) -> RunnableConfig:
            return _config(thread_id, record.namespace, checkpoint_id)

        checkpoint: Checkpoint = load(record.body)
        checkpoint["channel_values"] = channels
        return CheckpointTuple(
            config=config(record.checkpoint_id),
            checkpoint=checkpoint,
            metadata=load(record.metadata),
            parent_config=config(record.parent_id) if record.parent_id else None,
            pending_writes=[(task, name, load(value)) for task, name, value in stored.writes],
        )

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """For each channel, the value that the nearest ancestor of a checkpoint has, and the writes
        since."""
        if not channels:
            return {}
        thread_id, namespace = _place(config)
        with self._thread(self._agents.name(str(thread_id))) as thread:
            found = thread.history(namespace, get_checkpoint_id(config), channels)
        load = self.serde.loads_typed
        result: dict[str, DeltaChannelHistory] = {}
        for name, (seed, writes) in found.items():
            result[name] = {"writes": [(task, name, load(value)) for task, value in writes]}
            if seed is not None:
                result[name]["seed"] = load(seed)
        return result

    # Writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint; return the config that names it."""
        thread_id, namespace = _place(config)
        parent_id = get_checkpoint_id(config)
        body = {key: value for key, value in checkpoint.items() if key != "channel_values"}
        dumped = self.serde.dumps_typed
        with self._thread(self._agents.name(str(thread_id))) as thread:
            self._begin(thread, str(thread_id))
            parent = thread.checkpoint(namespace, parent_id) if parent_id else None
            channels = thread.put_values(
                namespace,
                checkpoint["channel_versions"],
                checkpoint["channel_values"],
                new_versions,
                parent,
            )
            record = CheckpointRecord(
                namespace,
                checkpoint["id"],
                parent_id,
                dumped(body),
                dumped(get_checkpoint_metadata(config, metadata)),
                channels,
            )
            thread.append(record)
        self._settle()
        return _config(thread_id, namespace, checkpoint["id"])

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Save what a task wrote, for the step after a checkpoint."""
        thread_id, namespace = _place(config)
        checkpoint_id = config["configurable"]["checkpoint_id"]
        with self._thread(self._agents.name(str(thread_id))) as thread:
            self._begin(thread, str(thread_id))
            found = thread.put_writes(namespace, checkpoint_id, task_id, writes)
            if found:
                thread.append(WritesRecord(namespace, checkpoint_id, task_id, task_path, found))
        self._settle()

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The version after `current`: a number; or a text like other savers', where it is one."""
        if not isinstance(current, str):
            return 1 if current is None else current + 1
        return f"{int(current.split('.')[0]) + 1:032}.{random.random():016}"

    # Deleting and copying

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread. What others share with it stays."""
        with self._thread(self._agents.name(str(thread_id))) as thread:
            generations.rewrite(thread, ())
        self._settle()

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs, with their writes, in every thread."""
        gone = set(run_ids)
        for name in self._agents.names() if gone else ():
            with self._thread(name) as thread:
                every = list(_checkpoints(thread))
                keep = {
                    key for key in every if self._metadata(thread, key).get("run_id") not in gone
                }
                if len(keep) < len(every):
                    generations.rewrite(thread, keep)
        self._settle()

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all of a thread to one that does not exist; none of it is stored again.

        Raises:
            NameTaken: The target exists.
        """
        source, target = map(self._agents.name, (source_thread_id, target_thread_id))
        with self._agents.locked(source, target) as (known, _), ExitStack() as stack:
            # In one order for all, or two who copy to and fro would wait for each other.
            names = sorted({source, target})
            agents = {name: stack.enter_context(self._agents.turn(name)) for name in names}
            thread = Thread(agents[source], known, self.serde)
            if not Streams(agents[target]).is_new:
                raise NameTaken(f"thread {target_thread_id!r}")
            if thread.known.records:
                extra = map(encode, self._title(target_thread_id))
                thread.streams.copy_to(agents[target], extra)
        self._settle()

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete what is old.

        Args:
            thread_ids: The threads.
            strategy: `"keep_latest"`: all but the latest checkpoint of each namespace, and those
                before it that a delta channel of it is made from; `"delete"`: everything.

        Raises:
            ValueError: There is no such strategy.
        """
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"strategy {strategy!r} is none of keep_latest, delete")
        for thread_id in thread_ids:
            with self._thread(self._agents.name(thread_id)) as thread:
                keep = self._latest(thread) if strategy == "keep_latest" else set()
                if keep != set(_checkpoints(thread)) or not keep:
                    generations.rewrite(thread, keep)
        self._settle()

    def _metadata(self, thread: Thread, key: tuple[str, str]) -> dict[str, Any]:
        record = cast(CheckpointRecord, thread.checkpoint(*key))
        return cast(dict[str, Any], self.serde.loads_typed(record.metadata))

    def _latest(self, thread: Thread) -> set[tuple[str, str]]:
        """The latest checkpoint of each namespace, and what its delta channels are made from."""
        keep = set()
        for namespace, ids in thread.known.checkpoints.items():
            latest = namespace, max(ids)
            wanted = set(self._metadata(thread, latest).get("counters_since_delta_snapshot") or ())
            record = thread.checkpoint(*latest)
            while record is not None:
                keep.add((namespace, record.checkpoint_id))
                wanted -= record.channels.keys()
                parent_id = record.parent_id if wanted else None
                record = thread.checkpoint(namespace, parent_id) if parent_id else None
        return keep

    # asyncio

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """`get_tuple` in a worker thread."""
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """`list`, each step in a worker thread."""
        found = self.list(config, filter=filter, before=before, limit=limit)
        while (each := await asyncio.to_thread(next, found, None)) is not None:
            yield each

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """`put` in a worker thread."""
        return await asyncio.to_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """`put_writes` in a worker thread."""
        await asyncio.to_thread(self.put_writes, config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """`delete_thread` in a worker thread."""
        await asyncio.to_thread(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """`delete_for_runs` in a worker thread."""
        await asyncio.to_thread(self.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """`copy_thread` in a worker thread."""
        await asyncio.to_thread(self.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """`prune` in a worker thread."""
        await asyncio.to_thread(self.prune, thread_ids, strategy=strategy)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """`get_delta_channel_history` in a worker thread."""
        return await asyncio.to_thread(
            self.get_delta_channel_history, config=config, channels=channels
        )


def _place(config: RunnableConfig) -> tuple[Any, str]:
    """Thread and namespace that a config names."""
    named = config["configurable"]
    return named["thread_id"], named.get("checkpoint_ns", "")


def _config(thread_id: Any, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


def _checkpoints(thread: Thread) -> Iterator[tuple[str, str]]:
    """Namespace and id of each checkpoint."""
    for namespace, ids in thread.known.checkpoints.items():
        for checkpoint_id in ids:
            yield namespace, checkpoint_id
