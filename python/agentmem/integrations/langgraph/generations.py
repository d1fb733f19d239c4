"""Generations of a thread: what is kept of it written anew, so that the rest is freed; and copies.

A generation counts from the moment that its log is there, which is one step: a fork of what was
written under another name. Whatever else lies there, of one that was not finished or is over, is
released by the next.
"""

from array import array
from collections.abc import Collection, Sequence
from typing import Any

import agentmem
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
from agentmem.integrations.langgraph.thread import ThreadTurn, common, generation_of

_NEXT = "next"
"""The log of a generation that does not count yet."""


def rewrite(agent: agentmem.Agent, thread: ThreadTurn, keep: Collection[tuple[str, str]]) -> None:
    """Leave of a thread only some checkpoints, with their writes.

    Args:
        agent: the thread's.
        thread: the thread, which cannot be used any more afterwards.
        keep: namespace and id of each checkpoint that stays.
    """
    if not keep:
        agent.close()
        return
    _release(agent, [name for name in agent.conversations() if name == _NEXT])
    generation = 1 + max(map(generation_of, agent.conversations()))
    writer = _Writer(agent, thread, generation)
    for place in range(thread.known.records):
        record = thread.record(place)
        if isinstance(record, ThreadRecord) or tuple(record[:2]) in keep:
            writer.add(record, place)
    _finish(agent, generation)
    thread.known.forget(None)


def copy(thread: ThreadTurn, target: agentmem.Agent, thread_id: str | None) -> None:
    """Make another agent, which has no thread, one that has all of this.

    Args:
        thread: what is copied. Nothing that is stored is stored again.
        target: the other agent.
        thread_id: of the copy, where it has to be written down.
    """
    _release(target, target.conversations())
    streams = thread.streams()
    log = streams.pop("log")
    for stream in streams.values():
        stream.fork(name=stream.name, agent=target)
    begun = log.fork(name=_NEXT, agent=target)
    if thread_id is not None:
        begun.append(encode(ThreadRecord(thread_id)))
    _finish(target, generation_of(log.name))


def _finish(agent: agentmem.Agent, generation: int) -> None:
    """Let a generation count, and release what does not any more."""
    agent.conversation(_NEXT).fork(name=f"log.{generation}")
    _release(agent, [name for name in agent.conversations() if generation_of(name) != generation])


def _release(agent: agentmem.Agent, names: Sequence[str]) -> None:
    for name in names:
        agent.release(agent.conversation(name))


class _Writer:
    """Writes records of a thread once more, and of its parts those that they refer to."""

    def __init__(self, agent: agentmem.Agent, thread: ThreadTurn, generation: int) -> None:
        self._agent = agent
        self._thread = thread
        self._generation = generation
        self._log = agent.conversation(_NEXT)
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
        self._log.append(encode(record))

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
        entry, chain = sequence.write(before[1], keep, places, len(self._log))
        if namespace is not None:
            self._chains[namespace, channel] = places, chain
        return [*ref[:2], *entry]

    def _moved_places(self, places: Sequence[int]) -> "array[int]":
        fresh = [place for place in dict.fromkeys(places) if place not in self._places]
        for place, part in zip(fresh, self._thread.parts(fresh), strict=True):
            stream, offset = self._thread.stream_of(part)
            conversation = self._agent.conversation(f"{stream}.{self._generation}")
            self._places[place] = len(conversation) + offset
            conversation.append(part)
        return array("Q", (self._places[place] for place in places))
