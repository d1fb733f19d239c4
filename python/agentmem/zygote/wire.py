"""What a zygote and who asks it say to each other: a JSON object a line, with descriptors."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Self

from agentmem import control
from agentmem.errors import InvalidArgument, Io, Unreachable

REQUEST_BYTES_MAX = 4 << 20
"""Arguments and environment together; execve allows about as much."""
DESCRIPTORS_MAX = 4
_BLOCK_BYTES = 64 << 10


class Line:
    """A line on its way in, with the descriptors that came along.

    Attributes:
        received: what has arrived of it.
        descriptors: to be closed with this, unless somebody takes them out.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.descriptors: list[int] = []

    def receive(self, connection: socket.socket) -> dict[str, Any] | None:
        """Take in what has arrived; the object, once it is whole.

        Raises:
            EOFError: The other side hung up.
            ValueError: This is no object, or too long.
            OSError: The connection broke, or has nothing now where it does not block.
        """
        block, descriptors, flags, _ = socket.recv_fds(connection, _BLOCK_BYTES, DESCRIPTORS_MAX)
        self.descriptors += descriptors
        if not block:
            raise EOFError("hung up")
        self.received += block
        if flags & socket.MSG_CTRUNC or len(self.descriptors) > DESCRIPTORS_MAX:
            raise ValueError("too many descriptors")
        if len(self.received) > REQUEST_BYTES_MAX:
            raise ValueError(f"more than {REQUEST_BYTES_MAX} bytes")
        if not self.received.endswith(b"\n"):
            return None
        try:
            found = json.loads(self.received)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def encoded(message: Mapping[str, Any]) -> bytes:
    """The line that says `message`."""
    # ASCII alone: what is no UTF-8 is escaped as a lone surrogate, and comes back as that.
    return json.dumps(message).encode() + b"\n"


def send(
    connection: socket.socket, line: bytes | bytearray, descriptors: Sequence[int] = ()
) -> None:
    """Send one line; the descriptors stay open here."""
    sent = socket.send_fds(connection, [line], descriptors) if descriptors else 0
    if sent < len(line):
        connection.sendall(line[sent:])


def ask(
    connection: socket.socket,
    whom: str,
    request: Mapping[str, Any],
    descriptors: Sequence[int] = (),
) -> tuple[dict[str, Any], list[int]]:
    """The answer to `request`, once it says `ok`, and the descriptors that came with it.

    Raises:
        InvalidArgument: It is too long.
        Unreachable: `whom` is not there any more.
        Io: It answered with something that cannot be read.
        AgentMemError: What it says, with its class.
    """
    asked = encoded(request)
    if len(asked) > REQUEST_BYTES_MAX:
        raise InvalidArgument(
            f"arguments and environment take {len(asked)} bytes, and {whom} takes"
            f" {REQUEST_BYTES_MAX} at most: pass a file"
        )
    with Line() as line:
        try:
            send(connection, asked, descriptors)
            answer = None
            while answer is None:
                answer = line.receive(connection)
        except ValueError as error:
            raise Io(f"{whom} answered with nothing that can be read: {error}") from error
        except (EOFError, OSError) as error:
            raise Unreachable(f"{whom} is not there any more ({error}); start it again") from error
        if answer.get("ok") is not True:
            raise control.said(whom, answer)
        taken, line.descriptors = line.descriptors, []
        return answer, taken
