"""Records: what the log of a thread holds, one message each.

A value is written in one of three forms: in the record itself as `[type, bytes]`, as one part
`[type, place]`, or split into parts `[kind, count, is_plain, *entry]`, where kind is `"list"` or
`"dict"`, count that of its children, is_plain whether each part is one child, and entry how the
places of its parts are written down (sequence.py).
"""

from typing import Any, NamedTuple

import ormsgpack

from agentmem.integrations.langgraph.sequence import Entry

Typed = tuple[str, bytes]
"""What a serialiser gives and takes: type and bytes."""
Ref = list[Any]
"""See the module."""


class CheckpointRecord(NamedTuple):
    """A checkpoint.

    Attributes:
        namespace: `checkpoint_ns`.
        checkpoint_id: its id.
        parent_id: that of the one that it came from.
        body: the checkpoint without the values of its channels.
        metadata: its metadata.
        channels: version and value of each channel that has one.
    """

    namespace: str
    checkpoint_id: str
    parent_id: str | None
    body: Typed
    metadata: Typed
    channels: dict[str, tuple[Any, Ref]]


class WritesRecord(NamedTuple):
    """Writes of a task, for the step after a checkpoint.

    Attributes:
        namespace: `checkpoint_ns`.
        checkpoint_id: of the checkpoint.
        task_id: of the task.
        task_path: of the task.
        writes: number among the task's writes, channel and value of each.
    """

    namespace: str
    checkpoint_id: str
    task_id: str
    task_path: str
    writes: list[tuple[int, str, Ref]]


class ThreadRecord(NamedTuple):
    """The id of the thread, where it is too long for a name. The last one counts."""

    thread_id: str


Record = CheckpointRecord | WritesRecord | ThreadRecord
_KINDS: tuple[type[Record], ...] = (CheckpointRecord, WritesRecord, ThreadRecord)


def encode(record: Record) -> bytes:
    """The bytes of a record."""
    return ormsgpack.packb([_KINDS.index(type(record)), *record])


def decode(content: bytes) -> Record:
    """The record with those bytes."""
    kind, *fields = ormsgpack.unpackb(content)
    record: Record = _KINDS[kind](*fields)
    if isinstance(record, CheckpointRecord):
        return record._replace(body=_typed(record.body), metadata=_typed(record.metadata))
    return record


def _typed(pair: Any) -> Typed:
    kind, encoded = pair
    return kind, encoded


def entry_of(ref: Ref) -> Entry | None:
    """How the places of a value are written down; None if it is not split."""
    return Entry(*ref[3:]) if len(ref) > 2 else None


def pack_typed(typed: Typed) -> bytes:
    """Type and bytes as one."""
    return ormsgpack.packb(typed)


def unpack_typed(content: bytes) -> Typed:
    """The reverse of `pack_typed`."""
    return _typed(ormsgpack.unpackb(content))
