"""What the writer tells the store's process: frames over a pipe."""

import struct
from array import array
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import IO, Final, NamedTuple


class Kind(IntEnum):
    """What a frame says."""

    PROMPT = 1
    """The system prompt of all agents."""
    TOOLS = 2
    """The tool definitions of all agents."""
    WAKE = 3
    """An agent has something to do."""
    WRITE = 4
    """An agent goes on with a conversation."""
    IDLE = 5
    """An agent has nothing to do."""
    PAUSE = 6
    """An agent was stopped."""
    REPORT = 7
    """All is written; figures of the writer, as JSON."""
    FAILED = 8
    """The writer cannot go on; why, as text."""


class Frame(NamedTuple):
    """One frame; what does not apply to its kind is 0 or empty."""

    kind: Kind
    agent: int = 0
    conversation: int = 0
    messages: Sequence[bytes] = ()


# Kind, agent, conversation, number of messages; the length of each message and the messages follow.
_HEADER: Final = struct.Struct("<BIII")
_LENGTH: Final = "I"


def write(stream: IO[bytes], frame: Frame) -> None:
    """Send one frame."""
    header = _HEADER.pack(frame.kind, frame.agent, frame.conversation, len(frame.messages))
    lengths = array(_LENGTH, map(len, frame.messages))
    stream.write(b"".join([header, lengths.tobytes(), *frame.messages]))


def read(stream: IO[bytes]) -> Iterator[Frame]:
    """All frames until the other end closes.

    Raises:
        EOFError: The stream ends within a frame.
    """
    while header := stream.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise EOFError("the stream ends within a frame")
        kind, agent, conversation, count = _HEADER.unpack(header)
        lengths = array(_LENGTH, _exactly(stream, count * array(_LENGTH).itemsize))
        yield Frame(Kind(kind), agent, conversation, _messages(stream, lengths))


def _messages(stream: IO[bytes], lengths: "array[int]") -> list[bytes]:
    if len(lengths) == 1:
        return [_exactly(stream, lengths[0])]
    body, messages, at = _exactly(stream, sum(lengths)), [], 0
    for length in lengths:
        messages.append(body[at : at + length])
        at += length
    return messages


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("the stream ends within a frame")
    return data
