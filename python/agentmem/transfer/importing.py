"""Importing: one conversation after the other, told as it goes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import agentmem
from agentmem.errors import InvalidArgument, NameTaken, Unsupported
from agentmem.transfer.sources import Source
from agentmem.turn import turn


@dataclass
class Imported:
    """What has been imported so far.

    Attributes:
        conversations: How many there are, and `conversation_bytes`, theirs.
        done: Of these, the ones that are in the store, and `done_bytes`, theirs.
        added: Of these, the ones that were not there, or not whole, and `added_bytes`, what was
            not there.
        failed: Those that could not be imported, each with the reason.
    """

    conversations: int
    conversation_bytes: int
    done: int = 0
    done_bytes: int = 0
    added: int = 0
    added_bytes: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def of(cls, sources: Sequence[Source]) -> Self:
        """Before anything is done."""
        return cls(len(sources), sum(source.size_bytes for source in sources))


def import_all(store: agentmem.Store, sources: Sequence[Source]) -> Iterator[Imported]:
    """Bring `sources` into `store`; yields the same object after each, and when all is durable.

    It can be interrupted anywhere, and done again: what is in is then only compared.

    Raises:
        OutOfMemory: The store is full; what is in stays.
    """
    start = time.monotonic()
    found = Imported.of(sources)
    for source in sources:
        try:
            added_bytes = _import(store, source)
        except (OSError, UnicodeError, InvalidArgument, NameTaken) as error:
            found.failed.append(f"{source.name}: {error}")
        else:
            found.done += 1
            found.done_bytes += source.size_bytes
            found.added += added_bytes > 0
            found.added_bytes += added_bytes
        found.seconds = time.monotonic() - start
        yield found
    with suppress(Unsupported):  # without a cold tier nothing becomes durable
        store.flush()
    found.seconds = time.monotonic() - start
    yield found


def _import(store: agentmem.Store, source: Source) -> int:
    with turn(store, source.agent_name) as agent:
        added_bytes = source.copy(agent, source.conversation)
        if added_bytes:
            # Nothing follows, so it can be compressed at once.
            agent.advise(agent.conversation(source.conversation), "cold")
    return added_bytes
