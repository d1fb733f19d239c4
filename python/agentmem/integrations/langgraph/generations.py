"""Generations of a thread: what is kept of it written anew, so that the rest is freed."""

from array import array
from collections.abc import Collection, Sequence
from typing import Any

from agentmem.integrations.langgraph import sequence
from agentmem.integrations.langgraph.records import (
    CheckpointRecord,
    Record,
    Ref,
    ThreadRecord,
    WritesRecord,
    encode,
    entry_of,
)
from agentmem.integrations.langgraph.sequence import Link
from agentmem.integrations.langgraph.streams import LOG, NextStreams
from agentmem.integrations.langgraph.thread import Thread, common


def rewrite(thread: Thread, keep: Collection[tuple[str, str]]) -> None:
    """Leave of a thread only some checkpoints, with their writes. It cannot be used any more
    in this turn.

    Args:
        thread: the thread.
        keep: namespace and id of each checkpoint that stays.
    """
    if not keep:
        thread.agent.close()
        return
    streams = thread.streams.next()
    writer = _Writer(thread, streams)
    for place in range(thread.known.records):
        record = thread.record(place)
        if isinstance(record, ThreadRecord) or tuple(record[:2]) in keep:
            writer.add(record, place)
    streams.finish()


class _Writer:
    """Writes records of a thread once more, and of its parts those that they refer to."""

    def __init__(self, thread: Thread, streams: NextStreams) -> None:
        self._thread = thread
        self._streams = streams
        self._places: dict[int, int] = {}
        self._chains: dict[tuple[str, str], tuple[Sequence[int], list[Link]]] = {}

    def add(self, record: Record, place: int) -> None:
        """Write the record at a place."""
        match record:
            case CheckpointRecord(namespace=namespace, channels=channels):
                moved: dict[str, tuple[Any, Ref]] = {
                    name: (version, self._moved(ref, place, name, namespace))
                    for name, (version, ref) in channels.items()
                }
                record = record._replace(channels=moved)
            case WritesRecord(writes=writes):
                record = record._replace(
                    writes=[
                        (number, name, self._moved(ref, place, name, None))
                        for number, name, ref in writes
                    ]
                )
        self._streams[LOG].append(encode(record))

    def _moved(self, ref: Ref, place: int, channel: str, namespace: str | None) -> Ref:
        entry = entry_of(ref)
        if entry is None:
            kind, content = ref
            is_part = isinstance(content, int)
            return [kind, self._moved_places([content])[0] if is_part else content]
        places = self._moved_places(self._thread.places(entry, place, channel))
        before: tuple[Sequence[int], list[Link]] = ((), [])
        if namespace is not None:
            before = self._chains.get((namespace, channel), before)
        keep = common(before[0], places)
        entry, chain = sequence.write(before[1], keep, places, len(self._streams[LOG]))
        if namespace is not None:
            self._chains[namespace, channel] = places, chain
        return [*ref[:3], *entry]

    def _moved_places(self, places: Sequence[int]) -> "array[int]":
        fresh = [place for place in dict.fromkeys(places) if place not in self._places]
        for place, part in zip(fresh, self._thread.parts(fresh), strict=True):
            name, offset = self._thread.stream_of(part)
            stream = self._streams[name]
            self._places[place] = len(stream) + offset
            stream.append(part)
        return array("Q", (self._places[place] for place in places))
