"""What the processes of the demonstration tell each other: frames over sockets and a pipe.

An agent's process reads frames from its socket and does what they say; that is all that one in
another language has to do. It answers over the pipe that all of them share, and one that
holds what is the same for all with a byte over the socket, once it has no copy of its own any more:
so agents start one after another, and not all of them hold all of it at once.
"""

import io
import json
import os
import select
import socket
import struct
from array import array
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import IO, Any, Final, NamedTuple

from agentmem.errors import AgentMemError, Io


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
    READ_BACK = 7
    """All is written: an agent compares what it holds with what it was given."""
    STAGE = 8
    """One of the processes that are there, where the daemon listens, or what an embedded store says
    of itself in the end, as JSON."""
    STATE = 9
    """What an agent has done so far, as JSON."""
    REPORT = 10
    """All is written; figures of the writer, as JSON."""
    FAILED = 11
    """A process cannot go on; the name of the error, and what it says."""


FOR_ALL: Final = (Kind.PROMPT, Kind.TOOLS)
"""What every agent is given, and answers."""

TAKEN: Final = b"."
"""The answer."""


class Frame(NamedTuple):
    """One frame; what does not apply to its kind is 0 or empty."""

    kind: Kind
    agent: int = 0
    conversation: int = 0
    messages: Sequence[bytes] = ()


# Kind, agent, conversation, number of messages; the length of each message and the messages follow.
_HEADER: Final = struct.Struct("<BIII")
_LENGTH: Final = "I"
# Of an error's text: so that the frame around it fits into PIPE_BUF.
_TEXT_BYTES_MAX: Final = 2048


def write(stream: IO[bytes], frame: Frame) -> None:
    """Send one frame."""
    header = _HEADER.pack(frame.kind, frame.agent, frame.conversation, len(frame.messages))
    lengths = array(_LENGTH, map(len, frame.messages))
    stream.write(b"".join([header, lengths.tobytes(), *frame.messages]))


def tell(pipe: int, frame: Frame) -> None:
    """Send one short frame over a pipe that others write to as well.

    What is no longer than PIPE_BUF gets through whole.
    """
    stream = io.BytesIO()
    write(stream, frame)
    data = stream.getvalue()
    assert len(data) <= select.PIPE_BUF, f"{len(data)} bytes at once"
    os.write(pipe, data)


def tell_json(pipe: int, kind: Kind, value: dict[str, Any], agent: int = 0) -> None:
    """The same of a frame that holds JSON."""
    tell(pipe, Frame(kind, agent, messages=[json.dumps(value).encode()]))


def failure(error: AgentMemError) -> Frame:
    """The frame that says why a process cannot go on."""
    text = str(error).encode()[:_TEXT_BYTES_MAX]
    return Frame(Kind.FAILED, messages=[type(error).__name__.encode(), text])


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


def await_taken(feed: socket.socket, agent: int) -> None:
    """Wait until an agent has what it was given for all.

    Raises:
        Io: It hung up instead.
    """
    if feed.recv(len(TAKEN)) != TAKEN:
        raise Io(f"agent {agent} hung up before it took what all agents are given")


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
