"""What a zygote, its spare child and who asks them say to each other: texts, as a command line is
passed on, and descriptors. The sockets are those that keep messages apart (SOCK_SEQPACKET)."""

import errno
import os
import socket
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress

from agentmem import control
from agentmem.errors import AgentMemError, InvalidArgument, Io, Unreachable

VERSION = "2"
"""Of all that is said."""
MESSAGE_BYTES_MAX = 4 << 20
"""Of arguments, and of an environment; execve allows about as much."""
DESCRIPTORS_MAX = 7
_INLINE_BYTES_MAX = 4 << 10
_ANCILLARY_BYTES_MAX = socket.CMSG_LEN(DESCRIPTORS_MAX * array("i").itemsize)
# Instead of a message that is longer, which is in the last descriptor then.
_IN_FILE = b"\n"
_OK, _ERROR = "ok", "error"
_FULL_TRIES = 100
_FULL_PAUSE_S = 0.01


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a socket that keeps messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encoded(*texts: str) -> bytes:
    """What says them, with a NUL between two.

    Raises:
        InvalidArgument: They cannot be said, or take too long.
    """
    text = "\0".join(texts)
    if text.count("\0") >= max(len(texts), 1):
        raise InvalidArgument("a NUL cannot be passed on to a child; leave it out")
    message = text.encode("utf-8", "surrogatepass")
    if len(message) > MESSAGE_BYTES_MAX:
        raise InvalidArgument(
            f"arguments take {len(message)} bytes, and a child is given {MESSAGE_BYTES_MAX} at"
            " most: pass a file"
        )
    return message


def decoded(message: bytes) -> list[str]:
    """The texts, one at least.

    Raises:
        ValueError: This says none.
    """
    return message.decode("utf-8", "surrogatepass").split("\0")


def send(
    connection: socket.socket, message: bytes, descriptors: Sequence[int] = (), flags: int = 0
) -> None:
    """Send one message; the descriptors stay open here.

    Raises:
        BlockingIOError: There is no room for it now, and it is not waited for.
        OSError: It cannot be sent.
    """
    if len(message) <= _INLINE_BYTES_MAX:
        _send(connection, message, descriptors, flags)
        return
    file = file_of("message", message)
    try:
        _send(connection, _IN_FILE, [*descriptors, file], flags)
    finally:
        os.close(file)


def _send(
    connection: socket.socket, message: bytes, descriptors: Sequence[int], flags: int
) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
    for tries_left in reversed(range(_FULL_TRIES)):
        try:
            connection.sendmsg([message], rights if descriptors else [], flags)
            return
        except OSError as error:
            # So many descriptors of this user are on their way, over whatever socket.
            if error.errno != errno.ETOOMANYREFS or not tries_left:
                raise
        time.sleep(_FULL_PAUSE_S)


def receive(connection: socket.socket, flags: int = 0) -> tuple[list[str], list[int]]:
    """The texts of the next message, and descriptors that came with it, which are the caller's to
    close, and close when it executes another program.

    Raises:
        EOFError: The other side hung up.
        ValueError: This is no message, or too long.
        OSError: The connection broke, or has nothing now where it is not waited for.
    """
    # Not `socket.recv_fds`, which in many versions of Python passes no flags on.
    message, ancillary, told, _ = connection.recvmsg(
        _INLINE_BYTES_MAX, _ANCILLARY_BYTES_MAX, flags | socket.MSG_CMSG_CLOEXEC
    )
    numbers = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    descriptors = numbers.tolist()
    try:
        if not message and not descriptors:
            raise EOFError("hung up")
        if told & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            raise ValueError("too long, or too many descriptors")
        if message == _IN_FILE and descriptors:
            file = descriptors.pop()
            try:
                message = content(file)
            finally:
                os.close(file)
        return decoded(message), descriptors
    except BaseException:
        close(descriptors)
        raise


def close(descriptors: list[int]) -> None:
    """Close all of them."""
    while descriptors:
        os.close(descriptors.pop())


def file_of(name: str, data: bytes) -> int:
    """A file in memory that holds `data`."""
    file = os.memfd_create(name)
    try:
        written = 0
        while written < len(data):
            written += os.write(file, data[written:])
    except BaseException:
        os.close(file)
        raise
    return file


def content(file: int) -> bytes:
    """What such a file holds.

    Raises:
        ValueError: It is too long.
        OSError: It cannot be read.
    """
    wanted = os.fstat(file).st_size
    if wanted > MESSAGE_BYTES_MAX:
        raise ValueError(f"more than {MESSAGE_BYTES_MAX} bytes")
    return os.pread(file, wanted, 0)


def reply(to: int, *texts: str, descriptors: Sequence[int] = ()) -> bool:
    """Whether it could be said that something is done, and `texts`, over the descriptor `to`, which
    may be anything. Who does not read is not waited for."""
    return _reply(to, success(*texts), descriptors)


def refuse(to: int, error: AgentMemError) -> bool:
    """Whether it could be said that nothing is done; `error` is raised where it was asked for."""
    return _reply(to, failure(error), ())


def success(*texts: str) -> list[str]:
    """The answer that something is done."""
    return [_OK, *texts]


def failure(error: AgentMemError) -> list[str]:
    """The answer that has an error raised where it was asked."""
    return [_ERROR, type(error).__name__, str(error).replace("\0", "?")]


def _reply(to: int, texts: Sequence[str], descriptors: Sequence[int]) -> bool:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, to)
    try:
        send(connection, encoded(*texts), descriptors, socket.MSG_DONTWAIT)
    except OSError:
        return False
    finally:
        connection.detach()
    return True


def ask(connection: socket.socket, whom: str, *texts: str) -> tuple[list[str], list[int]]:
    """The answer to `texts`, once that was done, and the descriptors that came with it.

    Raises:
        Unreachable: `whom` is not there any more.
        Io: It answered with something that cannot be read.
        AgentMemError: What it says, with its class.
    """
    try:
        send(connection, encoded(*texts))
        said, descriptors = receive(connection)
    except BaseException as error:
        # An answer that comes late would be taken for that to the next question.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        if isinstance(error, ValueError):
            raise _unreadable(whom, error) from error
        if isinstance(error, EOFError | OSError):
            raise gone(whom, error) from error
        raise
    return _checked(whom, said, descriptors)


def answer(connection: socket.socket, whom: str) -> tuple[list[str], list[int]]:
    """The same for what was asked already.

    Raises:
        EOFError, OSError: Nobody is there to answer.
    """
    try:
        said, descriptors = receive(connection)
    except ValueError as error:
        raise _unreadable(whom, error) from error
    return _checked(whom, said, descriptors)


def _checked(whom: str, said: list[str], descriptors: list[int]) -> tuple[list[str], list[int]]:
    try:
        return checked(whom, said), descriptors
    except AgentMemError:
        close(descriptors)
        raise


def _unreadable(whom: str, error: Exception) -> Io:
    return Io(f"{whom} answered with nothing that can be read: {error}")


def checked(whom: str, answer: list[str]) -> list[str]:
    """What `whom` says beside that it is done.

    Raises:
        AgentMemError: What it says, with its class.
    """
    if answer[0] == _OK:
        return answer[1:]
    raise control.said(whom, dict(zip(("error", "text"), answer[1:], strict=False)))


def gone(whom: str, error: Exception) -> Unreachable:
    """The error that says so."""
    return Unreachable(f"{whom} is not there any more ({error}); start it again")
