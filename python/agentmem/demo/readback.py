"""What is read back at the end, and compared with what was put."""

import hashlib
import random
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

ONE_IN: Final = 100
_HASH_BYTES: Final = 16


class Sampled(NamedTuple):
    """A message to be read back, and the hash of what was put."""

    conversation: int
    position: int
    hash: bytes


def message_hash(message: bytes | memoryview) -> bytes:
    """What is remembered of a message."""
    return hashlib.blake2b(message, digest_size=_HASH_BYTES).digest()


class Samples:
    """One of every hundred messages of an agent in the order of writing, chosen by a seed.

    Only places and hashes are kept, in flat arrays: 24 bytes for each.
    """

    def __init__(self, seed: int | str) -> None:
        self.seen = 0
        """Messages offered so far."""
        self._chance = random.Random(seed)
        self._next = self._chance.randrange(ONE_IN)
        self._places = array("I")
        self._hashes = bytearray()

    def offer(self, conversation: int, first_index: int, messages: Sequence[bytes]) -> None:
        """Look at the next messages, which follow each other in a conversation."""
        while self._next < self.seen + len(messages):
            offset = self._next - self.seen
            self._places.extend((conversation, first_index + offset))
            self._hashes += message_hash(messages[offset])
            self._next += ONE_IN - self._next % ONE_IN + self._chance.randrange(ONE_IN)
        self.seen += len(messages)

    def digest(self) -> bytes:
        """A hash of everything that was chosen."""
        return hashlib.sha256(self._places.tobytes() + self._hashes).digest()

    def by_conversation(self) -> Iterator[Sampled]:
        """All that were chosen, those of a conversation together and in order."""
        places = self._places
        chosen = sorted((places[2 * n], places[2 * n + 1], n) for n in range(len(self)))
        for conversation, index, n in chosen:
            kept = bytes(self._hashes[n * _HASH_BYTES : (n + 1) * _HASH_BYTES])
            yield Sampled(conversation, index, kept)

    def __len__(self) -> int:
        return len(self._places) // 2
