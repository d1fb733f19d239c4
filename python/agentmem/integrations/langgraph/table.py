"""Tables: texts to bytes, with times at which they expire, in an agent's log.

A message of the log is a row `[key, value, expires]`, where a value of nil deletes; a new time for
one `[key, expires]`; or `[title]`, what the table is called where that is too long for the name of
its agent. When more of the log is over than counts, it is written anew (streams.py).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import ormsgpack

import agentmem
from agentmem.integrations.langgraph.streams import LOG, Streams

_OVER_MIN = 64


class Place(NamedTuple):
    """Where a row is, and when it expires, in Unix seconds."""

    message: int
    expires_s: float | None

    def is_over(self, now_s: float) -> bool:
        """Whether it has expired."""
        return self.expires_s is not None and self.expires_s <= now_s


class KnownTable:
    """What a process remembers of a table between turns: nothing that it could not read again."""

    def __init__(self) -> None:
        self.forget(0)

    def forget(self, generation: int) -> None:
        """Begin anew, for a generation of which nothing is known."""
        self.generation = generation
        self.messages = 0
        self.title: str | None = None
        self.places: dict[str, Place] = {}

    def note(self, content: bytes) -> None:
        """The next message of the log."""
        match ormsgpack.unpackb(content):
            case [title]:
                self.title = title
            case [key, expires_s]:
                self.places[key] = self.places[key]._replace(expires_s=expires_s)
            case [key, None, _]:
                self.places.pop(key, None)
            case [key, _, expires_s]:
                self.places[key] = Place(self.messages, expires_s)
        self.messages += 1


class Table:
    """A table, while its agent belongs to the caller.

    Args:
        agent: its agent.
        known: what is remembered of it; brought up to date.
        title: what it is called, where that must be written down.
    """

    def __init__(self, agent: agentmem.Agent, known: KnownTable, title: str | None = None) -> None:
        self._agent = agent
        self._known = known
        self._title = title
        self._streams = Streams(agent)
        is_behind = known.generation != self._streams.generation
        if self._streams.is_new or is_behind or len(self._streams[LOG]) < known.messages:
            known.forget(self._streams.generation)
        if not self._streams.is_new:
            for content in self._streams[LOG][known.messages :]:
                known.note(content)

    @property
    def title(self) -> str | None:
        """What it is called, if that is written down."""
        return self._known.title

    def __contains__(self, key: str) -> bool:
        return key in self._known.places

    def expires_s(self, key: str) -> float | None:
        """When a row expires that is there."""
        return self._known.places[key].expires_s

    def get(self, key: str, now_s: float) -> bytes | None:
        """The value of a key that has not expired."""
        place = self._known.places.get(key)
        return None if place is None or place.is_over(now_s) else self._read(place)

    def some(self, keys: Iterable[str], now_s: float) -> Iterator[tuple[str, bytes]]:
        """Those of some rows that are there and have not expired."""
        for key in keys:
            value = self.get(key, now_s)
            if value is not None:
                yield key, value

    def items(self, now_s: float) -> Iterator[tuple[str, bytes]]:
        """Rows that have not expired, in the order in which their keys came."""
        for key, place in self._known.places.items():
            if not place.is_over(now_s):
                yield key, self._read(place)

    def _read(self, place: Place) -> bytes:
        value: bytes = ormsgpack.unpackb(self._streams[LOG].raw(place.message))[1]
        return value

    def put(self, key: str, value: bytes, expires_s: float | None) -> None:
        """Set the value of a key."""
        if not self._known.messages and self._title is not None:
            self._append(self._title)
        self._append(key, value, expires_s)

    def refresh(self, key: str, expires_s: float) -> None:
        """Let a row that is there expire at another time."""
        self._append(key, expires_s)

    def delete(self, key: str) -> None:
        """Take a key out, if it is there."""
        if key in self._known.places:
            self._append(key, None, None)

    def _append(self, *fields: str | bytes | float | None) -> None:
        content = ormsgpack.packb(fields)
        self._streams[LOG].append(content)
        self._known.note(content)

    def tidy(self, now_s: float) -> int:
        """Take out what has expired, and write the rest anew if that is worth it. It cannot be used
        any more in this turn. Returns how many rows had expired."""
        over = [key for key, place in self._known.places.items() if place.is_over(now_s)]
        for key in over:
            self.delete(key)
        living = len(self._known.places)
        if not living:
            self._agent.close()
        elif self._known.messages - living > max(living, _OVER_MIN):
            streams = self._streams.next()
            if self._known.title is not None:
                streams[LOG].append(ormsgpack.packb([self._known.title]))
            for key, place in self._known.places.items():
                row = [key, self._read(place), place.expires_s]
                streams[LOG].append(ormsgpack.packb(row))
            streams.finish()
        return len(over)
