"""What is stored more than once in transcripts as agents write them."""

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

LARGE_TEXT_BYTES = 1024


class Duplicates:
    """Counts what comes again, in one pass over messages.

    Attributes:
        messages: Messages that an earlier conversation has, byte for byte: forks, resumes,
            snapshots.
        message_bytes: The bytes of these.
        text_bytes: Bytes of large texts that come more than once within one message, as the output
            of a tool does in a record for the model and again in one for display. Messages that
            are counted above are not counted here.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.message_bytes = 0
        self.text_bytes = 0
        self._first_seen_in: dict[int, int] = {}

    def add(self, conversation: int, message: bytes) -> None:
        """Count one message of the conversation with that number."""
        # 64 bits are enough to count with, and take a third of the memory of the whole digest.
        key = int.from_bytes(blake2b(message, digest_size=8).digest())
        if self._first_seen_in.setdefault(key, conversation) != conversation:
            self.messages += 1
            self.message_bytes += len(message)
        else:
            self.text_bytes += repeated_text_bytes(message)


def repeated_text_bytes(message: bytes) -> int:
    """Bytes of large texts in a JSON message that an earlier place in it holds too."""
    if len(message) < 2 * LARGE_TEXT_BYTES:
        return 0
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return 0
    seen: set[str] = set()
    repeated = 0
    for text in _large_texts(value):
        if text in seen:
            repeated += len(text.encode(errors="surrogatepass"))
        seen.add(text)
    return repeated


def _large_texts(value: Any) -> Iterator[str]:
    """The strings anywhere in `value` that are at least `LARGE_TEXT_BYTES` long."""
    pending = [value]
    while pending:
        match pending.pop():
            case str() as text if len(text) >= LARGE_TEXT_BYTES:
                yield text
            case dict() as members:
                pending.extend(members.values())
            case list() as items:
                pending.extend(items)
