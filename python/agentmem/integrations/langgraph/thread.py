"""A thread of a graph in a store.

A thread is an agent of its own, so that it comes, goes and idles as a whole. It has three streams
(streams.py):

    log    records (records.py), one for each checkpoint and each task's writes
    parts  what they refer to, in the order in which it was stored first
    large  the same for large parts, so that who reads small ones need not read past them

Who writes has the agent for itself (turn.py), and appends a record when all that it refers to is
there; so whoever dies on the way leaves a thread without the record, and nothing torn.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key
from langgraph.checkpoint.serde.base import SerializerProtocol

import agentmem
from agentmem.integrations.langgraph import sequence, values
from agentmem.integrations.langgraph.records import (
    CheckpointRecord,
    Record,
    Ref,
    ThreadRecord,
    Typed,
    WritesRecord,
    decode,
    encode,
    entry_of,
)
from agentmem.integrations.langgraph.sequence import Link
from agentmem.integrations.langgraph.streams import LOG, Streams

_INLINE_BYTES_MAX = 200
_PART_BYTES_MIN = 256
_LARGE_BYTES_MIN = 64 << 10
_LARGE = 1 << 48
"""Added to the places of large parts."""
_GAP_MAX = 8
_RECENT_MAX = 256
_SPLITS_MAX = 64
_LATEST_MAX = 4


class Split(NamedTuple):
    """A value that was split when it was last seen, to tell what is new in the next one.

    Attributes:
        length: its children.
        ends: how many of them lie in each part and those before; None if that is not known.
        outline: hash of the children's outline (values.py), None if there is none.
        places: of its parts.
        is_open: whether the last part is short, so that the next child belongs there too.
        chain: how its places were written down (sequence.py).
    """

    length: int
    ends: "array[int] | None"
    outline: bytes | None
    places: "array[int]"
    is_open: bool
    chain: list[Link]

    def seen_as(self, value: Any) -> "Split":
        """With the outline of the value that its parts were decoded to."""
        if self.ends is None:
            return self
        items = list(value.items()) if isinstance(value, dict) else value
        outline = values.outline(items)
        return self._replace(outline=outline and hashlib.sha256(outline).digest())


class Known:
    """What a process remembers of a thread between turns: nothing that it could not read again."""

    def __init__(self) -> None:
        self.forget(0)

    def forget(self, generation: int) -> None:
        """Begin anew, for a generation of which nothing is known."""
        self.generation = generation
        self.records = 0
        self.thread_id: str | None = None
        self.checkpoints: dict[str, dict[str, int]] = {}
        self.writes: dict[tuple[str, str], list[int]] = {}
        self.splits: OrderedDict[tuple[str, str], Split] = OrderedDict()
        self.recent: OrderedDict[bytes, int] = OrderedDict()
        self.latest: dict[int, Record] = {}

    def note(self, record: Record) -> None:
        """The next record of the log."""
        match record:
            case CheckpointRecord():
                checkpoints = self.checkpoints.setdefault(record.namespace, {})
                checkpoints[record.checkpoint_id] = self.records
            case WritesRecord():
                key = record.namespace, record.checkpoint_id
                self.writes.setdefault(key, []).append(self.records)
            case ThreadRecord():
                self.thread_id = record.thread_id
        # What comes next mostly goes on from one of these.
        self.latest[self.records] = record
        self.latest.pop(self.records - _LATEST_MAX, None)
        self.records += 1

    def remember(self, key: tuple[str, str], split: Split) -> None:
        """A value that may come again with something new, under its namespace and channel."""
        self.splits[key] = split
        self.splits.move_to_end(key)
        if len(self.splits) > _SPLITS_MAX:
            self.splits.popitem(last=False)


class Stored(NamedTuple):
    """A checkpoint as it was stored, to be decoded when others may have the thread.

    Attributes:
        record: its record.
        channels: encoded values by channel.
        splits: those of them that are split into one part for each child, without the outline.
        writes: writes for the step after it, in the order in which they count.
    """

    record: CheckpointRecord
    channels: dict[str, Typed]
    splits: dict[str, Split]
    writes: list[tuple[str, str, Typed]]


class Thread:
    """A thread, while its agent belongs to the caller.

    Args:
        agent: its agent.
        known: what is remembered of it; brought up to date.
        serde: what encodes values.
    """

    def __init__(self, agent: agentmem.Agent, known: Known, serde: SerializerProtocol) -> None:
        self._serde = serde
        self.agent = agent
        self.known = known
        self.streams = Streams(agent)
        is_behind = known.generation != self.streams.generation
        if self.streams.is_new or is_behind or len(self.streams[LOG]) < known.records:
            known.forget(self.streams.generation)
        if not self.streams.is_new:
            for content in self.streams[LOG][known.records :]:
                known.note(decode(content))

    # Records

    def append(self, record: Record) -> None:
        """Add a record. What it refers to is there."""
        self.streams[LOG].append(encode(record))
        self.known.note(record)

    def record(self, place: int) -> Any:
        """The record at a place."""
        known = self.known.latest.get(place)
        return known or decode(self.streams[LOG].raw(place))

    def find(self, namespace: str, checkpoint_id: str | None) -> int | None:
        """Where the record of a checkpoint is; by default of the latest."""
        checkpoints = self.known.checkpoints.get(namespace, {})
        if checkpoint_id is None:
            checkpoint_id = max(checkpoints, default="")
        return checkpoints.get(checkpoint_id)

    def checkpoint(self, namespace: str, checkpoint_id: str) -> CheckpointRecord | None:
        """The record of a checkpoint."""
        place = self.find(namespace, checkpoint_id)
        return None if place is None else self.record(place)

    # Values

    def put_values(
        self,
        namespace: str,
        versions: Mapping[str, Any],
        given: Mapping[str, Any],
        fresh: Iterable[str],
        parent: CheckpointRecord | None,
    ) -> dict[str, tuple[Any, Ref]]:
        """Store the values of a checkpoint's channels.

        Args:
            namespace: its namespace.
            versions: version of each channel.
            given: values of the channels that have one.
            fresh: channels that changed since the parent.
            parent: where those that did not are taken from, if it has them in that version.
        """
        channels = {}
        for name, version in versions.items():
            kept = parent.channels.get(name) if parent else None
            if kept and kept[0] == version and name not in fresh:
                channels[name] = kept
            elif name in given:
                channels[name] = version, self._put(given[name], (namespace, name))
        return channels

    def put_writes(
        self,
        namespace: str,
        checkpoint_id: str,
        task_id: str,
        writes: Sequence[tuple[str, Any]],
    ) -> list[tuple[int, str, Ref]]:
        """Store those of a task's writes that count: one that was written before stays as it was,
        unless its channel is one of the framework's own."""
        numbered = [
            (WRITES_IDX_MAP.get(name, n), name, value) for n, (name, value) in enumerate(writes)
        ]
        found = self._writes(namespace, checkpoint_id)
        there = {number for task, number in found if task == task_id}
        return [
            (number, name, self._put(value, None))
            for number, name, value in numbered
            if number < 0 or number not in there
        ]

    def _put(self, value: Any, key: tuple[str, str] | None) -> Ref:
        ref = self._put_split(value, key)
        if ref is None:
            kind, encoded = self._serde.dumps_typed(value)
            is_short = len(encoded) <= _INLINE_BYTES_MAX
            ref = [kind, bytes(encoded) if is_short else self._add(bytes(encoded))]
        return ref

    def _put_split(self, value: Any, key: tuple[str, str] | None) -> Ref | None:
        kind = values.kind_of(value)
        if kind is None:
            return None
        items = list(value.items()) if kind == "dict" else value
        before = self.known.splits.get(key) if key else None
        stable, outline = _unchanged(before, items) if key else (0, None)
        begin = before.ends[stable - 1] if before and before.ends and stable else 0
        encoded = values.children(self._serde, value, begin)
        if encoded is None:
            return None
        pieces = [piece for child in encoded for piece in child]
        if before is None and sum(map(len, pieces)) <= _INLINE_BYTES_MAX:
            return [values.SPLITTABLE, values.joined(kind, len(items), pieces)]
        places = before.places[:stable] if before else array("Q")
        if before and not stable:
            self._recall(before.places)
        ends = before.ends[:stable] if before and before.ends else array("Q")
        part = b""
        for part, end in _grouped(encoded, begin):
            places.append(self._add(part))
            ends.append(end)
        is_open = bool(encoded) and len(part) < _PART_BYTES_MIN
        keep = stable or common(before.places if before else (), places)
        chain = before.chain if before else []
        entry, chain = sequence.write(chain, keep, places, self.known.records)
        self._forget_parts()
        if key:
            split = Split(len(items), ends, outline, places, is_open, chain)
            self.known.remember(key, split)
        is_plain = ends == array("Q", range(1, len(items) + 1))
        return [kind, len(items), is_plain, *entry]

    def _add(self, part: bytes) -> int:
        """The place of a part, which is stored unless it was seen lately."""
        digest = _digest(part)
        recent = self.known.recent
        place = recent.get(digest)
        if place is None:
            name, offset = self.stream_of(part)
            stream = self.streams[name]
            place = len(stream) + offset
            stream.append(part)
            recent[digest] = place
        return place

    @staticmethod
    def stream_of(part: bytes) -> tuple[str, int]:
        """The stream that a part belongs to, and what its place is more than its number there."""
        return ("large", _LARGE) if len(part) >= _LARGE_BYTES_MIN else ("parts", 0)

    def _recall(self, places: Sequence[int]) -> None:
        """Look at parts again, of which some are about to come once more."""
        recent = self.known.recent
        for place, part in zip(places, self.parts(places), strict=True):
            recent[_digest(part)] = place

    def _forget_parts(self) -> None:
        recent = self.known.recent
        while len(recent) > _RECENT_MAX:
            recent.popitem(last=False)

    def stored(self, place: int) -> Stored:
        """The checkpoint whose record is at a place."""
        record: CheckpointRecord = self.record(place)
        channels, splits = {}, {}
        for name, (_, ref) in record.channels.items():
            channels[name], split = self._get(ref, place, name)
            if split:
                splits[name] = split
        writes = [
            (task_id, name, self._get(ref, at, name)[0])
            for task_id, name, ref, at in self._ordered_writes(record)
        ]
        return Stored(record, channels, splits, writes)

    def history(
        self, namespace: str, checkpoint_id: str | None, channels: Iterable[str]
    ) -> dict[str, tuple[Typed | None, list[tuple[str, Typed]]]]:
        """What became of channels since each had a value: that value of the nearest ancestor of a
        checkpoint that has one, and the writes from there on, oldest first, with their tasks."""
        seeds: dict[str, Typed | None] = dict.fromkeys(channels)
        writes: dict[str, list[tuple[str, Typed]]] = {name: [] for name in seeds}
        wanted = set(seeds)
        place = self.find(namespace, checkpoint_id)
        target = None if place is None else self.record(place)
        parent_id = target.parent_id if target else None
        while parent_id and wanted and (place := self.find(namespace, parent_id)) is not None:
            record: CheckpointRecord = self.record(place)
            for task_id, name, ref, at in reversed(self._ordered_writes(record)):
                if name in wanted:
                    writes[name].append((task_id, self._get(ref, at, name)[0]))
            for name in wanted & record.channels.keys():
                seeds[name] = self._get(record.channels[name][1], place, name)[0]
                wanted.discard(name)
            parent_id = record.parent_id
        return {name: (seeds[name], writes[name][::-1]) for name in seeds}

    def _ordered_writes(self, record: CheckpointRecord) -> list[tuple[str, str, Ref, int]]:
        """Writes for the step after a checkpoint, in the order in which they count: task, channel,
        value and place of the record."""
        found = self._writes(record.namespace, record.checkpoint_id)
        order = sorted(found, key=lambda key: writes_sort_key(found[key][1], *key))
        return [(key[0], found[key][0], found[key][2], found[key][3]) for key in order]

    def _writes(
        self, namespace: str, checkpoint_id: str
    ) -> dict[tuple[str, int], tuple[str, str, Ref, int]]:
        """Writes for the step after a checkpoint, by task and number: channel, path of the task,
        value, and place of the record."""
        found: dict[tuple[str, int], tuple[str, str, Ref, int]] = {}
        for place in self.known.writes.get((namespace, checkpoint_id), ()):
            record: WritesRecord = self.record(place)
            for number, name, ref in record.writes:
                found[record.task_id, number] = name, record.task_path, ref, place
        return found

    def _get(self, ref: Ref, record: int, channel: str) -> tuple[Typed, Split | None]:
        """An encoded value, and what to remember of it if it may come again with something new."""
        entry = entry_of(ref)
        if entry is None:
            kind, content = ref
            return (kind, self.parts([content])[0] if isinstance(content, int) else content), None
        kind, count, is_plain = ref[:3]
        places, chain = sequence.read(entry, record, lambda place: self._entry(place, channel))
        parts = self.parts(places)
        ends = array("Q", range(1, count + 1)) if is_plain else None
        is_open = len(parts[-1]) < _PART_BYTES_MIN
        encoded = values.joined(kind, count, parts)
        return (values.SPLITTABLE, encoded), Split(count, ends, None, places, is_open, chain)

    def places(self, entry: sequence.Entry, record: int, channel: str) -> "array[int]":
        """The places of a value's parts, written down in the record at a place."""
        return sequence.read(entry, record, lambda place: self._entry(place, channel))[0]

    def _entry(self, place: int, channel: str) -> sequence.Entry:
        record: CheckpointRecord = self.record(place)
        entry = entry_of(record.channels[channel][1])
        assert entry is not None, "others go on from it, so it is split"
        return entry

    def parts(self, places: Sequence[int]) -> list[bytes]:
        """Parts by their places. Those that lie together are read together."""
        found: dict[int, bytes] = {}
        for span in _spans(sorted(set(places))):
            stream = self.streams["large" if span[0] >= _LARGE else "parts"]
            first = span[0] % _LARGE
            read = stream[first : span[-1] % _LARGE + 1]
            if len(span) == len(read) and list(span) == list(places):
                return read
            found.update((place, read[place % _LARGE - first]) for place in span)
        return [found[place] for place in places]


def _digest(part: bytes) -> bytes:
    return hashlib.sha256(part).digest()[:16]


def _unchanged(before: Split | None, items: Sequence[Any]) -> tuple[int, bytes | None]:
    """How many parts of what came before are the beginning of `items`, and the hash of the outline
    of all items."""
    count = before.length if before and before.ends and before.outline else 0
    head, tail = values.outline(items[:count]), values.outline(items[count:])
    if head is None:
        return 0, None
    hashed = hashlib.sha256(head)
    is_same = before is not None and count > 0 and hashed.digest() == before.outline
    stable = _whole(before) if before and is_same else 0
    if tail is None:
        return stable, None
    hashed.update(tail)
    return stable, hashed.digest()


def _whole(before: Split) -> int:
    """How many of the parts of a value stay as they are when children follow."""
    ends = before.ends or ()
    stable = len(ends) - before.is_open
    # A part within a child has no end of its own, and goes with the last one of that child.
    while stable and ends[stable - 1] == (ends[stable - 2] if stable > 1 else 0):
        stable -= 1
    return stable


def _grouped(children: Iterable[Sequence[bytes]], begin: int) -> Iterable[tuple[bytes, int]]:
    """Parts, and how many children lie in each and those before. Short children share a part; the
    pieces of one that is split do so among themselves, but for the first, which holds its length
    and so changes most. The first child is number `begin`."""
    part, end = b"", begin
    for number, pieces in enumerate(children, begin):
        is_split = len(pieces) > 1
        if is_split:
            if part:
                yield part, end
            yield pieces[0], number
            part, pieces, end = b"", pieces[1:], number
        for at, piece in enumerate(pieces, 1):
            part += piece
            end = number + (at == len(pieces))
            if len(part) >= _PART_BYTES_MIN or (is_split and at == len(pieces)):
                yield part, end
                part = b""
    if part:
        yield part, end


def common(before: Sequence[int], places: Sequence[int]) -> int:
    """How many places both begin with."""
    pairs = enumerate(zip(before, places, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(before), len(places)))


def _spans(places: Sequence[int]) -> Iterable[Sequence[int]]:
    """Rising places, cut where what lies between is not worth reading."""
    begin = 0
    for at in range(1, len(places) + 1):
        if at == len(places) or places[at] - places[at - 1] > _GAP_MAX:
            yield places[begin:at]
            begin = at
